"""Cloud-optimised GeoTIFFs (COG) with CRS and band names, one file per native grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from eoforge.codec.metadata import write_profile
from eoforge.codec.profile import Profile
from eoforge.codec.raster import Georeference, Raster, factor_of, grid_shape
from eoforge.codec.tiles import Block
from eoforge.data.bands import GROUP_OF, GROUPS, S1_10M
from eoforge.geo.crs import parse_crs
from eoforge.geo.gdal import session


def grids_of(bands: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Native grids of bands: ``s2_10m``, ``s2_20m``, ``s2_60m``, ``s1`` -> bands in order, empty grids left out."""
    given = set(bands)
    found = {group.column: tuple(band for band in group.bands if band in given) for group in GROUPS}
    return {grid: names for grid, names in found.items() if names}


def write_cogs(raster: Raster) -> dict[str, bytes]:
    """COG bytes of a raster by grid; see :func:`grids_of`."""
    from rasterio.io import MemoryFile  # noqa: TID251

    with session(), ExitStack() as stack:
        memory = {grid: stack.enter_context(MemoryFile(ext=".tif")) for grid in grids_of(raster.bands)}
        paths = {grid: str(file.name) for grid, file in memory.items()}
        block = Block(0, 0, raster.bands, raster.masks)
        write_cog_files(paths, raster.bands, raster.shape, raster.georeference, [block], raster.profile)
        return {grid: bytes(file.read()) for grid, file in memory.items()}


def write_cog_files(
    paths: Mapping[str, str],
    bands: Iterable[str],
    shape: tuple[int, int],
    georeference: Georeference | None,
    blocks: Iterable[Block],
    profile: Profile | None = None,
) -> None:
    """COG files of a raster that arrives in blocks and is never in memory as a whole.

    Args:
        paths: Grid of :func:`grids_of` -> path of its file; a temporary plain GeoTIFF of equal size lies beside it.
        bands: Names of the bands.
        shape: Rows and columns of the base grid.
        georeference: Georeference of the base grid, None if unknown.
        blocks: Pixels and masks.
        profile: Nodata, scales, tags and the like; None for the convention of reBEN.

    Raises:
        DataRefused: PROJ does not know the CRS.
    """
    import rasterio
    from rasterio import shutil
    from rasterio.windows import Window

    grids = grids_of(bands)
    plain = {grid: f"{paths[grid]}.plain" for grid in grids}
    with session():
        with ExitStack() as stack:
            sinks = {
                grid: stack.enter_context(
                    rasterio.open(plain[grid], "w", **_creation(names, shape, georeference, profile))  # noqa: TID251
                )
                for grid, names in grids.items()
            }
            for grid, names in grids.items():
                if profile is None:
                    sinks[grid].descriptions = names
                else:
                    write_profile(sinks[grid], names, profile.grids[grid])
            for block in blocks:
                for grid, names in grids.items():
                    factor = factor_of(names[0])
                    for index, name in enumerate(names, start=1):
                        rows, columns = block.pixels[name].shape
                        window = Window(block.column // factor, block.row // factor, columns, rows)
                        sinks[grid].write(block.pixels[name], index, window=window)
                    if grid in block.masks:
                        sinks[grid].write_mask(block.masks[grid], window=window)
        for grid in grids:
            shutil.copy(plain[grid], paths[grid], driver="COG", compress="DEFLATE", predictor="YES", bigtiff="IF_SAFER")
            shutil.delete(plain[grid])


def _creation(
    names: tuple[str, ...], shape: tuple[int, int], georeference: Georeference | None, profile: Profile | None
) -> dict[str, Any]:
    """Arguments that create the plain GeoTIFF: band-interleaved, the order in which blocks arrive."""
    from affine import Affine

    factor = factor_of(names[0])
    rows, columns = grid_shape(shape, factor)
    radar = names[0] in S1_10M.bands
    created = {"driver": "GTiff", "height": rows, "width": columns, "count": len(names), "interleave": "band"}
    created |= {"dtype": S1_10M.dtype if radar else "uint16", "bigtiff": "IF_SAFER"}
    if profile is None:
        created |= {} if radar else {"nodata": 0}
    elif profile.nodata_of(names[0]) is not None:
        created |= {"nodata": profile.grids[GROUP_OF[names[0]].column].nodata}
    if georeference is not None:
        created |= {"transform": Affine(*georeference.scaled(factor))}
        created |= {"crs": parse_crs(georeference.crs)} if georeference.crs else {}
    return created
