"""Cloud-optimised GeoTIFFs: one per patch and native grid, or one mosaic per product and native grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eoforge.data.bands import GROUPS, S1_10M, S2_10M
from eoforge.data.loading.read_pair import read_pairs
from eoforge.data.names import tile_of
from eoforge.data.records import PatchPair
from eoforge.geo.footprint import PATCH_METRES
from eoforge.geo.grids import Grid
from eoforge.geo.writers import Put, mosaic, write_cog
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
    rows = open_table(table).to_table(columns=["patch_id", "epsg", "ulx", "uly"]).sort_by("patch_id")
    boxes = _boxes(rows)
    counts: dict[str, int] = {}
    keys = {key: f"{key[0]}{'' if not _seen(counts, key[0]) else f'_{counts[key[0]]}'}" for key in boxes}
    for _, pairs in groupby(read_pairs(table), key=lambda pair: tile_of(pair.meta.patch_id)):
        with ExitStack() as stack:
            puts: dict[tuple[Any, str], Put] = {}
            for pair in pairs:
                key = _key(pair.meta.patch_id, *_corner(pair))
                left, top, columns, down = boxes[key]
                for column, pixels, grid in rasters_of(pair):
                    if (key, column) not in puts:
                        names, metres, dtype = _GRIDS[column]
                        size = PATCH_METRES // metres
                        whole = Grid(grid.epsg, left, top, metres, columns * size, down * size)
                        nodata = np.nan if column == S1_10M.column else 0
                        path = out / f"{keys[key]}_{column}.tif"
                        puts[key, column] = stack.enter_context(mosaic(path, whole, names, dtype, nodata))
                    place = round((grid.left - left) / grid.pixel), round((top - grid.top) / grid.pixel)
                    puts[key, column](*place, pixels)


def _seen(counts: dict[str, int], name: str) -> bool:
    counts[name] = counts.get(name, -1) + 1
    return counts[name] > 0


def _corner(pair: PatchPair) -> tuple[int, int, int]:
    place = pair.meta.names.footprint
    return place.epsg, place.ulx, place.uly


def _key(patch_id: str, epsg: int, ulx: int, uly: int) -> tuple[str, int, int, int]:
    """Product and lattice of a patch."""
    return tile_of(patch_id), epsg, ulx % PATCH_METRES, uly % PATCH_METRES


def _boxes(rows: pa.Table) -> dict[tuple[str, int, int, int], tuple[int, int, int, int]]:
    """Left, top, columns and rows of patches of each mosaic."""
    corners: dict[tuple[str, int, int, int], list[tuple[int, int]]] = {}
    for row in rows.to_pylist():
        corners.setdefault(_key(**row), []).append((row["ulx"], row["uly"]))
    out = {}
    for key, found in corners.items():
        (left, bottom), (right, top) = map(min, zip(*found, strict=True)), map(max, zip(*found, strict=True))
        out[key] = left, top, (right - left) // PATCH_METRES + 1, (top - bottom) // PATCH_METRES + 1
    return out
