"""Hits of a search as files: GeoParquet with footprints, or CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from eoforge.data.csv_table import plain
from eoforge.data.export.parquet import write_boxes

COLUMNS: dict[str, pa.DataType] = {
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
OPTIONAL: dict[str, pa.DataType] = {"window": pa.list_(pa.int32()), "owner": pa.string()}
"""Columns of images that were cut into several queries, and of searches across archives; absent elsewhere."""
BOX = ("lon_min", "lat_min", "lon_max", "lat_max")


def write_hits(hits: Sequence[Mapping[str, Any]], out: Path) -> int:
    """GeoParquet of hits: rank in their query, distance, metadata, footprint, window of the image, owner.

    Args:
        hits: Fields of :class:`eoforge.client.messages.Hit`; ``window`` (row, column) for an image that was cut into
            several queries.
        out: The file.

    Returns:
        Number of hits left out, because their owners withhold the footprint.
    """
    columns = _columns(hits)
    shown = [row for row in _ranked(hits) if row["footprint"] is not None]
    rows = [{name: row[name] for name in columns} for row in shown]
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items())))
    write_boxes(out, table, np.array([row["footprint"] for row in shown], dtype=np.float64).reshape(-1, 4))
    return len(hits) - len(shown)


def hits_csv(hits: Sequence[Mapping[str, Any]]) -> str:
    """CSV of hits, with the box of their footprint; a text that a spreadsheet would run as a formula gets a quote."""
    out = io.StringIO()
    columns = [name for name in _columns(hits) if name != "window"]
    writer = csv.writer(out)
    writer.writerow([*columns, *BOX])
    for row in _ranked(hits):
        acquired = row["acquired"].isoformat() if row["acquired"] is not None else ""
        values = row | {"labels": "; ".join(row["labels"]), "acquired": acquired}
        writer.writerow([*(plain(values[name]) for name in columns), *(row["footprint"] or [""] * len(BOX))])
    return out.getvalue()


def _columns(hits: Sequence[Mapping[str, Any]]) -> dict[str, pa.DataType]:
    return COLUMNS | {name: kind for name, kind in OPTIONAL.items() if any(hit.get(name) for hit in hits)}


def _ranked(hits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    seen: Counter[tuple[int, ...]] = Counter()
    rows = []
    for hit in hits:
        query = tuple(hit.get("window", ()))
        seen[query] += 1
        rows.append({**hit, "rank": seen[query], "labels": list(hit["labels"])})
    return rows
