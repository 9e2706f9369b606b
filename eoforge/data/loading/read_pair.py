"""Reader of patches of a table with all their data, for notebooks and exports; training reads batches (``loader``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eoforge.data.archives.metadata import METADATA
from eoforge.data.bands import GROUPS
from eoforge.data.records import PatchMeta, PatchPair
from eoforge.data.tables.schema import sql_list, tensor_column
from eoforge.errors import NotFound
from eoforge.geo.footprint import Footprint
from eoforge.storage.addresses import TableRef, open_table

_CORNER = ["epsg", "ulx", "uly"]
_RASTERS = (*(group.column for group in GROUPS), "reference_map")
COLUMNS = (*METADATA.names, *_CORNER, *_RASTERS)
"""Columns that make a patch."""
_BATCH = 32


def read_pair(table: TableRef | str, patch_id: str) -> PatchPair:
    """Patch as ingested: metadata and pixels, None for what it lacks.

    Args:
        table: A patches table, optionally at a version.
        patch_id: Name of the patch.

    Raises:
        NotFound: The table or the patch does not exist.
    """
    rows = open_table(table).to_table(columns=list(COLUMNS), filter=f"patch_id = {sql_list([patch_id])}")
    if not rows.num_rows:
        raise NotFound(f"no patch {patch_id!r} in {table}; the column patch_id lists the patches")
    return next(pairs_of(rows))


def read_pairs(table: TableRef | str) -> Iterator[PatchPair]:
    """All patches of a table in the order of their names, a few in memory at once.

    Raises:
        NotFound: The table does not exist.
    """
    dataset = open_table(table)
    order = pc.sort_indices(dataset.to_table(columns=["patch_id"])["patch_id"]).to_numpy()
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        back = np.argsort(np.argsort(part))  # Lance reads sorted positions several times faster
        yield from pairs_of(dataset.take(np.sort(part), columns=list(COLUMNS)).take(back))


def pairs_of(rows: pa.Table) -> Iterator[PatchPair]:
    """Patches of rows with the columns :data:`COLUMNS`."""
    rasters = {name: tensor_column(rows[name]) for name in _RASTERS}
    places = rows.select(_CORNER).to_pylist()
    for i, row in enumerate(rows.select(METADATA.names).to_pylist()):
        row["labels"] = None if row["labels"] is None else tuple(row["labels"])
        meta, corner = PatchMeta(**row), Footprint(**places[i])
        if meta.names.footprint != corner:
            meta = replace(meta, corner=corner)
        arrays: dict[str, Any] = {name: pixels[i] if valid[i] else None for name, (pixels, valid) in rasters.items()}
        yield PatchPair(meta=meta, **arrays)
