"""Mosaics: rasters of patches put together to one cloud-optimised GeoTIFF per product and layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import pyarrow as pa

from eoforge.data.names import tile_of
from eoforge.geo.footprint import PATCH_METRES
from eoforge.geo.grids import Grid
from eoforge.geo.writers import Categories, Put, mosaic


class Placed(NamedTuple):
    """Patch and its upper-left corner in metres of ``epsg``."""

    patch_id: str
    epsg: int
    ulx: int
    uly: int

    @property
    def lattice(self) -> tuple[str, int, int, int]:
        """Product, CRS and offset of the lattice of 1,200 m on which the patch lies: what one mosaic can hold."""
        return tile_of(self.patch_id), self.epsg, self.ulx % PATCH_METRES, self.uly % PATCH_METRES


@dataclass(frozen=True)
class Layer:
    """Kind of raster that each patch has: names of its bands, metres per pixel, NumPy name of the type, nodata."""

    bands: tuple[str, ...]
    metres: int
    dtype: str
    nodata: float
    categories: Categories = ()


@dataclass(frozen=True)
class Mosaic:
    """Extent of a mosaic in patches; ``name`` is that of the product, with a number from its second lattice on."""

    name: str
    epsg: int
    left: int
    top: int
    columns: int
    rows: int

    def grid(self, metres: int) -> Grid:
        """Grid of a layer of ``metres`` per pixel."""
        size = PATCH_METRES // metres
        return Grid(self.epsg, self.left, self.top, metres, self.columns * size, self.rows * size)


Mosaics = Mapping[tuple[str, int, int, int], Mosaic]
"""Mosaics by the lattice of their patches."""


def mosaics_of(patches: pa.Table) -> Mosaics:
    """Mosaics of patches with the columns ``patch_id``, ``epsg``, ``ulx`` and ``uly``."""
    corners: dict[tuple[str, int, int, int], list[tuple[int, int]]] = {}
    for row in patches.select(["patch_id", "epsg", "ulx", "uly"]).sort_by("patch_id").to_pylist():
        corners.setdefault(Placed(**row).lattice, []).append((row["ulx"], row["uly"]))
    out: dict[tuple[str, int, int, int], Mosaic] = {}
    seen: dict[str, int] = {}
    for key, found in corners.items():
        (left, bottom), (right, top) = map(min, zip(*found, strict=True)), map(max, zip(*found, strict=True))
        number = seen[key[0]] = seen.get(key[0], -1) + 1
        size = (right - left) // PATCH_METRES + 1, (top - bottom) // PATCH_METRES + 1
        out[key] = Mosaic(f"{key[0]}_{number}" if number else key[0], key[1], left, top, *size)
    return out


def write_layers(
    patches: Iterable[tuple[Placed, Mapping[str, npt.NDArray[Any]]]],
    mosaics: Mosaics,
    layers: Mapping[str, Layer],
    out: Path,
) -> int:
    """Mosaics ``<product>_<layer>.tif`` in an existing folder; pixels that no patch has are nodata.

    Args:
        patches: Patches in the order of their names, each with pixels ``[C, H, W]`` by layer. The files of a product
            are complete when the next one begins.
        mosaics: Extents, from :func:`mosaics_of`.
        layers: Layers by name.
        out: The folder.

    Returns:
        Number of mosaics written.
    """
    written = 0
    for _, of_product in groupby(patches, key=lambda item: tile_of(item[0].patch_id)):
        with ExitStack() as stack:
            puts: dict[tuple[Any, str], Put] = {}
            for place, rasters in of_product:
                whole = mosaics[place.lattice]
                for name, pixels in rasters.items():
                    layer = layers[name]
                    if (place.lattice, name) not in puts:
                        path = out / f"{whole.name}_{name}.tif"
                        target = mosaic(
                            path, whole.grid(layer.metres), layer.bands, layer.dtype, layer.nodata, layer.categories
                        )
                        puts[place.lattice, name] = stack.enter_context(target)
                    column, row = (place.ulx - whole.left) // layer.metres, (whole.top - place.uly) // layer.metres
                    puts[place.lattice, name](column, row, pixels)
            written += len(puts)
    return written
