"""Terrain-corrected Sentinel-1 scenes, brought onto the grid of an optical tile."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.bands import S1_BANDS
from eoforge.data.names import SceneName, parse_scene
from eoforge.data.tiles.files import TileFiles
from eoforge.data.tiles.products import TIFF
from eoforge.data.tiles.tile import Tile
from eoforge.errors import DataRefused, NotFound
from eoforge.geo.gdal import open_raster
from eoforge.geo.grids import Bilinear, Grid, Stripes, check_last_block, onto, touches

_SCENE = re.compile(r"S1[A-D]_IW_GRDH_1SDV_\d{8}T\d{6}", re.ASCII)
_BAND = re.compile(r"(?:^|[_.\-])(VV|VH)(?:_10m)?$", re.ASCII | re.IGNORECASE)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """Scene with the files of its two bands."""

    name: SceneName
    where: str
    bands: dict[str, str]


def find_scenes(files: TileFiles) -> list[Scene]:
    """Scenes below an address: folders with one GeoTIFF for VV and one for VH, named as the scene.

    Raises:
        NotFound: There is none.
        DataRefused: A band is missing, a folder has no name of a scene, or two folders hold one scene.
    """
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for key in files.paths():
        folder, _, file = key.rpartition("/")
        match = _BAND.search(file.rsplit(".", 1)[0]) if file.lower().endswith(TIFF) else None
        if match:
            band = match[1].upper()
            if band in folders[folder]:
                raise DataRefused(f"{files.address(folder)}: two files for {band}: {folders[folder][band]} and {key}")
            folders[folder][band] = key
    scenes: dict[SceneName, Scene] = {}
    for folder, bands in folders.items():
        where = files.address(folder)
        missing = [band for band in S1_BANDS if band not in bands]
        if missing:
            raise DataRefused(f"{where} lacks {', '.join(missing)}; expected {' and '.join(S1_BANDS)}")
        names = _SCENE.findall(where) or _SCENE.findall(bands["VV"])
        if not names:
            raise DataRefused(f"{where}: expected a folder named as the scene, like S1B_IW_GRDH_1SDV_20170612T165809")
        name = parse_scene(names[-1])
        if name in scenes:
            raise DataRefused(f"two folders hold the scene {name}: {scenes[name].where} and {where}")
        scenes[name] = Scene(name, where, bands)
    if not scenes:
        raise NotFound(f"no radar at {files.address(files.only)}: expected folders with VV.tif and VH.tif")
    return list(scenes.values())


def scenes_of(tile: Tile, scenes: Sequence[Scene], files: TileFiles, days: int, *, whole: bool) -> list[Scene]:
    """Scenes that meet a tile within some days, nearest in time first.

    Raises:
        DataRefused: A file of such a scene is damaged or has no CRS, or no scene meets the tile.
    """
    near = [s for s in scenes if abs(s.name.acquired - tile.name.acquired) <= timedelta(days=days)]
    found: list[Scene] = []
    for scene in sorted(near, key=lambda s: (abs(s.name.acquired - tile.name.acquired), str(s.name))):
        meets = True
        for key in scene.bands.values():
            what = files.address(key)
            with open_raster(files.local(key), what) as dataset:
                if dataset.count != 1 or np.dtype(dataset.dtypes[0]).kind != "f":
                    kinds = f"{dataset.count} of {dataset.dtypes[0]}"
                    raise DataRefused(f"{what}: expected one band of floats, got {kinds}")
                meets = meets and touches(dataset, what, tile.grid)
                if whole and meets:
                    check_last_block(dataset, what)
        if meets:
            found.append(scene)
    if not found:
        raise DataRefused(
            f"{tile.where}: no radar scene within {days} days of {tile.name.acquired:%Y-%m-%d} meets the tile; give "
            "other scenes, more days, or none"
        )
    return found


class SceneReader:
    """Open scene on the grid of a tile, in dB; NaN where it has no pixels."""

    def __init__(self, scene: Scene, files: TileFiles, target: Grid, scale: str, stack: ExitStack) -> None:
        self.scene = scene
        self._stripes = [self._band(files, scene.bands[band], target, scale, stack) for band in S1_BANDS]

    def columns(self, left: int, right: int) -> Floats:
        """Backscatter ``[2, H, right - left]`` between two pixel columns: VV, VH."""
        return np.stack([stripes.columns(left, right) for stripes in self._stripes])

    @staticmethod
    def _band(files: TileFiles, key: str, target: Grid, scale: str, stack: ExitStack) -> Stripes:
        what = files.address(key)
        dataset = stack.enter_context(open_raster(files.local(key), what))
        # Power is averaged, not its logarithm.
        measured = Bilinear(_power, _decibels) if scale == "db" else Bilinear(np.asarray, np.asarray)

        def load(left: int, right: int) -> Floats:
            pixels = onto(dataset, what, target.window(left, right), lambda raw: _clean(raw, dataset.nodata), measured)
            return pixels if scale == "db" else _decibels(pixels)

        return Stripes(load, target.width)


def _clean(raw: npt.NDArray[Any], nodata: float | None) -> Floats:
    pixels = raw.astype(np.float32)
    bad = ~np.isfinite(pixels)
    if nodata is not None:
        bad |= pixels == np.float32(nodata)
    pixels[bad] = np.nan
    return pixels


def _power(decibels: Floats) -> Floats:
    return np.power(np.float32(10), decibels / np.float32(10))


def _decibels(power: Floats) -> Floats:
    """Backscatter in dB; no power gives NaN, which no patch may hold."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(power > 0, 10 * np.log10(power), np.nan).astype(np.float32)
