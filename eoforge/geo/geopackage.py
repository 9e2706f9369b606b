"""Writer of polygons: outlines of a map, and a GeoPackage of them."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy.typing as npt

from eoforge.geo.crs import parse_crs
from eoforge.geo.gdal import session
from eoforge.geo.grids import Grid

_GPKG_APPLICATION, _GPKG_VERSION = 0x47504B47, 10300

Points = npt.NDArray[Any]


def outlines(codes: npt.NDArray[Any], grid: Grid) -> list[tuple[Any, int]]:
    """Polygons along the edges of equal pixels of a map ``[H, W]``: shapely geometry and code."""
    from rasterio.features import shapes
    from rasterio.transform import Affine
    from shapely.geometry import shape

    with session():
        found = shapes(codes, transform=Affine(grid.pixel, 0, grid.left, 0, -grid.pixel, grid.top))
        return [(shape(geometry), int(code)) for geometry, code in found]


def reprojected(geometries: Iterable[Any], source: str, target: str) -> list[Any]:
    """Shapely geometries with their vertices in another CRS."""
    import numpy as np
    import shapely
    from rasterio.warp import transform

    def move(points: Points) -> Points:
        with session():
            x, y = transform(parse_crs(source), parse_crs(target), points[:, 0].tolist(), points[:, 1].tolist())
        return np.stack([x, y], axis=1)

    moved: list[Any] = shapely.transform(np.array(list(geometries), dtype=object), move).tolist()
    return moved


def write_geopackage(
    path: Path, layer: str, epsg: int, rows: Iterable[tuple[Any, str]], *, column: str = "Code_18"
) -> None:
    """GeoPackage with one layer of shapely polygons and a text column, with a spatial index.

    The tables are those of the standard (OGC 12-128r18) that readers need; SQLite itself writes them.
    """
    import shapely

    with closing(sqlite3.connect(path)) as base, base:
        base.execute(f"PRAGMA application_id = {_GPKG_APPLICATION}")
        base.execute(f"PRAGMA user_version = {_GPKG_VERSION}")
        base.executescript(_TABLES)
        base.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, NULL)", _systems(epsg))
        base.execute(f'CREATE TABLE "{layer}" (fid INTEGER PRIMARY KEY, geom BLOB, "{column}" TEXT)')
        base.execute(f'CREATE VIRTUAL TABLE "rtree_{layer}_geom" USING rtree(id, minx, maxx, miny, maxy)')
        bounds = [float("inf"), float("inf"), float("-inf"), float("-inf")]
        for number, (geometry, code) in enumerate(rows, 1):
            west, south, east, north = geometry.bounds
            blob = b"GP\0\1" + struct.pack("<i", epsg) + shapely.to_wkb(geometry, byte_order=1)
            base.execute(f'INSERT INTO "{layer}" VALUES (?, ?, ?)', (number, blob, code))  # noqa: S608
            box = (number, west, east, south, north)
            base.execute(f'INSERT INTO "rtree_{layer}_geom" VALUES (?, ?, ?, ?, ?)', box)  # noqa: S608
            pairs: list[tuple[Callable[..., float], float]] = [(min, west), (min, south), (max, east), (max, north)]
            bounds = [choose(old, new) for (choose, new), old in zip(pairs, bounds, strict=True)]
        now = "2018-01-01T00:00:00.000Z"
        base.execute(
            "INSERT INTO gpkg_contents VALUES (?, 'features', ?, '', ?, ?, ?, ?, ?, ?)",
            (layer, layer, now, *bounds, epsg),
        )
        base.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'GEOMETRY', ?, 0, 0)", (layer, epsg))
        base.execute(
            "INSERT INTO gpkg_extensions VALUES (?, 'geom', 'gpkg_rtree_index', "
            "'http://www.geopackage.org/spec120/#extension_rtree', 'write-only')",
            (layer,),
        )


def _systems(epsg: int) -> list[tuple[str, int, str, int, str]]:
    wkt = {code: parse_crs(f"EPSG:{code}").to_wkt() for code in dict.fromkeys((4326, epsg))}
    known = [(f"EPSG:{code}", code, "EPSG", code, text) for code, text in wkt.items()]
    return [*known, ("undefined", -1, "NONE", -1, "undefined"), ("undefined", 0, "NONE", 0, "undefined")]


_TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
  organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
  description TEXT, last_change TEXT NOT NULL, min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER);
CREATE TABLE gpkg_geometry_columns (table_name TEXT PRIMARY KEY, column_name TEXT NOT NULL,
  geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL);
CREATE TABLE gpkg_extensions (table_name TEXT, column_name TEXT, extension_name TEXT NOT NULL, definition TEXT NOT NULL,
  scope TEXT NOT NULL);
"""
