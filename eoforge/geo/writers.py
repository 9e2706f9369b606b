"""Writers of rasters: cloud-optimised GeoTIFF, also piece by piece, and JPEG 2000."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt

from eoforge.geo.crs import parse_crs
from eoforge.geo.gdal import session
from eoforge.geo.grids import Grid

_TILE = 512
_COMPRESSED: dict[str, Any] = {"compress": "DEFLATE", "predictor": "YES"}
_PLAIN: dict[str, Any] = {"compress": "NONE", "overviews": "NONE"}

Array = npt.NDArray[Any]
Put = Callable[[int, int, Array], None]
"""Function that writes pixels ``[C, H, W]`` at a column and row of a raster."""
Categories = Sequence[tuple[str, tuple[int, int, int]]]
"""Name and colour (red, green, blue) of each value of a raster, from 0 on."""


def write_cog(
    path: Path, pixels: Array, grid: Grid, nodata: float | None, *, names: Sequence[str] = (), fast: bool = False
) -> None:
    """Cloud-optimised GeoTIFF, DEFLATE with predictor.

    Args:
        path: The file.
        pixels: ``[H, W]`` or ``[C, H, W]``.
        grid: Where they lie.
        nodata: Nodata tag.
        names: Names of the bands.
        fast: Neither compression nor overviews, for tests.
    """
    options = _PLAIN if fast else _COMPRESSED
    _write(path, pixels, names, {"driver": "COG", "blocksize": _TILE, "nodata": nodata, **_place(grid), **options})


def write_jp2(path: Path, pixels: Array, block: int) -> None:
    """Lossless JPEG 2000 of one band ``[H, W]`` in internal tiles, without georeference."""
    size = {"blockxsize": block, "blockysize": block} if block < min(pixels.shape) else {}
    lossless = {"driver": "JP2OpenJPEG", "quality": 100, "reversible": "YES", "gmljp2": "NO", "geojp2": "NO"}
    _write(path, pixels, (), {**lossless, **size})


@contextmanager
def mosaic(
    path: Path, grid: Grid, names: Sequence[str], dtype: str, nodata: float, categories: Categories = ()
) -> Iterator[Put]:
    """Cloud-optimised GeoTIFF that is written piece by piece; pixels that nobody writes are nodata.

    GeoTIFF has colours of values, but no names of them: these are written as tags of the band (``CLASS_0``, ...), and
    into the file ``.aux.xml`` beside it, from which GDAL and QGIS read them.

    Args:
        path: The file; a temporary plain GeoTIFF lies beside it.
        grid: The whole raster.
        names: Names of the bands.
        dtype: NumPy name of the type.
        nodata: Nodata tag.
        categories: Names and colours of the values of a raster of one band and eight bits.
    """
    import rasterio
    from rasterio import shutil
    from rasterio.windows import Window

    plain = path.with_name(f"{path.name}.plain")
    profile = {"width": grid.width, "height": grid.height, "count": len(names), "dtype": dtype, "nodata": nodata}
    profile |= {"driver": "GTiff", "tiled": True, "blockxsize": _TILE, "blockysize": _TILE, "interleave": "band"}
    try:
        with session():
            with rasterio.open(  # noqa: TID251
                plain, "w", bigtiff="IF_SAFER", sparse_ok=True, **profile, **_place(grid)
            ) as target:
                target.descriptions = tuple(names)
                if categories:
                    target.write_colormap(1, {value: colour for value, (_, colour) in enumerate(categories)})
                    target.update_tags(1, **{f"CLASS_{value}": name for value, (name, _) in enumerate(categories)})

                def put(column: int, row: int, pixels: Array) -> None:
                    target.write(pixels, window=Window(column, row, pixels.shape[2], pixels.shape[1]))

                yield put
            shutil.copy(plain, path, driver="COG", blocksize=_TILE, bigtiff="IF_SAFER", **_COMPRESSED)
        if categories:
            _write_categories(path, [name for name, _ in categories])
    finally:
        plain.unlink(missing_ok=True)


def _write_categories(path: Path, names: Sequence[str]) -> None:
    root = ElementTree.Element("PAMDataset")
    found = ElementTree.SubElement(ElementTree.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for name in names:
        ElementTree.SubElement(found, "Category").text = name
    ElementTree.ElementTree(root).write(path.with_name(f"{path.name}.aux.xml"), encoding="utf-8")


def _place(grid: Grid) -> dict[str, Any]:
    from rasterio.transform import Affine

    transform = Affine(grid.pixel, 0, grid.left, 0, -grid.pixel, grid.top)
    return {"crs": parse_crs(f"EPSG:{grid.epsg}"), "transform": transform}


def _write(path: Path, pixels: Array, names: Sequence[str], profile: dict[str, Any]) -> None:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    bands = pixels if pixels.ndim == 3 else pixels[None]
    count, height, width = bands.shape
    with session(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(  # noqa: TID251
            path, "w", width=width, height=height, count=count, dtype=pixels.dtype.name, **profile
        ) as target:
            target.write(bands)
            if names:
                target.descriptions = tuple(names)
