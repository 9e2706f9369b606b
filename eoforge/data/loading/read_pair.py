"""Reader of one patch of a table by name, for notebooks and images; training reads batches (``loader``)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eoforge.data.archives.metadata import METADATA
from eoforge.data.bands import GROUPS
from eoforge.data.records import PatchMeta, PatchPair
from eoforge.data.tables.schema import sql_list, tensor_column
from eoforge.errors import NotFound
from eoforge.geo.footprint import Footprint
from eoforge.storage.addresses import TableRef, open_table

_CORNER = ["epsg", "ulx", "uly"]


def read_pair(table: TableRef | str, patch_id: str) -> PatchPair:
    """Patch as ingested: metadata and pixels, None for what it lacks.

    Args:
        table: A patches table, optionally at a version.
        patch_id: Name of the patch.

    Raises:
        NotFound: The table or the patch does not exist.
    """
    rasters = [*(group.column for group in GROUPS), "reference_map"]
    columns = [*METADATA.names, *_CORNER, *rasters]
    rows = open_table(table).to_table(columns=columns, filter=f"patch_id = {sql_list([patch_id])}")
    if not rows.num_rows:
        raise NotFound(f"no patch {patch_id!r} in {table}; the column patch_id lists the patches")
    (row,) = rows.select(METADATA.names).to_pylist()
    arrays: dict[str, Any] = {}
    for name in rasters:
        values, valid = tensor_column(rows[name])
        arrays[name] = values[0] if valid[0] else None
    row["labels"] = None if row["labels"] is None else tuple(row["labels"])
    meta = PatchMeta(**row)
    (place,) = rows.select(_CORNER).to_pylist()
    corner = Footprint(**place)
    return PatchPair(meta=meta if meta.names.footprint == corner else replace(meta, corner=corner), **arrays)
