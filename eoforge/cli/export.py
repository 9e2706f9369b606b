"""``eoforge export``: tables of patches to formats of other tools; and hits of a search to GeoParquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from eoforge.cli.output import Json, emit, say


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
    import numpy as np
    import pyarrow as pa

    from eoforge.data.export.folder import new_path
    from eoforge.data.export.parquet import write_boxes

    columns: dict[str, pa.DataType] = {
        "rank": pa.int32(),
        "patch_id": pa.string(),
        "modality": pa.string(),
        "distance": pa.int32(),
        "country": pa.string(),
        "split": pa.string(),
        "labels": pa.list_(pa.string()),
        "acquired": pa.timestamp("us", tz="UTC"),
        "epsg": pa.int32(),
    }
    if any("window" in hit for hit in hits):  # an image that was cut into several queries
        columns["window"] = pa.list_(pa.int32())
    if any("owner" in hit for hit in hits):
        columns["owner"] = pa.string()
    seen: Counter[tuple[int, ...]] = Counter()
    rows, shown = [], [hit for hit in hits if hit["footprint"] is not None]
    if len(shown) < len(hits):
        say(f"{len(hits) - len(shown)} of {len(hits)} hits are not exported: their owners withhold the footprint")
    for hit in hits:
        query = tuple(hit.get("window", ()))
        seen[query] += 1
        if hit["footprint"] is None:
            continue
        rows.append({**hit, "rank": seen[query], "labels": list(hit["labels"])})
    table = pa.Table.from_pylist(
        [{k: row[k] for k in columns} for row in rows], schema=pa.schema(list(columns.items()))
    )
    with new_path(out) as path:
        write_boxes(path, table, np.array([hit["footprint"] for hit in shown], dtype=np.float64))
