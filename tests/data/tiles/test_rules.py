"""Rules of the construction: what is dropped and counted, where patches lie, how radar and land cover are read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from eoforge.data.archives.offset import without_offset
from eoforge.data.ingest.quarantine import quarantine_uri
from eoforge.data.ingest.run import IngestSummary, ingest
from eoforge.data.labels import clc_to_classes
from eoforge.data.synthetic.tile import SyntheticTile
from eoforge.data.tiles.land_cover import LandCover
from eoforge.data.tiles.options import TileOptions
from eoforge.geo.grids import Grid
from eoforge.storage.addresses import TableRef, open_table
from tests.data.tiles.support import CELLS, cells, held

UNLABELLED, LABELLED = 332, 311


def construct(product: Path, table: Path, **options: Any) -> IngestSummary:
    return ingest(str(product), str(table), tiles=TileOptions(boa_offset=0, **options))


def edit(path: Path, change: Callable[[np.ndarray[Any, Any]], None]) -> None:
    """Changes the pixels of a raster in place."""
    with rasterio.open(path) as source:
        pixels, profile = source.read(1), source.profile
    change(pixels)
    with rasterio.open(path, "w", **{**profile, "driver": "GTiff"}) as target:
        target.write(pixels, 1)


def raster_map(path: Path, pixels: np.ndarray[Any, Any], left: float, top: float, pixel: float = 10) -> Path:
    """Land cover in EPSG:32633 as GeoTIFF."""
    height, width = pixels.shape
    place = {"crs": "EPSG:32633", "transform": from_origin(left, top, pixel, pixel)}
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=1, dtype=pixels.dtype.name, **place
    ) as target:
        target.write(pixels, 1)
    return path


def origin(product: Path) -> tuple[float, float]:
    with rasterio.open(product / "B02.tif") as source:
        return source.transform.c, source.transform.f


def reasons(table: Path) -> dict[str, str]:
    rows = open_table(TableRef(quarantine_uri(str(table)))).to_table().to_pylist()
    return {row["patch_id"][-5:]: row["reason"] for row in rows}


def test_a_pixel_without_data_in_any_band_drops_the_patch(
    cogs: SyntheticTile, copy: Callable[..., Path], tmp_path: Path
) -> None:
    product = copy(cogs.product)
    edit(product / "B09.tif", lambda pixels: pixels.__setitem__((0, 0), 0))  # patch 12_22
    edit(product / "B8A.tif", lambda pixels: pixels.__setitem__((179, 119), 0))  # the last of patch 13_24
    edit(product / "B02.tif", lambda pixels: pixels.__setitem__((slice(None), -1), 0))  # the incomplete edge
    summary = construct(product, tmp_path / "p.lance")
    assert (summary.patches_in, summary.added, summary.reasons) == (6, 4, {"nodata_s2": 2})
    assert reasons(tmp_path / "p.lance") == {"12_22": "nodata_s2", "13_24": "nodata_s2"}


def test_the_unlabelled_share_is_below_a_quarter_strictly(cogs: SyntheticTile, tmp_path: Path) -> None:
    left, top = origin(cogs.product)
    codes = np.full((360, 240), LABELLED, dtype=np.uint16)
    codes[:30, :120] = UNLABELLED  # a quarter of patch 12_22
    codes[120:150, :120] = UNLABELLED
    codes[120, 0] = 523  # one pixel less than a quarter, and one more class
    cover = raster_map(tmp_path / "map.tif", codes, left, top)
    summary = construct(cogs.product, tmp_path / "p.lance", land_cover=str(cover))
    assert (summary.added, summary.reasons) == (5, {"unlabelled": 1})
    found = {pair.meta.patch_id[-5:]: pair for pair in held(tmp_path / "p.lance")}
    assert "12_22" not in found
    assert found["12_23"].meta.labels == ("Broad-leaved forest", "Marine waters")
    assert float((clc_to_classes(found["12_23"].reference_map) == 255).mean()) < 0.25  # type: ignore[arg-type]


def test_pixels_without_land_cover_are_999(cogs: SyntheticTile, tmp_path: Path) -> None:
    left, top = origin(cogs.product)
    codes = np.full((120, 110), LABELLED, dtype=np.uint16)
    codes[0, 0] = 0
    cover = raster_map(tmp_path / "map.tif", codes, left, top)
    construct(cogs.product, tmp_path / "p.lance", land_cover=str(cover))
    (pair,) = held(tmp_path / "p.lance")  # the other five have no land cover at all
    assert pair.reference_map is not None
    assert pair.reference_map[0, 0] == 999
    assert (pair.reference_map[:, 110:] == 999).all()
    assert (pair.reference_map[1:, :110] == LABELLED).all()


def test_a_coarser_map_gives_the_code_at_the_centre_of_each_pixel(cogs: SyntheticTile, tmp_path: Path) -> None:
    left, top = origin(cogs.product)
    rng = np.random.default_rng(0)
    coarse = rng.choice(np.array([211, 311, 523], dtype=np.uint16), size=(16, 14))
    cover = LandCover(str(raster_map(tmp_path / "map.tif", coarse, left - 133, top + 133, 100)))
    grid = Grid(32633, left, top, 10, 120, 120)
    with ExitStack() as stack:
        found = cover.open(grid, stack).columns(0, 120)
    centre = 133 + 10 * np.arange(120) + 5
    np.testing.assert_array_equal(found, coarse[np.ix_(centre // 100, centre // 100)])


def test_a_geopackage_of_gdal_is_read_like_ours(safe: SyntheticTile, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.gpkg"
    script = "import sys, geopandas as g; g.read_file(sys.argv[1]).to_file(sys.argv[2], layer='clc', driver='GPKG')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GDAL", "PROJ", "CPL"))}
    command = [sys.executable, "-c", script, str(safe.land_cover), str(theirs)]
    subprocess.run(command, check=True, env=environment, timeout=120)
    grid = Grid(32633, 314_400, 5_373_600, 10, 240, 360)
    with ExitStack() as stack:
        ours, other = (LandCover(str(p)).open(grid, stack).columns(0, 240) for p in (safe.land_cover, theirs))
    np.testing.assert_array_equal(ours, other)
    assert len(np.unique(ours)) > 2
    assert 999 not in ours


def test_unknown_codes_go_to_quarantine(cogs: SyntheticTile, tmp_path: Path) -> None:
    left, top = origin(cogs.product)
    cover = raster_map(tmp_path / "map.tif", np.full((360, 240), 12, dtype=np.uint8), left, top)
    assert construct(cogs.product, tmp_path / "p.lance", land_cover=str(cover)).reasons == {"unknown_clc": 6}


def test_linear_power_becomes_decibels(cogs: SyntheticTile, copy: Callable[..., Path], tmp_path: Path) -> None:
    radar = copy(cogs.radar)
    for path in radar.rglob("*.tif"):
        edit(path, _to_power)
    construct(cogs.product, tmp_path / "p.lance", radar=str(radar), radar_scale="linear")
    for found, wanted in zip(held(tmp_path / "p.lance"), cells(), strict=True):
        assert found.s1 is not None
        assert wanted.s1 is not None
        np.testing.assert_allclose(found.s1, wanted.s1, atol=1e-4)


def _to_power(pixels: np.ndarray[Any, Any]) -> None:
    pixels[...] = np.power(np.float32(10), pixels / 10)


def test_radar_on_another_grid_is_resampled_in_power(
    cogs: SyntheticTile, copy: Callable[..., Path], tmp_path: Path
) -> None:
    """Two values side by side, half a pixel off: the mean of their powers, not of their decibels."""
    radar = copy(cogs.radar)
    left, top = origin(cogs.product)
    for path in radar.rglob("*.tif"):
        pixels = np.full((400, 300), -20, dtype=np.float32)
        pixels[:, ::2] = -10
        raster_map(path, pixels, left - 105, top + 100)
    construct(cogs.product, tmp_path / "p.lance", radar=str(radar), radar_scale="db")
    for pair in held(tmp_path / "p.lance"):
        assert pair.s1 is not None
        np.testing.assert_allclose(pair.s1, 10 * np.log10((0.1 + 0.01) / 2), atol=1e-3)


def test_each_patch_takes_the_nearest_scene_in_time_that_covers_it(
    cogs: SyntheticTile, copy: Callable[..., Path], tmp_path: Path
) -> None:
    radar = copy(cogs.radar)
    near = next(radar.iterdir())
    far = radar / "S1A_IW_GRDH_1SDV_20170609T165809_20170609T165834_016956_01C3B2_1234"
    shutil.copytree(near, far)
    for path in near.glob("*.tif"):  # no pixels over patch 13_23
        edit(path, lambda pixels: pixels.__setitem__((slice(120, 240), slice(120, 240)), np.nan))
    construct(cogs.product, tmp_path / "p.lance", radar=str(radar), radar_scale="db")
    names = {pair.meta.patch_id[-5:]: str(pair.meta.s1_name) for pair in held(tmp_path / "p.lance")}
    assert names["13_23"] == "S1A_IW_GRDH_1SDV_20170609T165809_33UUP_13_23"
    assert {name[:30] for patch, name in names.items() if patch != "13_23"} == {"S1B_IW_GRDH_1SDV_20170612T1658"}
    few = construct(cogs.product, tmp_path / "q.lance", radar=str(radar), radar_scale="db", radar_days=2)
    assert few.reasons == {"s1_missing": 1}


def test_a_raster_off_the_grid_of_its_tile_keeps_its_place(
    cogs: SyntheticTile, copy: Callable[..., Path], tmp_path: Path
) -> None:
    product = copy(cogs.product)
    left, top = origin(product)
    left, top = left + 431.25, top - 700
    for path in product.glob("*.tif"):
        with rasterio.open(path) as source:
            pixels, pixel = source.read(1), source.res[0]
        raster_map(path, pixels, left, top, pixel)
    construct(product, tmp_path / "p.lance")
    rows = open_table(TableRef(str(tmp_path / "p.lance"))).to_table().sort_by("patch_id")
    # The names say in which cell of the tile the centre of each patch lies; the columns say where it lies exactly.
    assert [name[-5:] for name in rows["patch_id"].to_pylist()] == [f"{x}_{y + 1}" for x, y in CELLS]
    assert rows["ulx"].to_pylist() == [round(left) + 1200 * (x - 12) for x, _ in CELLS]
    assert rows["uly"].to_pylist() == [round(top) - 1200 * (y - 22) for _, y in CELLS]
    pair = held(tmp_path / "p.lance")[0]
    assert pair.meta.names.footprint.ulx == round(left)


def test_offsets_keep_nodata_and_leave_no_zero() -> None:
    stored = np.array([0, 1, 1000, 1001, 65535], dtype=np.uint16)
    assert without_offset(stored, -1000).tolist() == [0, 1, 1, 1, 64535]
    assert without_offset(stored, 0) is stored


@pytest.mark.parametrize("name", ["major-tom-s2l2a-cell"])
def test_a_real_cell_of_major_tom(name: str, shared_data: Path, tmp_path: Path) -> None:
    summary = construct(shared_data / name / "S2L2A", tmp_path / "p.lance")
    assert (summary.patches_in, summary.added, summary.edges) == (64, 64, 17)
    rows = open_table(TableRef(str(tmp_path / "p.lance"))).to_table(columns=["ulx", "uly", "mgrs_tile", "epsg"])
    assert set(rows["mgrs_tile"].to_pylist()) == {"48QUE"}
    assert (min(rows["ulx"].to_pylist()), max(rows["uly"].to_pylist())) == (362612, 1987088)
