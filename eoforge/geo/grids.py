"""Grids of tiles in metres, stripes of a raster from top to bottom, and rasters of another grid brought onto one.

A tile is read in stripes because patches follow each other from top to bottom in the order of their names, and a stripe
as wide as the internal tiles of a file is decoded once. Memory is that of a stripe, whatever the width of the tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.errors import DataRefused, LimitExceeded
from eoforge.geo.crs import check_crs, epsg_of
from eoforge.geo.gdal import JP2, refusing

MAX_SIDE = 1 << 15
"""Largest side of an optical raster in pixels; a Sentinel-2 tile has 10,980."""
STRIPE_PIXELS = 1024
"""Width of a stripe of a file without internal tiles, and widest internal tile that sets the width."""
_MAX_SOURCE_PIXELS = 1 << 26
_MARGIN = 4
_TOLERANCE_M = 1e-3

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Grid:
    """Grid of square pixels of a raster, rows from north to south.

    Attributes:
        epsg: CRS, in metres.
        left: Easting of the upper-left corner.
        top: Northing of the upper-left corner.
        pixel: Side of a pixel in metres.
        width: Pixels eastwards.
        height: Pixels southwards.
    """

    epsg: int
    left: float
    top: float
    pixel: float
    width: int
    height: int

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north edges."""
        return self.left, self.top - self.height * self.pixel, self.left + self.width * self.pixel, self.top

    def window(self, left: int, right: int) -> Grid:
        """Stripe between two pixel columns."""
        return Grid(self.epsg, self.left + left * self.pixel, self.top, self.pixel, right - left, self.height)

    def offset_in(self, other: Grid) -> tuple[int, int] | None:
        """Column and row of this grid's corner in another one; None if their pixels do not coincide."""
        if (self.epsg, self.pixel) != (other.epsg, other.pixel):
            return None
        column, row = (self.left - other.left) / self.pixel, (other.top - self.top) / self.pixel
        exact = round(column), round(row)
        off = max(abs(column - exact[0]), abs(row - exact[1])) * self.pixel
        return exact if off < _TOLERANCE_M else None


def grid_of(dataset: Any, what: str) -> Grid:
    """Grid of an open raster in a projected CRS.

    Raises:
        DataRefused: It names no EPSG code, is in degrees, or its pixels are not square, upright and of metres.
    """
    a, b, left, d, e, top = tuple(dataset.transform)[:6]
    code = epsg_of(dataset.crs)
    if code is None or not dataset.crs.is_projected:
        found = f"EPSG:{code}" if code else "no EPSG code"
        raise DataRefused(f"{what}: expected a UTM zone with pixels of whole metres, got {found}; warp it first")
    if (
        not all(map(math.isfinite, (a, e, left, top)))
        or b
        or d
        or a <= 0
        or abs(a + e) > _TOLERANCE_M
        or abs(a - round(a)) > 1e-6
    ):
        found = str((a, b, left, d, e, top))
        raise DataRefused(f"{what}: expected square upright pixels of whole metres, got the transform {found}")
    return Grid(code, left, top, float(round(a)), dataset.width, dataset.height)


def check_side(width: int, height: int, what: str) -> None:
    """Refuses a raster that is too large.

    Raises:
        LimitExceeded: A side is above ``MAX_SIDE``.
    """
    if max(width, height) > MAX_SIDE:
        raise LimitExceeded(f"{what}: {width} x {height} pixels; at most {MAX_SIDE} a side are read")


def read_window(dataset: Any, what: str, left: int, top: int, right: int, bottom: int) -> Array:
    """Pixels ``[bottom - top, right - left]`` of the first band.

    Raises:
        DataRefused: The file cannot be decoded there.
    """
    from rasterio.windows import Window

    kind = JP2 if dataset.driver.startswith("JP2") else "GeoTIFF; give a .tif"
    with refusing(what, kind):
        pixels: Array = dataset.read(1, window=Window(left, top, right - left, bottom - top))
    return pixels


def check_last_block(dataset: Any, what: str) -> None:
    """Decodes the last pixel, which a file that was cut off no longer has.

    Raises:
        DataRefused: It cannot be decoded.
    """
    read_window(dataset, what, dataset.width - 1, dataset.height - 1, dataset.width, dataset.height)


