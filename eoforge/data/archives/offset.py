"""Offset of reflectance: products of processing baseline 04.00 and later store 1,000 more than reflectance x 10,000.

ESA added it on 2022-01-25, so that negative reflectance can be stored; products name it (BOA_ADD_OFFSET, -1000). Older
dates processed again carry it too. A network that was trained without it sees a haze that is not there.

Source: ESA, Sentinel-2 Products Specification Document, and notes on processing baseline 04.00.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from eoforge.data.archives.geotiff import BandRaster
from eoforge.data.names import TileName
from eoforge.errors import DataRefused

FIRST_BASELINE = 400
"""First processing baseline with an offset, 04.00."""
_LOCAL_BASELINE = 9999
_FIRST_DAY = datetime(2022, 1, 25, tzinfo=UTC)
_LARGEST = 10_000
_UNITS = (1.0, 1e-4)
"""Scales that mean reflectance x 10,000: of nothing, and of reflectance."""


def named_offset(raster: BandRaster) -> int | None:
    """Offset that a file names, in its own numbers; None if it names none.

    Raises:
        DataRefused: Its scale is not that of reflectance x 10,000, or the offset is positive or no whole number.
    """
    scale, offset = raster.scaling
    if not any(math.isclose(scale, unit) for unit in _UNITS):
        raise DataRefused(f"a scale of {scale:g}; reflectance x 10,000 has 0.0001, or none")
    if raster.boa_offset is None and raster.scaling == (1.0, 0.0):
        return None
    named = round(offset / scale, 6) if raster.boa_offset is None else raster.boa_offset
    if not -_LARGEST <= named <= 0 or named != math.floor(named):
        raise DataRefused(f"an offset of {named:g}; expected a whole number that is not positive, such as -1000")
    return int(named)


def may_carry_offset(tile: TileName) -> bool:
    """Whether pixels of a tile carry the offset unless its files say otherwise.

    Baseline 99.99 stands for processing elsewhere, where the date of acquisition decides.
    """
    if tile.baseline == _LOCAL_BASELINE:
        return tile.acquired >= _FIRST_DAY
    return tile.baseline >= FIRST_BASELINE


def without_offset(pixels: npt.NDArray[np.uint16], offset: int) -> npt.NDArray[np.uint16]:
    """Reflectances x 10,000 of stored values; 0 stays nodata, and what would be 0 or less becomes 1.

    Args:
        pixels: Stored values of any shape.
        offset: Offset to add, 0 or negative.
    """
    if not offset:
        return pixels
    lowest = np.uint16(1 - offset)
    out = np.maximum(pixels, lowest) - (lowest - np.uint16(1))
    out[pixels == 0] = 0
    return out
