"""Polygons with a code, from a GeoPackage (an SQLite file), burnt into a grid by the rule of the pixel's centre.

The file is opened by SQLite itself, read-only: the GDAL of this process has no vector formats. Vertices are brought
into the CRS of the grid, as in the construction of reBEN; edges stay straight between them.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.errors import DataRefused, LimitExceeded, UsageError
from eoforge.geo.crs import parse_crs
from eoforge.geo.gdal import session
from eoforge.geo.grids import Grid

_MAX_POLYGONS = 1 << 20
_MAX_BLOB = 1 << 26
_ENVELOPE_BYTES = (0, 32, 48, 48, 64)


@dataclass(frozen=True)
class PolygonLayer:
    """Layer of polygons of a GeoPackage.

    Attributes:
        path: The file.
        what: What to call it in messages.
        table: Name of the layer.
        geometry: Its geometry column.
        code: Column with the code of a polygon.
        crs: CRS as text.
        bounds: West, south, east, north in that CRS.
    """

    path: Path
    what: str
    table: str
    geometry: str
    code: str
    crs: str
    bounds: tuple[float, float, float, float]


def open_layer(path: Path, what: str, code_column: re.Pattern[str]) -> PolygonLayer:
    """The only layer with a code column of a GeoPackage.

    Raises:
        DataRefused: It is no GeoPackage, or has no such layer, or several.
    """
    try:
        with closing(_connect(path)) as base:
            found = list(_layers(base, path, what, code_column))
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise DataRefused(f"{what} is no readable GeoPackage") from error
    if len(found) != 1:
        raise DataRefused(
            f"{what}: expected one layer of polygons with a column like {code_column.pattern}, got {len(found)}"
        )
    return found[0]


def _connect(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    base.execute("PRAGMA trusted_schema=OFF")
    base.execute("PRAGMA cell_size_check=ON")
    return base


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _layers(base: sqlite3.Connection, path: Path, what: str, wanted: re.Pattern[str]) -> Iterator[PolygonLayer]:
    rows = base.execute(
        "SELECT c.table_name, g.column_name, s.organization, s.organization_coordsys_id, s.definition "
        "FROM gpkg_contents c JOIN gpkg_geometry_columns g ON g.table_name = c.table_name "
        "JOIN gpkg_spatial_ref_sys s ON s.srs_id = g.srs_id "
        "JOIN sqlite_master m ON m.name = c.table_name AND m.type = 'table' WHERE c.data_type = 'features'"
    ).fetchmany(256)
    for table, geometry, organisation, number, definition in rows:
        columns = [row[1] for row in base.execute(f"PRAGMA table_info({_quoted(table)})")]
        codes = [name for name in columns if wanted.fullmatch(name)]
        if geometry not in columns or not codes:
            continue
        crs = f"EPSG:{number}" if str(organisation).upper() == "EPSG" else str(definition)
        parse_crs(crs)
        index = _index_of(base, table, geometry)
        if index is None:
            raise DataRefused(f"{what}: the layer {table!r} has no spatial index (R-tree); write it with one")
        extent = "SELECT min(minx), min(miny), max(maxx), max(maxy) FROM "
        west, south, east, north = base.execute(extent + _quoted(index)).fetchone()
        if west is None:
            raise DataRefused(f"{what}: the layer {table!r} is empty")
        yield PolygonLayer(path, what, table, geometry, codes[0], crs, (west, south, east, north))


def _index_of(base: sqlite3.Connection, table: str, geometry: str) -> str | None:
    name = f"rtree_{table}_{geometry}"
    known = base.execute("SELECT 1 FROM sqlite_master WHERE name = ? AND type = 'table'", (name,)).fetchone()
    return name if known else None


def layer_touches(layer: PolygonLayer, target: Grid) -> bool:
    """Whether the extent of a layer meets a grid."""
    west, south, east, north = _bounds_in(layer, target)
    left, bottom, right, top = layer.bounds
    return west < right and east > left and south < top and north > bottom


def burn(layer: PolygonLayer, target: Grid, empty: int) -> npt.NDArray[np.uint16]:
    """Codes ``[H, W]`` of a layer on a grid: each pixel has the code of the polygon that holds its centre.

    Args:
        layer: The layer.
        target: The grid.
        empty: Code of pixels outside every polygon.

    Raises:
        DataRefused: A geometry is no polygon, or a code is no number of 0..65,535.
        LimitExceeded: There are too many polygons.
        UsageError: The package shapely is not installed.
    """
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    out = np.full((target.height, target.width), empty, dtype=np.uint16)
    shapes = _shapes(layer, target)
    if shapes:
        with session():
            rasterize(shapes, out=out, transform=Affine(target.pixel, 0, target.left, 0, -target.pixel, target.top))
    return out


def _shapes(layer: PolygonLayer, target: Grid) -> list[tuple[Any, int]]:
    try:
        import shapely
    except ImportError as error:
        raise UsageError("GeoPackages are read with shapely; install eoforge[ingest]") from error
    query = (
        f"SELECT t.{_quoted(layer.geometry)}, t.{_quoted(layer.code)} FROM {_quoted(layer.table)} t "  # noqa: S608
        f"JOIN {_quoted(f'rtree_{layer.table}_{layer.geometry}')} r ON r.id = t.ROWID "
        "WHERE r.minx <= ? AND r.maxx >= ? AND r.miny <= ? AND r.maxy >= ?"
    )
    west, south, east, north = _bounds_in(layer, target)
    try:
        with closing(_connect(layer.path)) as base:
            rows = base.execute(query, (east, west, north, south)).fetchmany(_MAX_POLYGONS + 1)
    except sqlite3.Error as error:
        raise DataRefused(f"{layer.what} cannot be read: {error}") from error
    if len(rows) > _MAX_POLYGONS:
        raise LimitExceeded(f"{layer.what}: more than {_MAX_POLYGONS} polygons meet a stripe of the tile")
    if not rows:
        return []
    try:
        geometries = shapely.from_wkb([_wkb(blob, layer) for blob, _ in rows])
    except shapely.errors.ShapelyError as error:
        raise DataRefused(f"{layer.what}: a geometry is damaged") from error
    if not np.isin(shapely.get_type_id(geometries), (3, 6)).all():
        raise DataRefused(f"{layer.what}: expected polygons and multipolygons only")
    codes = [_code(value, layer) for _, value in rows]
    moved = shapely.transform(shapely.force_2d(geometries), lambda points: _moved(points, layer.crs, target))
    return list(zip(moved.tolist(), codes, strict=True))


def _code(value: Any, layer: PolygonLayer) -> int:
    text = str(value).strip()
    if not text.isascii() or not text.isdecimal() or int(text) >= 1 << 16:
        raise DataRefused(f"{layer.what}: expected a land-cover code as a number in {layer.code}, got {text[:40]!r}")
    return int(text)


def _wkb(blob: Any, layer: PolygonLayer) -> bytes:
    """Geometry after the header of the GeoPackage: magic, version, flags, CRS, envelope."""
    if not isinstance(blob, bytes) or len(blob) < 8 or blob[:2] != b"GP" or len(blob) > _MAX_BLOB:
        raise DataRefused(f"{layer.what}: a geometry is no GeoPackage geometry of at most {_MAX_BLOB} bytes")
    envelope = blob[3] >> 1 & 7
    if envelope >= len(_ENVELOPE_BYTES):
        raise DataRefused(f"{layer.what}: a geometry has an unknown envelope")
    return blob[8 + _ENVELOPE_BYTES[envelope] :]


def _moved(points: npt.NDArray[np.float64], crs: str, target: Grid) -> npt.NDArray[np.float64]:
    from rasterio.warp import transform

    with session():
        x, y = transform(parse_crs(crs), parse_crs(f"EPSG:{target.epsg}"), points[:, 0].tolist(), points[:, 1].tolist())
    return np.stack([x, y], axis=1)


def _bounds_in(layer: PolygonLayer, target: Grid) -> tuple[float, float, float, float]:
    """Bounds of a grid in the CRS of a layer, a little larger."""
    from rasterio.errors import RasterioError
    from rasterio.warp import transform_bounds

    with session():
        try:
            here, there = parse_crs(f"EPSG:{target.epsg}"), parse_crs(layer.crs)
            west, south, east, north = transform_bounds(here, there, *target.bounds, densify_pts=21)
        except RasterioError as error:
            raise DataRefused(f"{layer.what} cannot be brought onto EPSG:{target.epsg}") from error
    margin = 0.01 * max(east - west, north - south)
    return west - margin, south - margin, east + margin, north + margin
