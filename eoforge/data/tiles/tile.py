"""Checked tile: a product whose bands lie on one lattice, and the patches that fit into it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from eoforge.data.bands import GROUP_OF, S2_10M, S2_BANDS
from eoforge.data.names import GRID_SIDE, PatchName, TileName
from eoforge.data.tiles.files import TileFiles
from eoforge.data.tiles.products import BandFile, Product
from eoforge.errors import DataRefused, NotFound
from eoforge.geo.footprint import PATCH_METRES, Footprint, tile_origin
from eoforge.geo.gdal import open_raster
from eoforge.geo.grids import Grid, check_last_block, check_side, grid_of

_TOLERANCE_M = 1e-3


@dataclass(frozen=True)
class Tile:
    """Tile whose headers were checked.

    Attributes:
        name: Name of the product without discriminator, as in reBEN.
        where: Address, for messages.
        bands: Files of all optical bands.
        offsets: Offset of the stored values of each band.
        grid: Grid of the 10 m bands.
        columns: Complete patches eastwards.
        rows: Complete patches southwards.
        first_x: ``x`` in the name of the first column: its place in the MGRS tile, 0 for a whole tile.
        first_y: ``y`` in the name of the first row.
    """

    name: TileName
    where: str
    bands: Mapping[str, BandFile]
    offsets: Mapping[str, int]
    grid: Grid
    columns: int
    rows: int
    first_x: int
    first_y: int

    def cells(self) -> Iterator[tuple[int, int]]:
        """Columns and rows of the complete patches that lie on the grid of the MGRS tile, in the order of names."""
        for column in range(max(0, -self.first_x), min(self.columns, GRID_SIDE - self.first_x)):
            for row in range(max(0, -self.first_y), min(self.rows, GRID_SIDE - self.first_y)):
                yield column, row

    def patch_id(self, column: int, row: int) -> str:
        """Name of a patch by its column and row in the raster."""
        return str(PatchName(self.name, self.first_x + column, self.first_y + row))

    def corner(self, column: int, row: int) -> Footprint | None:
        """Upper-left corner of a patch to the metre; None if its name implies the same."""
        origin = tile_origin(self.name.mgrs)
        left, top = self.grid.left + PATCH_METRES * column, self.grid.top - PATCH_METRES * row
        implied = origin.ulx + PATCH_METRES * (self.first_x + column), origin.uly - PATCH_METRES * (self.first_y + row)
        if max(abs(left - implied[0]), abs(top - implied[1])) < _TOLERANCE_M:
            return None
        return Footprint(self.grid.epsg, round(left), round(top))

    @property
    def edges(self) -> int:
        """Incomplete patches at the right and lower edges, which are dropped."""
        side = S2_10M.size
        return math.ceil(self.grid.width / side) * math.ceil(self.grid.height / side) - sum(1 for _ in self.cells())


@contextmanager
def open_band(files: TileFiles, file: BandFile, what: str) -> Iterator[tuple[Any, Grid]]:
    """Open raster of a band with its grid.

    Raises:
        DataRefused: It is damaged, or contradicts the product.
    """
    with open_raster(files.local(file.key), what) as dataset:
        if dataset.count != 1:
            raise DataRefused(f"{what}: expected one band, got {dataset.count}")
        grid = file.grid or grid_of(dataset, what)
        if (dataset.width, dataset.height) != (grid.width, grid.height):
            found = f"{dataset.width} x {dataset.height}"
            raise DataRefused(f"{what}: the product says {grid.width} x {grid.height} pixels, the file has {found}")
        check_side(grid.width, grid.height, what)
        yield dataset, grid


def check_tile(product: Product, files: TileFiles, boa_offset: int | None, *, whole: bool) -> Tile:
    """Tile of a product, after a check of the headers of all bands.

    Args:
        product: The product.
        files: Files of its address.
        boa_offset: Offset that the user gave, None to take that of the product.
        whole: Also decode the end of every file, so that one that was cut off is found before any work.

    Raises:
        DataRefused: A band is missing, damaged, of another type or on another grid; the name or the offset is not
            known; or no patch fits.
    """
    where = product.where
    missing = [band for band in S2_BANDS if band not in product.bands]
    if missing:
        raise DataRefused(f"{where} lacks {', '.join(missing)}; expected the bands {', '.join(S2_BANDS)}")
    grids: dict[str, Grid] = {}
    for band, file in product.bands.items():
        what = files.address(file.key)
        try:
            with open_band(files, file, what) as (dataset, grid):
                if dataset.dtypes[0] != "uint16":
                    raise DataRefused(f"{what}: expected uint16 reflectances x 10,000, got {dataset.dtypes[0]}")
                if dataset.nodata not in (None, 0):
                    raise DataRefused(f"{what}: expected the nodata value 0, got {dataset.nodata:g}")
                if whole:
                    check_last_block(dataset, what)
        except NotFound as error:
            raise DataRefused(f"{where}: {band} is not there: {error}") from error
        grids[band] = grid
    _check_lattice(grids, where)
    if product.name is None:
        raise DataRefused(
            f"{where}: no name of a level-2A product in the folder or the metadata; expected one like "
            "S2A_MSIL2A_20170613T101031_N0205_R022_T33UUP, because the names of patches contain it"
        )
    name, grid = product.name, grids["B02"]
    origin = tile_origin(name.mgrs)
    if grid.epsg != origin.epsg:
        raise DataRefused(f"{where}: tile {name.mgrs} lies in EPSG:{origin.epsg}, its bands in EPSG:{grid.epsg}")
    half = PATCH_METRES / 2
    sizes = [(GROUP_OF[band].size, g) for band, g in grids.items()]
    tile = Tile(
        name,
        where,
        product.bands,
        product.offsets.known(where, boa_offset),
        grid,
        columns=min(g.width // size for size, g in sizes),
        rows=min(g.height // size for size, g in sizes),
        first_x=math.floor((grid.left + half - origin.ulx) / PATCH_METRES),
        first_y=math.floor((origin.uly - grid.top + half) / PATCH_METRES),
    )
    if next(tile.cells(), None) is None:
        raise DataRefused(f"{where}: no complete patch of {PATCH_METRES} m within tile {name.mgrs}")
    return tile


def _check_lattice(grids: Mapping[str, Grid], where: str) -> None:
    """Refuses bands of several CRS, resolutions or corners."""
    systems = {grid.epsg for grid in grids.values()}
    if len(systems) > 1:
        listed = ", ".join(f"{band} EPSG:{grid.epsg}" for band, grid in grids.items())
        raise DataRefused(f"{where}: expected one CRS, got {listed}")
    first = grids["B02"]
    for band, grid in grids.items():
        metres = GROUP_OF[band].resolution
        if grid.pixel != metres:
            raise DataRefused(f"{where}: {band}: expected pixels of {metres} m, got {grid.pixel:g} m")
        if max(abs(grid.left - first.left), abs(grid.top - first.top)) > _TOLERANCE_M:
            raise DataRefused(
                f"{where}: {band} starts at ({grid.left:.3f}, {grid.top:.3f}), "
                f"B02 at ({first.left:.3f}, {first.top:.3f})"
            )
