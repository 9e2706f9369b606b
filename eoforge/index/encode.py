"""Encoding of the patches of a table, with read-ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eoforge.data.loading.batch import PatchBatch, read_rows
from eoforge.data.tables.schema import ACQUIRED
from eoforge.index.encoder import Encoder

if TYPE_CHECKING:
    import lance

ENCODE_ROWS = 64
"""Patches per batch: 20 MB of pixels, twice that with the batch that is read ahead."""


@dataclass(frozen=True)
class EncodedRows:
    """Encoded batch of patches.

    Attributes:
        patches: Number of patches ``B``.
        columns: Requested extra columns by modality, one value per patch that has the sensor.
        outputs: Packed codes ``[b, K/8]`` and embeddings ``[b, D]`` by modality, ``b <= B``; modalities that no patch
            of the batch has are left out.
    """

    patches: int
    columns: dict[str, dict[str, pa.Array]]
    outputs: dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]]


def encode_rows(
    patches: lance.LanceDataset, rows: npt.NDArray[np.int64], encoder: Encoder, columns: tuple[str, ...] = ()
) -> Iterator[EncodedRows]:
    """Encoded batches of rows (ascending positions) in all modalities; the next batch is read meanwhile."""
    parts = [rows[start : start + ENCODE_ROWS] for start in range(0, len(rows), ENCODE_ROWS)]

    def read(part: npt.NDArray[np.int64]) -> tuple[int, dict[str, PatchBatch], dict[str, dict[str, pa.Array]]]:
        return len(part), *read_present(patches, part, encoder.modalities, columns)

    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(read, parts[0]) if parts else None
        for next_part in [*parts[1:], None]:
            if pending is None:
                return
            count, batches, values = pending.result()
            pending = None if next_part is None else reader.submit(read, next_part)
            yield EncodedRows(count, values, {m: encoder.encode(batch, m) for m, batch in batches.items()})


def read_present(
    patches: lance.LanceDataset, rows: npt.NDArray[np.int64], modalities: Sequence[str], columns: Sequence[str] = ()
) -> tuple[dict[str, PatchBatch], dict[str, dict[str, pa.Array]]]:
    """Batch, and extra columns, by modality of the rows that have it; one batch serves all if every row has all."""
    extra = patches.take(rows, columns=[*columns, *(ACQUIRED[m] for m in modalities)])
    present = {m: extra.column(ACQUIRED[m]).is_valid().to_numpy() for m in modalities}
    values = {
        m: {name: extra.column(name).combine_chunks().filter(pa.array(mask)) for name in columns}
        for m, mask in present.items()
        if mask.any()
    }
    if all(mask.all() for mask in present.values()):
        whole = read_rows(patches, rows, tuple(modalities), reference_map=False)
        return dict.fromkeys(modalities, whole), values
    return {m: read_rows(patches, rows[present[m]], (m,), reference_map=False) for m in values}, values
