"""Land cover of a tile: CLC level-3 codes from polygons or a raster, by the rule of the pixel's centre."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.labels import IGNORE_INDEX, clc_to_classes
from eoforge.data.tiles.files import TileFiles
from eoforge.data.tiles.tile import Tile
from eoforge.errors import DataRefused, UsageError
from eoforge.geo.gdal import open_raster
from eoforge.geo.grids import Grid, Stripes, check_last_block, onto, touches
from eoforge.geo.polygons import PolygonLayer, burn, layer_touches, open_layer

NO_DATA = 999
"""Code of pixels without land cover."""
MAX_UNLABELLED = 0.25
"""Limit of the share of a patch without a class; a patch at the limit is dropped."""
_CODE_COLUMN = re.compile(r"(?i)(?:clc_?)?code_?(?:\d\d|\d{4})?|clc_?(?:\d\d|\d{4})")
_GEOPACKAGE, _RASTER = (".gpkg",), (".tif", ".tiff")


class LandCover:
    """Land-cover map of one file.

    Attributes:
        where: Its address.
    """

    def __init__(self, address: str) -> None:
        """Map at an address.

        Raises:
            UsageError: It is neither a GeoPackage nor a GeoTIFF.
            NotFound: It does not exist.
            DataRefused: It is a damaged GeoPackage.
        """
        self.where = address
        if not address.lower().endswith((*_GEOPACKAGE, *_RASTER)):
            raise UsageError(f"expected land cover as .gpkg or .tif with CLC level-3 codes, got {address}")
        self._files = TileFiles(address)
        if not self._files.only:
            raise UsageError(f"{address} is a folder; name the file of the land cover")
        self._layer: PolygonLayer | None = None
        if address.lower().endswith(_GEOPACKAGE):
            self._layer = open_layer(self._files.local(self._files.only), address, _CODE_COLUMN)

    def check(self, tile: Tile) -> None:
        """Refuses a map that lies elsewhere.

        Raises:
            DataRefused: It does not meet the tile, or is damaged.
        """
        if self._layer is not None:
            meets = layer_touches(self._layer, tile.grid)
        else:
            with open_raster(self._files.local(self._files.only), self.where) as dataset:
                if dataset.count != 1 or np.dtype(dataset.dtypes[0]).kind not in "ui":
                    raise DataRefused(f"{self.where}: expected one band of CLC codes, got {dataset.dtypes}")
                meets = touches(dataset, self.where, tile.grid)
                check_last_block(dataset, self.where)
        if not meets:
            raise DataRefused(f"the land-cover map {self.where} does not cover the tile {tile.where}")

    def open(self, target: Grid, stack: ExitStack) -> Stripes:
        """Codes on the grid of a tile, uint16 stripe by stripe; ``NO_DATA`` where there are none."""
        if self._layer is not None:
            layer = self._layer
            return Stripes(lambda left, right: burn(layer, target.window(left, right), NO_DATA), target.width)
        dataset = stack.enter_context(open_raster(self._files.local(self._files.only), self.where))

        def load(left: int, right: int) -> npt.NDArray[np.uint16]:
            codes = onto(dataset, self.where, target.window(left, right), lambda raw: _clean(raw, dataset.nodata))
            return np.where(np.isnan(codes), NO_DATA, codes).astype(np.uint16)

        return Stripes(load, target.width)

    def release(self) -> None:
        """Deletes the copy of a map from an object store."""
        self._files.release()


def unlabelled_share(codes: npt.NDArray[np.uint16]) -> float:
    """Share of the pixels of a map ``[H, W]`` of known codes that belong to no class."""
    return float((clc_to_classes(codes) == IGNORE_INDEX).mean())


def _clean(raw: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[np.float32]:
    codes = raw.astype(np.float32)
    codes[(codes <= 0) | (codes >= 1 << 16)] = np.nan
    if nodata is not None:
        codes[codes == nodata] = np.nan
    return codes
