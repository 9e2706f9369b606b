"""Encoding of the patches of a table, with read-ahead."""

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
"""Patches per batch: 20 MB of pixels, twice that with the batch that is read ahead."""


@dataclass(frozen=True)
class EncodedRows:
    """Encoded batch of patches.

    Attributes:
        columns: Requested extra columns, one value per patch.
        outputs: Packed codes ``[B, K/8]`` and embeddings ``[B, D]`` by modality.
    """

    columns: dict[str, pa.Array]
    outputs: dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]]


def encode_rows(
    patches: lance.LanceDataset, rows: npt.NDArray[np.int64], encoder: Encoder, columns: tuple[str, ...] = ()
) -> Iterator[EncodedRows]:
    """Encoded batches of rows (ascending positions) in all modalities; the next batch is read meanwhile."""
    parts = [rows[start : start + ENCODE_ROWS] for start in range(0, len(rows), ENCODE_ROWS)]

    def read(part: npt.NDArray[np.int64]) -> tuple[PatchBatch, dict[str, pa.Array]]:
        extra = patches.take(part, columns=list(columns)) if columns else None
        values = {name: extra.column(name).combine_chunks() for name in columns} if extra else {}
        return read_rows(patches, part, encoder.modalities, reference_map=False), values

    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(read, parts[0]) if parts else None
        for next_part in [*parts[1:], None]:
            if pending is None:
                return
            batch, values = pending.result()
            pending = None if next_part is None else reader.submit(read, next_part)
            yield EncodedRows(values, {modality: encoder.encode(batch, modality) for modality in encoder.modalities})
