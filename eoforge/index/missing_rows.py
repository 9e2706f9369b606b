"""Rows that a table made from patches still needs: of which patches, by their digests and sensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eoforge.data.tables.schema import ACQUIRED
from eoforge.errors import DataRefused

if TYPE_CHECKING:
    import lance

KEYS = ("patch_id", "modality")
"""Columns that name a row; a table without modalities has the first alone."""


def can_have_row(patches: lance.LanceDataset, sensors: Sequence[str], *, every: bool) -> npt.NDArray[np.bool_]:
    """Whether each patch has every one, or any one, of the sensors.

    Raises:
        DataRefused: None of several patches has.
    """
    count = patches.count_rows()
    if not sensors or not count:
        return np.ones(count, dtype=bool)
    times = patches.to_table(columns=[ACQUIRED[sensor] for sensor in sensors])
    has = np.stack([column.is_valid().to_numpy() for column in times.columns])
    found: npt.NDArray[np.bool_] = np.logical_and.reduce(has) if every else np.logical_or.reduce(has)
    if not found.any():
        raise DataRefused(
            f"none of the {count} patches has {(' and ' if every else ' or ').join(sensors)}, which the bundle reads; "
            "choose patches that have them, or another bundle"
        )
    return found


def rows_to_make(
    patches: lance.LanceDataset, table: lance.LanceDataset, modalities: Sequence[str] | None
) -> npt.NDArray[np.int64]:
    """Positions of patches without a row of their present digest in some modality that they have.

    For a table without modalities (None), of patches without a row of their present digest.
    """
    columns = [ACQUIRED[m] for m in modalities or ()]
    wanted = patches.to_table(columns=["patch_id", "digest", *columns]).combine_chunks()
    keys = [key for key in KEYS if key in table.schema.names]
    held = table.to_table(columns=[*keys, "digest"]).combine_chunks()
    if modalities is None:
        return np.flatnonzero(~_held(wanted, held))
    current = np.ones(wanted.num_rows, dtype=bool)
    for modality in modalities:
        part = held.filter(pc.equal(held.column("modality"), modality)).combine_chunks()
        current &= wanted.column(ACQUIRED[modality]).is_null().to_numpy() | _held(wanted, part)
    return np.flatnonzero(~current)


def _held(wanted: pa.Table, held: pa.Table) -> npt.NDArray[np.bool_]:
    """Whether each patch has a row with its present digest."""
    place = pc.index_in(wanted.column("patch_id"), value_set=held.column("patch_id").combine_chunks())
    same = pc.equal(held.column("digest").combine_chunks().take(place.combine_chunks()), wanted.column("digest"))
    found: npt.NDArray[np.bool_] = pc.fill_null(same, False).to_numpy(zero_copy_only=False)
    return found
