"""Rasters of the codec from GeoTIFF files and back: several bands and grids a file, sizes checked before reading.

Reading whole archives in the official layout is ``data/geotiff.py``'s job, which knows patches only; here anything that
users have comes in, and what leaves are cloud-optimised GeoTIFFs that QGIS opens with CRS and band names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.codec.raster import BAND_ORDER, BASE_METRES, Georeference, Raster, Transform, factor_of, grid_shape
from eoforge.data.bands import GROUP_OF, GROUPS, S1_10M
from eoforge.errors import DataRefused, LimitExceeded, UsageError

MAX_BANDS = 16
MAX_FILES = 16
_BLOCK_PIXELS = 1 << 22
"""A file's internal tiles are read whole: a tile far larger than its image is an attack, not an image."""
_FACTORS = (1, 2, 6)
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class GeoTiff:
    """One file: its bytes or where it lies, and the names of its bands where the file does not say them."""

    content: bytes | Path
    bands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Source:
    """A file's header."""

    file: GeoTiff
    names: tuple[str, ...]
    shape: tuple[int, int]
    crs: str | None
    metres: bool
    transform: Transform


def read_raster(files: Sequence[GeoTiff], patch_id: str = "", *, max_pixels: int, exact: bool = False) -> Raster:
    """One raster from files of the same area.

    Args:
        files: Together they hold the bands, one or several a file. Bands resampled to a finer grid are averaged back
            to their native one, which undoes nearest-neighbour resampling.
        patch_id: Its name.
        max_pixels: Most pixels of the 10 m grid.
        exact: Refuse bands whose resampling cannot be undone, because averages would replace given pixels.

    Raises:
        DataRefused: A file is no readable GeoTIFF, or the files show different areas.
        LimitExceeded: There are too many files, bands or pixels.
        UsageError: A band is unnamed, unknown or given twice, or has the wrong type.
    """
    if not 1 <= len(files) <= MAX_FILES:
        raise LimitExceeded(f"a raster comes as 1 to {MAX_FILES} files; got {len(files)}")
    sources = [_header(file) for file in files]
    names = [name for source in sources for name in source.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"band {twice[0]} is given twice")
    shape, factors = _grids(sources, max_pixels)
    bands: dict[str, Array] = {}
    for source, factor in zip(sources, factors, strict=True):
        for index, name in enumerate(source.names, start=1):
            with _opened(source.file) as dataset:
                pixels = dataset.read(index)
            bands[name] = _to_native(name, pixels, factor, shape, exact)
    return Raster(bands, shape, _georeference(sources, factors), patch_id)


def write_cogs(raster: Raster) -> dict[str, bytes]:
    """Cloud-optimised GeoTIFFs by native grid: ``s2_10m``, ``s2_20m``, ``s2_60m``, ``s1``, those that have bands."""
    import rasterio
    from rasterio.io import MemoryFile
    from rio_cogeo.cogeo import cog_translate
    from rio_cogeo.profiles import cog_profiles

    files = {}
    for group in GROUPS:
        names = [band for band in group.bands if band in raster.bands]
        if not names:
            continue
        height, width = raster.bands[names[0]].shape
        profile = {"driver": "GTiff", "height": height, "width": width, "count": len(names), "dtype": group.dtype}
        if group is not S1_10M:
            profile["nodata"] = 0
        transform = raster.transform_of(names[0])
        if raster.georeference is not None and transform is not None:
            from affine import Affine

            profile |= {"crs": raster.georeference.crs, "transform": Affine(*transform)}
        output = dict(cog_profiles["deflate"]) | {"PREDICTOR": 3 if group is S1_10M else 2}
        with rasterio.Env(), MemoryFile() as plain, MemoryFile() as cog:
            with plain.open(**profile) as sink:
                for index, name in enumerate(names, start=1):
                    sink.write(raster.bands[name], index)
                    sink.set_band_description(index, name)
            with plain.open() as source:
                cog_translate(source, cog.name, output, in_memory=True, quiet=True)
            files[group.column] = bytes(cog.read())
    return files


def _header(file: GeoTiff) -> _Source:
    with _opened(file) as dataset:
        if dataset.count > MAX_BANDS:
            raise LimitExceeded(f"a GeoTIFF may have {MAX_BANDS} bands; this one has {dataset.count}")
        names = file.bands or tuple(d or "" for d in dataset.descriptions)
        if len(names) != dataset.count or not all(names):
            raise UsageError(
                f"the GeoTIFF has {dataset.count} bands but {sum(map(bool, names))} names; describe its bands "
                f"({', '.join(BAND_ORDER)}) or name them in the request"
            )
        shape = (int(dataset.height), int(dataset.width))
        for name, dtype, block in zip(names, dataset.dtypes, dataset.block_shapes, strict=True):
            factor_of(name)  # refuses unknown names
            if dtype != GROUP_OF[name].dtype:
                raise UsageError(f"band {name} must be {GROUP_OF[name].dtype}; got {dtype}")
            if math.prod(block) > max(_BLOCK_PIXELS, 2 * math.prod(shape)):
                raise LimitExceeded(f"the GeoTIFF of {shape[0]} x {shape[1]} pixels has internal tiles of {block}")
        crs = dataset.crs
        code = crs.to_epsg() if crs else None
        text = None if not crs else f"EPSG:{code}" if code else crs.to_wkt()
        metres = bool(crs and crs.is_projected and crs.linear_units_factor[1] == 1.0)
        return _Source(file, names, shape, text, metres, tuple(dataset.transform)[:6])


