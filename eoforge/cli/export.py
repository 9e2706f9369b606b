"""``eoforge export``: patches and predictions to formats of other tools; and hits of a search to GeoParquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from eoforge.cli.output import Json, emit, say


def export(
    table: Annotated[str, typer.Argument(help="TABLE or TABLE@VERSION with patches or predictions.")],
    out: Annotated[str, typer.Argument(help="Local path that does not exist yet: a folder, or a .parquet file.")],
    format: Annotated[str, typer.Option(help="reben, lmdb, cog, geoparquet or stac; predictions: cog.")],
    mosaic: Annotated[bool, typer.Option("--mosaic", help="With cog: one file per product and native grid.")] = False,
    json: Json = False,
) -> None:
    """Write a table for other tools: patches for torchgeo, ConfigILM, QGIS, STAC; maps of predictions as mosaics."""
    from eoforge.data.export.run import export as run
    from eoforge.index.prediction_maps import export_predictions, is_predictions
    from eoforge.storage.addresses import TableRef, open_table

    source = TableRef.parse(table)
    if is_predictions(open_table(source)):
        emit(export_predictions(source, out, format), title="exported")
    else:
        emit(run(source, out, format, mosaic=mosaic), title="exported")


def export_hits(hits: Sequence[Mapping[str, Any]], out: str) -> None:
    """GeoParquet of the hits of a search: rank in their query, distance, metadata, footprint, window of the image.

    Raises:
        UsageError: ``out`` exists already or is no local path.
    """
    from eoforge.data.export.folder import new_path
    from eoforge.data.export.hits import write_hits

    with new_path(out) as path:
        withheld = write_hits(hits, path)
    if withheld:
        say(f"{withheld} of {len(hits)} hits are not exported: their owners withhold the footprint")
