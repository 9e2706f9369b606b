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
BOX = ("lon_min", "lat_min", "lon_max", "lat_max")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_hits(hits: Sequence[Mapping[str, Any]], out: Path) -> None:
    """GeoParquet of hits: rank in their query, distance, metadata, footprint, window of the image.

    Args:
        hits: Fields of :class:`eoforge.client.messages.Hit`; ``window`` (row, column) for an image that was cut into
            several queries.
        out: The file.
    """
    columns = COLUMNS | ({"window": pa.list_(pa.int32())} if any("window" in hit for hit in hits) else {})
    rows = [{name: row[name] for name in columns} for row in _ranked(hits)]
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items())))
    write_boxes(out, table, np.array([hit["footprint"] for hit in hits], dtype=np.float64))


def hits_csv(hits: Sequence[Mapping[str, Any]]) -> str:
    """CSV of hits, with the box of their footprint; a text that a spreadsheet would run as a formula gets a quote."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*COLUMNS, *BOX])
    for row in _ranked(hits):
        values = row | {"labels": "; ".join(row["labels"]), "acquired": row["acquired"].isoformat()}
        writer.writerow([*(_plain(values[name]) for name in COLUMNS), *row["footprint"]])
    return out.getvalue()


def _ranked(hits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    seen: Counter[tuple[int, ...]] = Counter()
    rows = []
    for hit in hits:
        query = tuple(hit.get("window", ()))
        seen[query] += 1
        rows.append({**hit, "rank": seen[query], "labels": list(hit["labels"])})
    return rows


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