def _grids(sources: Sequence[_Source], max_pixels: int) -> tuple[tuple[int, int], list[int]]:
    """Rows and columns of the 10 m grid, and how much coarser than it each file is.

    Pixel sizes in metres decide where files have them; otherwise the largest file is on the native grid of its finest
    band.
    """
    largest = max(sources, key=lambda s: s.shape)
    factor = _factor_by_pixel(largest) or min(factor_of(name) for name in largest.names)
    shape = (largest.shape[0] * factor, largest.shape[1] * factor)
    if math.prod(shape) > max_pixels:
        raise LimitExceeded(f"a raster may have {max_pixels} pixels at 10 m; this one has {shape[0]} x {shape[1]}")
    return shape, [_factor_by_shape(source, shape) for source in sources]


def _factor_by_pixel(source: _Source) -> int | None:
    sides = (abs(source.transform[0]), abs(source.transform[4]))
    found = [f for f in _FACTORS if source.metres and all(math.isclose(s, f * BASE_METRES) for s in sides)]
    return found[0] if found else None


def _factor_by_shape(source: _Source, shape: tuple[int, int]) -> int:
    native = [factor_of(name) for name in source.names]
    fits = [f for f in (*native, *_FACTORS) if grid_shape(shape, f) == source.shape and f <= min(native)]
    if not fits:
        raise DataRefused(
            f"a file with {', '.join(source.names)} has {source.shape[0]} x {source.shape[1]} pixels, which is no grid "
            f"of an area of {shape[0]} x {shape[1]} pixels at 10 m that holds these bands; give files of one area"
        )
    return fits[0]


def _to_native(name: str, pixels: Array, factor: int, shape: tuple[int, int], exact: bool) -> Array:
    ratio = factor_of(name) // factor
    if ratio == 1:
        return pixels
    rows, columns = grid_shape(shape, factor_of(name))
    padded = np.pad(pixels, ((0, rows * ratio - len(pixels)), (0, columns * ratio - pixels.shape[1])), mode="edge")
    blocks = padded.reshape(rows, ratio, columns, ratio)
    if exact and (blocks != blocks[:, :1, :, :1]).any():
        raise DataRefused(
            f"band {name} was interpolated to a finer grid than its own, so its error cannot be bounded; give it on "
            f"its native grid of {GROUP_OF[name].resolution} m"
        )
    total = blocks.sum(axis=(1, 3), dtype=np.uint32)
    mean: Array = ((total + ratio * ratio // 2) // (ratio * ratio)).astype(pixels.dtype)
    return mean


def _georeference(sources: Sequence[_Source], factors: Sequence[int]) -> Georeference | None:
    """The place that all files agree on; files without a CRS agree with any."""
    found: Georeference | None = None
    for source, factor in zip(sources, factors, strict=True):
        if source.crs is None:
            continue
        a, b, c, d, e, f = source.transform
        mine = Georeference(source.crs, (a / factor, b / factor, c, d / factor, e / factor, f))
        if found is None:
            found = mine
        pixel = max(map(abs, found.transform[:2]))
        apart = max(abs(p - q) for p, q in zip(mine.transform, found.transform, strict=True))
        if mine.crs != found.crs or apart > pixel / 2:
            raise DataRefused(
                f"the files show different places: {mine.crs} {mine.transform} and {found.crs} {found.transform}"
            )
    return found


@contextmanager
def _opened(file: GeoTiff) -> Iterator[Any]:
    """The file, opened by GDAL's GeoTIFF driver alone: a file that names others (a VRT, say) opens nothing else."""
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    if not isinstance(file.content, Path) and not file.content:
        raise DataRefused("a file is empty; give the bytes of a .tif")  # GDAL would open it for writing
    try:
        with rasterio.Env():
            if isinstance(file.content, Path):
                with rasterio.open(file.content, driver="GTiff") as dataset:
                    yield dataset
            else:
                with MemoryFile(file.content) as memory, memory.open(driver="GTiff") as dataset:
                    yield dataset
    except RasterioError as error:
        named = file.content if isinstance(file.content, Path) else "a file"
        raise DataRefused(f"{named} is not a readable GeoTIFF; give a .tif") from error