class Stripes:
    """Columns of a raster, decoded in aligned stripes of which the newest is kept.

    Args:
        load: Function from the left and right pixel column of a stripe to its pixels ``[H, right - left]``.
        width: Pixels of the raster.
        stripe: Width of a stripe.
    """

    def __init__(self, load: Callable[[int, int], Array], width: int, stripe: int = STRIPE_PIXELS) -> None:
        self._load, self._width, self._stripe = load, width, stripe
        self._kept: tuple[int, Array] | None = None

    def columns(self, left: int, right: int) -> Array:
        """Pixels ``[H, right - left]`` between two pixel columns."""
        parts = []
        for number in range(left // self._stripe, -(-right // self._stripe)):
            start = number * self._stripe
            pixels = self._of(number)
            parts.append(pixels[:, max(left - start, 0) : right - start])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _of(self, number: int) -> Array:
        if self._kept is None or self._kept[0] != number:
            self._kept = None  # two stripes are not in memory at once
            start = number * self._stripe
            self._kept = number, self._load(start, min(start + self._stripe, self._width))
        return self._kept[1]


def stripe_of(dataset: Any) -> int:
    """Width of the stripes of a file: that of its internal tiles, or ``STRIPE_PIXELS``."""
    width = int(dataset.block_shapes[0][1])
    return STRIPE_PIXELS // width * width if width <= STRIPE_PIXELS and width < dataset.width else STRIPE_PIXELS


@dataclass(frozen=True, slots=True)
class Bilinear:
    """Bilinear resampling of a quantity: functions from stored values to the quantity, and back."""

    forward: Callable[[Array], Array]
    backward: Callable[[Array], Array]


def onto(
    dataset: Any, what: str, target: Grid, clean: Callable[[Array], Array], measured: Bilinear | None = None
) -> Array:
    """Float32 pixels of a raster of any CRS on another grid; NaN where the raster has none.

    Pixels that coincide with those of the target are copied; all others are resampled: codes by the value at the
    pixel's centre, measurements bilinearly.

    Args:
        dataset: An open raster with a georeference.
        what: What to call it in messages.
        target: The grid of the result.
        clean: Function from stored values to float32 with NaN for nodata.
        measured: What is resampled bilinearly; None for codes.

    Raises:
        DataRefused: The file cannot be decoded, or its CRS is not read.
        LimitExceeded: Its pixels are far finer than those of the target.
    """
    from rasterio.enums import Resampling
    from rasterio.errors import RasterioError
    from rasterio.transform import Affine
    from rasterio.warp import reproject, transform_bounds

    out = np.full((target.height, target.width), np.nan, dtype=np.float32)
    transform = dataset.transform
    if not dataset.crs:
        raise DataRefused(f"{what} has no CRS; expected one")
    check_crs(dataset.crs.to_wkt())
    place = None
    if epsg_of(dataset.crs) == target.epsg and (transform.a, -transform.e) == (target.pixel, target.pixel):
        place = target.offset_in(grid_of(dataset, what))
    if place is not None:
        column, row = place
        left, top = max(column, 0), max(row, 0)
        right, bottom = min(column + target.width, dataset.width), min(row + target.height, dataset.height)
        if left < right and top < bottom:
            part = clean(read_window(dataset, what, left, top, right, bottom))
            out[top - row : bottom - row, left - column : right - column] = part
        return out
    here = Affine(target.pixel, 0, target.left, 0, -target.pixel, target.top)
    try:
        bounds = transform_bounds(f"EPSG:{target.epsg}", dataset.crs, *target.bounds, densify_pts=21)
        inverse = ~transform
        corners = [inverse @ (x, y) for x in bounds[::2] for y in bounds[1::2]]
    except (RasterioError, ValueError, ZeroDivisionError) as error:
        raise DataRefused(f"{what} cannot be brought onto EPSG:{target.epsg}") from error
    columns, rows = [c for c, _ in corners], [r for _, r in corners]
    left, right = _within(min(columns), max(columns), dataset.width)
    top, bottom = _within(min(rows), max(rows), dataset.height)
    if left >= right or top >= bottom:
        return out
    if (right - left) * (bottom - top) > _MAX_SOURCE_PIXELS:
        size = f"{right - left} x {bottom - top}"
        raise LimitExceeded(f"{what}: {size} pixels for a stripe of the tile; at most {_MAX_SOURCE_PIXELS}")
    source = clean(read_window(dataset, what, left, top, right, bottom))
    source = source if measured is None else measured.forward(source)
    reproject(
        source,
        out,
        src_transform=transform @ Affine.translation(left, top),
        src_crs=dataset.crs,
        src_nodata=np.nan,
        dst_transform=here,
        dst_crs=f"EPSG:{target.epsg}",
        dst_nodata=np.nan,
        resampling=Resampling.nearest if measured is None else Resampling.bilinear,
        init_dest_nodata=True,
    )
    return out if measured is None else measured.backward(out)


def touches(dataset: Any, what: str, target: Grid) -> bool:
    """Whether the extent of a raster meets a grid.

    Raises:
        DataRefused: It has no CRS, or one that cannot be brought onto the grid.
    """
    from rasterio.errors import RasterioError
    from rasterio.warp import transform_bounds

    if not dataset.crs:
        raise DataRefused(f"{what} has no CRS; expected one")
    check_crs(dataset.crs.to_wkt())
    try:
        west, south, east, north = transform_bounds(dataset.crs, f"EPSG:{target.epsg}", *dataset.bounds, densify_pts=21)
    except RasterioError as error:
        raise DataRefused(f"{what} cannot be brought onto EPSG:{target.epsg}") from error
    left, bottom, right, top = target.bounds
    return bool(west < right and east > left and south < top and north > bottom)


def _within(low: float, high: float, size: int) -> tuple[int, int]:
    if not np.isfinite([low, high]).all():
        return 0, size
    return max(int(low) - _MARGIN, 0), min(int(high) + 1 + _MARGIN, size)
