"""Export of a table of patches to a format of other tools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eoforge.data.export import cogs, parquet, reben, stac
from eoforge.data.export.folder import new_path
from eoforge.data.loading.read_pair import read_pairs
from eoforge.data.records import PatchPair
from eoforge.errors import DataRefused, UsageError
from eoforge.progress import track
from eoforge.storage.addresses import TableRef, normalise, open_table

FORMATS = ("reben", "lmdb", "cog", "geoparquet", "stac")


@dataclass(frozen=True)
class ExportSummary:
    """Result of an export: ``without_radar`` and ``unlabelled`` of the ``patches`` lack these."""

    table: str
    version: int
    out: str
    format: str
    patches: int
    without_radar: int
    unlabelled: int


def export(table: TableRef, out: str, format: str, *, mosaic: bool = False) -> ExportSummary:
    """Export of all patches of a table.

    Args:
        table: A patches table; without a version the newest.
        out: A local path that does not exist yet: a folder, or the file of ``geoparquet``.
        format: One of ``FORMATS``.
        mosaic: With ``cog``: one file per product and grid instead of files per patch.

    Raises:
        NotFound: The table does not exist.
        DataRefused: The table is empty, or holds no patches.
        UsageError: The format is unknown, ``out`` exists, or ``mosaic`` belongs to another format.
    """
    if format not in FORMATS:
        raise UsageError(f"format must be one of {', '.join(FORMATS)}; got {format!r}")
    if mosaic and format != "cog":
        raise UsageError(f"mosaics are written by the format cog; got {format}")
    dataset = open_table(table)
    pinned = TableRef(normalise(table.uri), int(dataset.version))
    if "reference_map" not in dataset.schema.names:
        raise DataRefused(f"{pinned} is no table of patches; it has the columns {', '.join(dataset.schema.names)}")
    count = dataset.count_rows()
    if not count:
        raise DataRefused(f"{pinned} has no patches to export")
    with new_path(out) as path:
        if format == "geoparquet":
            parquet.write_patches(pinned, path)
        elif mosaic:
            cogs.write_mosaics(pinned, path)
        elif format == "cog":
            cogs.write_patches(_tracked(pinned, count), path)
        elif format == "stac":
            stac.write_collection(_tracked(pinned, count), path, Path(normalise(out)).name)
        elif format == "lmdb":
            reben.write_lmdb(_tracked(pinned, count), path)
        else:
            reben.write_layout(_tracked(pinned, count), path)
    return ExportSummary(
        pinned.uri,
        int(pinned.version or 0),
        normalise(out),
        format,
        count,
        dataset.count_rows("s1_name IS NULL"),
        dataset.count_rows("label_mask IS NULL"),
    )


def _tracked(table: TableRef, count: int) -> Iterator[PatchPair]:
    with track("exporting patches", count) as progress:
        for pair in read_pairs(table):
            yield pair
            progress.advance()
