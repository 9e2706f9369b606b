"""Rasters of the codec from GeoTIFF files: several bands and grids a file, sizes checked before reading.

Archives in the official layout are read by ``eoforge/data/archives/geotiff.py``, which knows patches only; this module
reads any GeoTIFF of a user. ``cog`` writes GeoTIFFs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.codec.metadata import BAND_TAG, FileProfile, combine, read_file
from eoforge.codec.profile import Profile
from eoforge.codec.raster import (
    BAND_ORDER,
    BASE_METRES,
    FACTORS,
    Georeference,
    Raster,
    Transform,
    averaged,
    factor_of,
    grid_shape,
)
from eoforge.data.bands import GROUP_OF
from eoforge.errors import DataRefused, LimitExceeded, UsageError
from eoforge.geo.crs import crs_text
from eoforge.geo.gdal import open_geotiff, refusing, transform_of

MAX_FILES = 16
_FACTORS = (1, 2, 6)
_NO_CRS = 'LOCAL_CS["unnamed"'
"""What GDAL makes of GeoTIFF keys that name no CRS, such as that pixels are points."""
_NO_TRANSFORMS = ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class GeoTiff:
    """One file: its bytes or where it lies, and the names of its bands where the file does not say them."""

    content: bytes | Path
    bands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Part:
    """A file that is open: its header, and how much coarser than the 10 m grid its own is."""

    dataset: Any
    names: tuple[str, ...]
    shape: tuple[int, int]
    crs: str | None
    metres: bool
    transform: Transform
    content: bytes | Path
    factor: int = 0


class GeoTiffSource:
    """A raster in open files, read window by window: a ``tiles.Source``.

    Attributes:
        bands: Names of its bands, in ``BAND_ORDER``.
        shape: Rows and columns of the 10 m grid.
        georeference: Where it lies.
        patch_id: Its name.
    """

    def __init__(self, parts: Sequence[_Part], shape: tuple[int, int], patch_id: str, exact: bool) -> None:
        self._parts, self._exact = parts, exact
        present = {name for part in parts for name in part.names}
        self.bands: Mapping[str, object] = {name: None for name in BAND_ORDER if name in present}
        self.shape, self.patch_id = shape, patch_id
        self.georeference = _georeference(parts)

    @cached_property
    def _profiles(self) -> list[FileProfile]:
        """Profile of each file; read when it is wanted, because a search looks at pixels alone."""
        with refusing():
            return [read_file(part.dataset, part.names, part.content) for part in self._parts]

    @cached_property
    def profile(self) -> Profile:
        """Nodata, scales, tags and the like.

        Raises:
            DataRefused: Files differ in what one GeoTIFF has once, or mark pixels in a way that is not read.
        """
        return combine((file.grid, part.factor) for file, part in zip(self._profiles, self._parts, strict=True))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the files hold that a stream does not keep, by name."""
        lost = [warning for file in self._profiles for warning in file.warnings]
        for name in self.bands:
            value = self.profile.grids[GROUP_OF[name].column].nodata
            if value is not None and self.profile.nodata_of(name) is None:
                lost.append(f"nodata {value:g} of {name}, which its type cannot hold")
        return tuple(dict.fromkeys(lost))

    def given(self) -> Iterator[tuple[str, Array]]:
        """Each band ``[h, w]`` whole, on the grid of its file.

        Raises:
            DataRefused: A file is damaged.
        """
        for part in self._parts:
            for index, name in enumerate(part.names, start=1):
                with refusing():
                    pixels = part.dataset.read(index)
                yield name, pixels

    def window(self, row: int, column: int, height: int, width: int) -> Raster:
        """The 10 m pixels ``[row, row + height) x [column, column + width)``, cut at the raster's edge.

        Args:
            row: Multiple of ``ALIGNMENT``.
            column: Likewise.
            height: Of the 10 m grid.
            width: Likewise.

        Raises:
            DataRefused: A file is damaged, or a band was interpolated and errors are to be bounded.
        """
        shape = (min(height, self.shape[0] - row), min(width, self.shape[1] - column))
        bands: dict[str, Array] = {}
        masks: dict[str, Array] = {}
        for part, file in zip(self._parts, self._profiles, strict=True):
            window = _window(part.factor, row, column, shape)
            with refusing():
                mask = part.dataset.read_masks(1, window=window) != 0 if file.grid.masked else None
            for index, name in enumerate(part.names, start=1):
                with refusing():
                    pixels = part.dataset.read(index, window=window)
                bands[name] = _to_native(name, pixels, part.factor, self._exact, self.profile.nodata_of(name), mask)
                if mask is not None:
                    _add_mask(masks, name, mask[:: factor_of(name) // part.factor, :: factor_of(name) // part.factor])
        place = None if self.georeference is None else self.georeference.moved(row, column)
        return Raster(bands, shape, place, self.patch_id, self.profile.moved(row, column, FACTORS), masks)


@contextmanager
def open_raster(
    files: Sequence[GeoTiff],
    patch_id: str = "",
    *,
    max_pixels: int,
    exact: bool = False,
    shape: tuple[int, int] | None = None,
) -> Iterator[GeoTiffSource]:
    """One raster in files of the same area, of which nothing but the headers has been read.

    Args:
        files: Together they hold the bands, one or several a file. Bands resampled to a finer grid are averaged back
            to their native one, which undoes nearest-neighbour resampling.
        patch_id: Its name.
        max_pixels: Most pixels of the 10 m grid.
        exact: Refuse bands whose resampling cannot be undone, because averages would replace given pixels.
        shape: Rows and columns of the 10 m grid, where only one size will do.

    Raises:
        DataRefused: A file is no readable GeoTIFF, or the files show different areas.
        LimitExceeded: There are too many files, bands or pixels.
        UsageError: A band is unnamed, unknown or given twice, has the wrong type, or does not cover ``shape``.
    """
    if not 1 <= len(files) <= MAX_FILES:
        raise LimitExceeded(f"a raster comes as 1 to {MAX_FILES} files; got {len(files)}")
    with ExitStack() as stack:
        parts = [_header(stack.enter_context(open_geotiff(file.content, _name(file))), file) for file in files]
        names = [name for part in parts for name in part.names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(f"band {twice[0]} is given twice")
        if shape is not None:
            _require_shape(parts, shape)
        base = _base_shape(parts, max_pixels) if shape is None else shape
        parts = [replace(part, factor=_factor_by_shape(part, base)) for part in parts]
        yield GeoTiffSource(parts, base, patch_id, exact)


def read_raster(files: Sequence[GeoTiff], patch_id: str = "", *, max_pixels: int, exact: bool = False) -> Raster:
    """A whole raster in memory; see :func:`open_raster` for arguments and errors."""
    with open_raster(files, patch_id, max_pixels=max_pixels, exact=exact) as source:
        return source.window(0, 0, *source.shape)


def _name(file: GeoTiff) -> str:
    return str(file.content) if isinstance(file.content, Path) else "a file"


def _header(dataset: Any, file: GeoTiff) -> _Part:
    names = file.bands or tuple(dataset.tags(i).get(BAND_TAG) or d or "" for i, d in enumerate(dataset.descriptions, 1))
    if len(names) != dataset.count or not all(names):
        raise UsageError(
            f"the GeoTIFF has {dataset.count} bands but {sum(map(bool, names))} names; describe its bands "
            f"({', '.join(BAND_ORDER)}) or name them in the request"
        )
    shape = (int(dataset.height), int(dataset.width))
    for name, dtype in zip(names, dataset.dtypes, strict=True):
        factor_of(name)  # refuses unknown names
        if dtype != GROUP_OF[name].dtype:
            raise UsageError(f"band {name} must be {GROUP_OF[name].dtype}; got {dtype}")
    with refusing():
        crs = dataset.crs
        text = crs_text(crs)
        if text and text.startswith(_NO_CRS):
            text = None
        metres = bool(crs and crs.is_projected and crs.linear_units_factor[1] == 1.0)
    return _Part(dataset, names, shape, text, metres, transform_of(dataset, _name(file)), file.content)


def _window(factor: int, row: int, column: int, shape: tuple[int, int]) -> Any:
    from rasterio.windows import Window

    rows, columns = grid_shape(shape, factor)
    return Window(column // factor, row // factor, columns, rows)


def _add_mask(masks: dict[str, Array], name: str, mask: Array) -> None:
    """Adds the mask of a band to those of the native grids, of which each has one."""
    known = masks.setdefault(GROUP_OF[name].column, mask)
    if not np.array_equal(known, mask):
        raise DataRefused(
            f"the internal mask of {name} differs from that of another band of its grid, and both come back in one "
            "GeoTIFF, which has one; compress them apart"
        )


def _require_shape(parts: Sequence[_Part], shape: tuple[int, int]) -> None:
    allowed = [grid_shape(shape, factor) for factor in _FACTORS]
    for part in parts:
        if part.shape not in allowed:
            raise UsageError(
                f"an image must show {shape[0]} x {shape[1]} pixels at 10 m; a file with {', '.join(part.names)} has "
                f"{part.shape[0]} x {part.shape[1]}"
            )


def _base_shape(parts: Sequence[_Part], max_pixels: int) -> tuple[int, int]:
    """Rows and columns of the 10 m grid.

    Pixel sizes in metres decide where files have them; otherwise the largest file is on the native grid of its finest
    band.
    """
    largest = max(parts, key=lambda s: s.shape)
    factor = _factor_by_pixel(largest) or min(factor_of(name) for name in largest.names)
    shape = (largest.shape[0] * factor, largest.shape[1] * factor)
    if math.prod(shape) > max_pixels:
        raise LimitExceeded(
            f"a raster may have {max_pixels} pixels at 10 m; this one has {shape[0]} x {shape[1]}. Cut it into several"
        )
    return shape


def _factor_by_pixel(part: _Part) -> int | None:
    sides = (abs(part.transform[0]), abs(part.transform[4]))
    found = [f for f in _FACTORS if part.metres and all(math.isclose(s, f * BASE_METRES) for s in sides)]
    return found[0] if found else None


def _factor_by_shape(part: _Part, shape: tuple[int, int]) -> int:
    native = [factor_of(name) for name in part.names]
    fits = [f for f in (*native, *_FACTORS) if grid_shape(shape, f) == part.shape and f <= min(native)]
    if not fits:
        raise DataRefused(
            f"a file with {', '.join(part.names)} has {part.shape[0]} x {part.shape[1]} pixels, which is no grid "
            f"of an area of {shape[0]} x {shape[1]} pixels at 10 m that holds these bands; give files of one area"
        )
    return fits[0]


def _to_native(name: str, pixels: Array, factor: int, exact: bool, nodata: Array | None, mask: Array | None) -> Array:
    """Pixels on the native grid of a band, from those on a grid as fine or finer."""
    ratio = factor_of(name) // factor
    if ratio == 1:
        return pixels

    def repeated(coarse: Array) -> Array:
        return coarse.repeat(ratio, axis=0).repeat(ratio, axis=1)[: len(pixels), : pixels.shape[1]]

    native = averaged(pixels, ratio)
    empty = np.zeros(pixels.shape, dtype=bool) if nodata is None else pixels == nodata
    for valid in (~empty, mask):
        if valid is not None and (repeated(valid[::ratio, ::ratio]) != valid).any():
            raise DataRefused(
                f"band {name} was resampled to a finer grid, and its valid area does not follow its own pixels; give "
                f"it on its native grid of {GROUP_OF[name].resolution} m"
            )
    if nodata is not None:  # the mean of valid pixels on both sides of the nodata value, which is never 0
        collided = (native == nodata) & ~empty[::ratio, ::ratio]
        native[collided] -= 1
    again = repeated(native)
    if exact and (again != pixels).any():
        raise DataRefused(
            f"band {name} was interpolated to a finer grid than its own, so its error cannot be bounded; give it on "
            f"its native grid of {GROUP_OF[name].resolution} m"
        )
    return native


def _georeference(parts: Sequence[_Part]) -> Georeference | None:
    """The place that all files agree on; files without CRS and transform agree with any."""
    found: Georeference | None = None
    for part in parts:
        if part.crs is None and part.transform in _NO_TRANSFORMS:
            continue
        a, b, c, d, e, f = part.transform
        scaled = (a / part.factor, b / part.factor, c, d / part.factor, e / part.factor, f)
        mine = Georeference(part.crs or "", scaled)
        if found is None:
            found = mine
        pixel = max(map(abs, found.transform[:2]))
        apart = max(abs(p - q) for p, q in zip(mine.transform, found.transform, strict=True))
        if mine.crs != found.crs or apart > pixel / 2:
            raise DataRefused(
                f"the files show different places: {mine.crs} {mine.transform} and {found.crs} {found.transform}"
            )
    return found
