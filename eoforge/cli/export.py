"""``eoforge export``: tables of patches to formats of other tools; and hits of a search to GeoParquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from eoforge.cli.output import Json, emit


def export(
    table: Annotated[str, typer.Argument(help="TABLE or TABLE@VERSION with the patches.")],
    out: Annotated[str, typer.Argument(help="Local path that does not exist yet: a folder, or a .parquet file.")],
    format: Annotated[str, typer.Option(help="reben, lmdb, cog, geoparquet or stac.")],
    mosaic: Annotated[bool, typer.Option("--mosaic", help="With cog: one file per product and native grid.")] = False,
    json: Json = False,
) -> None:
    """Write the patches of a table for other tools: torchgeo, ConfigILM, QGIS, STAC."""
    from eoforge.data.export.run import export as run
    from eoforge.storage.addresses import TableRef

    emit(run(TableRef.parse(table), out, format, mosaic=mosaic), title="exported")


def export_hits(hits: Sequence[Mapping[str, Any]], out: str) -> None:
    """GeoParquet of the hits of a search: rank in their query, distance, metadata, footprint, window of the image.

    Raises:
        UsageError: ``out`` exists already or is no local path.
    """
    from eoforge.data.export.folder import new_path
    from eoforge.data.export.hits import write_hits

    with new_path(out) as path:
        write_hits(hits, path)
