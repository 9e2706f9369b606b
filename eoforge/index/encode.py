"""Patches of a table through an encoder, reading ahead."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eoforge.data.loading.batch import PatchBatch, read_rows
from eoforge.index.encoder import Encoder

if TYPE_CHECKING:
    import lance

ENCODE_ROWS = 64
"""Patches read and encoded at once: 20 MB of pixels, twice that with the batch read ahead."""


@dataclass(frozen=True)
class EncodedRows:
    """One batch of patches.

    Attributes:
        columns: The extra columns asked for, one value per patch.
        outputs: Modality to packed codes ``[B, K/8]`` and embeddings ``[B, D]``.
    """

    columns: dict[str, pa.Array]
    outputs: dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]]


def encode_rows(
    patches: lance.LanceDataset, rows: npt.NDArray[np.int64], encoder: Encoder, columns: tuple[str, ...] = ()
) -> Iterator[EncodedRows]:
    """Encodes rows (ascending positions) in all modalities of the encoder; the next batch is read meanwhile."""
    parts = [rows[start : start + ENCODE_ROWS] for start in range(0, len(rows), ENCODE_ROWS)]

    def read(part: npt.NDArray[np.int64]) -> tuple[PatchBatch, dict[str, pa.Array]]:
        extra = patches.take(part, columns=list(columns)) if columns else None
        values = {name: extra.column(name).combine_chunks() for name in columns} if extra else {}
        return read_rows(patches, part, encoder.modalities, reference_map=False), values

    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, parts[0]) if parts else None
        for following in [*parts[1:], None]:
            if coming is None:
                return
            batch, values = coming.result()
            coming = None if following is None else reader.submit(read, following)
            yield EncodedRows(values, {modality: encoder.encode(batch, modality) for modality in encoder.modalities})
