"""Offset of reflectance: products of processing baseline 04.00 and later store 1,000 more than reflectance x 10,000.

ESA added it on 2022-01-25, so that negative reflectance can be stored; products name it (BOA_ADD_OFFSET, -1000). Older
dates processed again carry it too. A network that was trained without it sees a haze that is not there.

Source: ESA, Sentinel-2 Products Specification Document, and notes on processing baseline 04.00.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from eoforge.data.archives.geotiff import BandRaster
from eoforge.data.names import TileName
from eoforge.errors import DataRefused

_FIRST_BASELINE = 400
_LOCAL_BASELINE = 9999
_FIRST_DAY = datetime(2022, 1, 25, tzinfo=UTC)
_UNITS = (1.0, 1e-4)
"""Scales that mean reflectance x 10,000: of nothing, and of reflectance."""


def named_offset(raster: BandRaster) -> float | None:
    """Offset that a file names, in its own numbers; None if it names none.

    Raises:
        DataRefused: Its scale is not that of reflectance x 10,000.
    """
    scale, offset = raster.scaling
    if not any(math.isclose(scale, unit) for unit in _UNITS):
        raise DataRefused(f"a scale of {scale:g}; reflectance x 10,000 has 0.0001, or none")
    if raster.boa_offset is not None:
        return raster.boa_offset
    return None if raster.scaling == (1.0, 0.0) else round(offset / scale, 6)


def may_carry_offset(tile: TileName) -> bool:
    """Whether pixels of a tile carry the offset unless its files say otherwise.

    Baseline 99.99 stands for processing elsewhere, where the date of acquisition decides.
    """
    if tile.baseline == _LOCAL_BASELINE:
        return tile.acquired >= _FIRST_DAY
    return tile.baseline >= _FIRST_BASELINE


def without_offset(raster: BandRaster, offset: float) -> BandRaster:
    """Raster with the offset applied: reflectance below 0.0001 becomes that, because 0 is nodata.

    Raises:
        DataRefused: The offset is no whole number.
    """
    if offset != int(offset):
        raise DataRefused(f"an offset of {offset:g}; expected a whole number, such as -1000")
    pixels = raster.pixels.astype(np.int64) + int(offset)
    moved = np.clip(pixels, 1, np.iinfo(np.uint16).max).astype(np.uint16)
    return replace(raster, pixels=np.where(raster.pixels == 0, np.uint16(0), moved))
