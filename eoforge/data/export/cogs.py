"""Cloud-optimised GeoTIFFs of patches: one per patch and native grid, or one mosaic per product and native grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.bands import GROUPS, S1_10M, S2_10M
from eoforge.data.export.mosaics import Layer, Placed, mosaics_of, write_layers
from eoforge.data.loading.read_pair import read_pairs
from eoforge.data.names import tile_of
from eoforge.data.records import PatchPair
from eoforge.geo.grids import Grid
from eoforge.geo.writers import write_cog
from eoforge.storage.addresses import TableRef, open_table

_MAP = "reference_map"
_GRIDS = {
    **{group.column: (group.bands, group.resolution, group.dtype) for group in GROUPS},
    _MAP: (("CLC",), S2_10M.resolution, "uint16"),
}
"""Bands, metres and type of each raster column."""


def rasters_of(pair: PatchPair) -> Iterator[tuple[str, npt.NDArray[Any], Grid]]:
    """Column, pixels ``[C, H, W]`` and grid of each raster that a patch has."""
    place = pair.meta.names.footprint
    for column, (_, metres, _) in _GRIDS.items():
        pixels = getattr(pair, column)
        if pixels is not None:
            stack = pixels if pixels.ndim == 3 else pixels[None]
            yield column, stack, Grid(place.epsg, place.ulx, place.uly, metres, stack.shape[2], stack.shape[1])


def write_patch(pair: PatchPair, out: Path) -> dict[str, Path]:
    """COGs of one patch below ``<out>/<tile>/<patch_id>``: path by column."""
    folder = out / tile_of(pair.meta.patch_id) / pair.meta.patch_id
    folder.mkdir(parents=True)
    written = {}
    for column, pixels, grid in rasters_of(pair):
        written[column] = folder / f"{pair.meta.patch_id}_{column}.tif"
        nodata = None if column == S1_10M.column else 0
        write_cog(written[column], pixels, grid, nodata, names=_GRIDS[column][0])
    return written


def write_patches(pairs: Iterable[PatchPair], out: Path) -> None:
    """COGs of all patches."""
    out.mkdir()
    for pair in pairs:
        write_patch(pair, out)


def write_mosaics(table: TableRef, out: Path) -> None:
    """One COG per product and native grid; patches off the grid of their tile have files of their own."""
    out.mkdir()
    places = mosaics_of(open_table(table).to_table(columns=["patch_id", "epsg", "ulx", "uly"]))
    layers = {column: _layer(column) for column in _GRIDS}
    pixels = ((_placed(pair), {column: stack for column, stack, _ in rasters_of(pair)}) for pair in read_pairs(table))
    write_layers(pixels, places, layers, out)


def _layer(column: str) -> Layer:
    names, metres, dtype = _GRIDS[column]
    return Layer(names, metres, dtype, np.nan if column == S1_10M.column else 0)


def _placed(pair: PatchPair) -> Placed:
    place = pair.meta.names.footprint
    return Placed(pair.meta.patch_id, place.epsg, place.ulx, place.uly)
