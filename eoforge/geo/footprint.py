"""Footprints of patches from their names: UTM zone, upper-left corner, geographic bounds.

The name of a patch implies CRS and transform: a Sentinel-2 tile starts at the north-west corner of its MGRS 100 km
square, snapped outwards to the 60 m grid, and patches follow in steps of 1,200 m. The formula
agrees with all published v1 geometries (facts: 208,536 checked, none differs); LMDB copies have no georeference, so
the name is their only source. reBEN lies in the north; in the south the 60 m grid starts at the equator too,
which the false northing puts at 10,000,000 m (published products of tiles 39MXR, 53HNA and 53HNV lie there).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from eoforge.errors import DataRefused
from eoforge.geo.utm import utm_to_lonlat

PATCH_METRES = 1200
"""Side of a patch in metres, and step of the grid of patches in a tile."""
_SQUARE = 100_000
_ROW_CYCLE = 2_000_000
_GRID = 60
_UTM_NORTH, _UTM_SOUTH = 32_600, 32_700
_FALSE_NORTHING = 10_000_000
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
# Row letters repeat every 2,000 km; the least northing of any square in a latitude band (8 degrees each, rounded down
# to 100 km) says which repetition is meant.
_BAND_NORTHING = {
    "C": 1_100_000, "D": 2_000_000, "E": 2_800_000, "F": 3_700_000, "G": 4_600_000,
    "H": 5_500_000, "J": 6_400_000, "K": 7_300_000, "L": 8_200_000, "M": 9_100_000,
    "N": 0, "P": 800_000, "Q": 1_700_000, "R": 2_600_000, "S": 3_500_000,
    "T": 4_400_000, "U": 5_300_000, "V": 6_200_000, "W": 7_000_000, "X": 7_900_000,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Footprint:
    """Footprint of a patch, 1,200 m x 1,200 m: upper-left corner in metres of the UTM zone ``epsg``."""

    epsg: int
    ulx: int
    uly: int


@lru_cache(maxsize=4096)
def tile_origin(mgrs: str) -> Footprint:
    """Zone and upper-left corner of a Sentinel-2 tile such as ``33UUP``.

    Raises:
        DataRefused: The letters name no latitude band or no 100 km square.
    """
    zone, band, column, row = int(mgrs[:2]), mgrs[2], mgrs[3], mgrs[4]
    if band not in _BAND_NORTHING:
        raise DataRefused(
            f"tile {mgrs!r}: the third character is a latitude band, one of {''.join(_BAND_NORTHING)}; got {band!r}"
        )
    # Eight column letters per zone, starting over every three zones; even zones start their rows at F.
    easting = (_LETTERS.find(column) - (zone - 1) % 3 * 8 + 1) * _SQUARE
    if not _SQUARE <= easting <= 8 * _SQUARE or row not in _ROWS:
        raise DataRefused(f"tile {mgrs!r}: zone {zone} has no 100 km square {column}{row}")
    northing = (_ROWS.index(row) - (0 if zone % 2 else 5)) % len(_ROWS) * _SQUARE
    northing += max(0, math.ceil((_BAND_NORTHING[band] - northing) / _ROW_CYCLE)) * _ROW_CYCLE
    epsg, equator = (_UTM_SOUTH + zone, _FALSE_NORTHING) if band < "N" else (_UTM_NORTH + zone, 0)
    return Footprint(
        epsg=epsg,
        ulx=easting // _GRID * _GRID,
        uly=equator - (equator - northing - _SQUARE) // _GRID * _GRID,
    )


def footprint(mgrs: str, column: int, row: int) -> Footprint:
    """Zone and upper-left corner of a patch.

    Args:
        mgrs: Tile, such as ``33UUP``.
        column: Column of the patch in its tile, eastwards from 0.
        row: Row of the patch in its tile, southwards from 0.

    Raises:
        DataRefused: The tile names no 100 km square.
    """
    origin = tile_origin(mgrs)
    return Footprint(origin.epsg, origin.ulx + PATCH_METRES * column, origin.uly - PATCH_METRES * row)


def lonlat_bounds(
    epsg: npt.NDArray[np.int32], ulx: npt.NDArray[np.int32], uly: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Geographic bounds of patches, from their four corners (edges bulge beyond them by less than 0.1 m).

    Args:
        epsg: UTM zones ``[N]``.
        ulx: Upper-left eastings ``[N]`` in metres.
        uly: Upper-left northings ``[N]`` in metres.

    Returns:
        ``[N, 4]``: lon_min, lat_min, lon_max, lat_max in degrees, WGS 84.
    """
    lon, lat = np.moveaxis(corners(epsg, ulx, uly), -1, 0)
    return np.stack([lon.min(1), lat.min(1), lon.max(1), lat.max(1)], axis=1)


def corners(
    epsg: npt.NDArray[np.int32], ulx: npt.NDArray[np.int32], uly: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Corners of patches in degrees, ``[N, 4, 2]`` as longitude and latitude, counterclockwise from the lower left."""
    eastings = ulx[:, None].astype(np.float64) + np.array([0, PATCH_METRES, PATCH_METRES, 0])
    northings = uly[:, None].astype(np.float64) - np.array([PATCH_METRES, PATCH_METRES, 0, 0])
    return np.stack(utm_to_lonlat(np.asarray(epsg)[:, None], eastings, northings), axis=-1)
