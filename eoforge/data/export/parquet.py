"""GeoParquet of footprints, which QGIS, GeoPandas and DuckDB open: patches of a table, or hits of a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eoforge.data.tables.schema import METADATA_COLUMNS
from eoforge.geo.footprint import PATCH_METRES
from eoforge.geo.utm import utm_to_lonlat
from eoforge.storage.addresses import TableRef, open_table

GEOMETRY = "geometry"
_RING = np.dtype([("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("xy", "<f8", (5, 2))])
"""Polygon of one ring with five points as WKB: little-endian, kind 3."""


def write_geoparquet(out: Path, rows: pa.Table, rings: npt.NDArray[np.float64]) -> None:
    """GeoParquet 1.1 of rows with a polygon each.

    Args:
        out: The file.
        rows: Columns beside the geometry.
        rings: ``[N, 4, 2]`` longitude and latitude in degrees (WGS 84), counter-clockwise.
    """
    packed = np.zeros(len(rings), dtype=_RING)
    packed["order"], packed["kind"], packed["rings"], packed["points"] = 1, 3, 1, 5
    packed["xy"][:, :4], packed["xy"][:, 4] = rings, rings[:, 0]
    geometry = pa.array([record.tobytes() for record in packed], pa.binary())
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Polygon"], "orientation": "counterclockwise"}
    if len(rings):
        column["bbox"] = [*rings.min(axis=(0, 1)).tolist(), *rings.max(axis=(0, 1)).tolist()]
    geo = {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
    table = rows.append_column(pa.field(GEOMETRY, pa.binary(), nullable=False), geometry)
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), out, compression="zstd")


def write_patches(table: TableRef, out: Path) -> None:
    """GeoParquet of the metadata of a table, in the order of names."""
    names = [*METADATA_COLUMNS, "digest"]
    rows = open_table(table).to_table(columns=names).sort_by("patch_id")
    plain = pa.schema([pa.field(f.name, f.type, f.nullable) for f in rows.schema])
    epsg, ulx, uly = (rows[name].to_numpy().astype(np.float64) for name in ("epsg", "ulx", "uly"))
    side = PATCH_METRES
    east = ulx[:, None] + np.array([0, side, side, 0])
    north = uly[:, None] - np.array([side, side, 0, 0])
    lon, lat = utm_to_lonlat(epsg[:, None].astype(np.int32), east, north)
    write_geoparquet(out, rows.cast(plain), np.stack([lon, lat], axis=2))


def write_boxes(out: Path, rows: pa.Table, boxes: npt.NDArray[np.float64]) -> None:
    """GeoParquet of rows with a box each: ``[N, 4]`` lon_min, lat_min, lon_max, lat_max in degrees."""
    west, south, east, north = boxes.reshape(-1, 4).T
    ring = [(west, south), (east, south), (east, north), (west, north)]
    write_geoparquet(out, rows, np.stack([np.stack(point, axis=1) for point in ring], axis=1))
