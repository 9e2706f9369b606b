"""Bad tiles: each is named before anything is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from eoforge.data.ingest.run import ingest
from eoforge.data.synthetic.tile import SyntheticTile
from eoforge.data.tiles.options import TileOptions
from eoforge.data.tiles.xml import number_of, parse_xml
from eoforge.errors import DataRefused, EoforgeError, NotFound, UsageError
from eoforge.geo.gdal import open_raster
from eoforge.geo.grids import grid_of

Copy = Callable[..., Path]


def refusal(tiles: Path, table: Path, **options: Any) -> str:
    """Message of a construction that is refused and leaves nothing behind."""
    before = {p for p in table.parent.rglob("*") if tiles not in p.parents}
    with pytest.raises(EoforgeError) as refused:
        ingest(str(tiles), str(table), tiles=TileOptions(**options))
    assert {p for p in table.parent.rglob("*") if tiles not in p.parents} == before
    return str(refused.value)


def write(path: Path, pixels: np.ndarray[Any, Any], crs: str, left: float, top: float, pixel: float) -> None:
    height, width = pixels.shape
    place = {"crs": crs, "transform": from_origin(left, top, pixel, pixel)}
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=1, dtype=pixels.dtype.name, **place
    ) as target:
        target.write(pixels, 1)


def rewrite(path: Path, *, crs: str | None = None, dtype: str | None = None, shift: float = 0) -> None:
    with rasterio.open(path) as source:
        pixels, place, system = source.read(1), source.transform, source.crs
    write(path, pixels.astype(dtype or pixels.dtype), crs or system, place.c + shift, place.f, place.a)


def test_a_missing_band(cogs: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    product = copy(cogs.product)
    (product / "B05.tif").unlink()
    (product / "B09.tif").unlink()
    assert f"{product} lacks B05, B09; expected the bands B01, " in refusal(product, tmp_path / "p.lance", boa_offset=0)


def test_mixed_crs(cogs: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    product = copy(cogs.product)
    rewrite(product / "B11.tif", crs="EPSG:32632")
    message = refusal(product, tmp_path / "p.lance", boa_offset=0)
    assert "expected one CRS" in message
    assert "B11 EPSG:32632" in message


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32632"])
def test_another_crs_than_that_of_the_tile(crs: str, cogs: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    product = copy(cogs.product)
    for path in product.glob("*.tif"):
        rewrite(path, crs=crs)
    message = refusal(product, tmp_path / "p.lance", boa_offset=0)
    assert crs in message
    assert "UTM zone" in message or "EPSG:32633" in message


def test_bands_that_do_not_start_at_one_corner(cogs: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    product = copy(cogs.product)
    rewrite(product / "B8A.tif", shift=10)
    assert "B8A starts at" in refusal(product, tmp_path / "p.lance", boa_offset=0)


def test_another_type(cogs: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    product = copy(cogs.product)
    rewrite(product / "B04.tif", dtype="float32")
    assert "B04.tif: expected uint16" in refusal(product, tmp_path / "p.lance", boa_offset=0)


@pytest.mark.parametrize("left", [0.5, 0.9, 0.999])
def test_a_half_downloaded_jp2(left: float, safe: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    product = copy(safe.product)
    (path,) = product.rglob("*_B03_10m.jp2")
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    message = refusal(product, tmp_path / "p.lance")
    assert f"{path} is cut off" in message
    assert "download it again" in message


def test_a_half_downloaded_cog(cogs: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    product = copy(cogs.product)
    path = product / "B12.tif"
    path.write_bytes(path.read_bytes()[: int(0.7 * path.stat().st_size)])
    assert f"{path} is not a readable GeoTIFF" in refusal(product, tmp_path / "p.lance", boa_offset=0)


@pytest.mark.parametrize("name", ["MTD_MSIL2A.xml", "MTD_TL.xml"])
def test_metadata_that_are_missing_or_cut_off(name: str, safe: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    product = copy(safe.product)
    (path,) = product.rglob(name)
    path.write_bytes(path.read_bytes()[:-40])
    assert f"{path} is cut off or no XML" in refusal(product, tmp_path / "p.lance")
    path.write_text(f'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>{path.read_text()}')
    assert f"{path} declares a document type" in refusal(product, tmp_path / "p.lance")
    path.unlink()
    assert f"lacks {path.relative_to(product)}" in refusal(product, tmp_path / "p.lance")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("<PROCESSING_BASELINE>99.99</PROCESSING_BASELINE>", "", "neither BOA_ADD_OFFSET nor a PROCESSING_BASELINE"),
        ("99.99", "05.11", "its processing baseline is 05.11, and it lists no BOA_ADD_OFFSET"),
    ],
)
def test_a_product_without_baseline_or_offset(
    old: str, new: str, expected: str, safe: SyntheticTile, copy: Copy, tmp_path: Path
) -> None:
    product = copy(safe.product)
    path = product / "MTD_MSIL2A.xml"
    text = path.read_text().replace(old, new)
    head, _, tail = text.partition("<BOA_ADD_OFFSET_VALUES_LIST>")
    path.write_text(head + tail.partition("</BOA_ADD_OFFSET_VALUES_LIST>")[2])
    message = refusal(product, tmp_path / "p.lance")
    assert f"{product}: the offset of its reflectances is not known: {'' if new else 'it names '}{expected}" in message
    assert "--boa-offset -1000" in message


def test_a_folder_of_bands_does_not_say_whether_its_offset_was_taken_out(cogs: SyntheticTile, tmp_path: Path) -> None:
    assert "--boa-offset 0 if they do not" in refusal(cogs.product, tmp_path / "p.lance")


def test_a_duplicate_tile(safe: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    first = copy(safe.product)
    second = copy(safe.product, safe.product.name.replace("101031.SAFE", "120000.SAFE"))
    message = refusal(first.parent, tmp_path / "p.lance")
    assert "the same tile S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP is given twice" in message
    assert str(first) in message
    assert str(second) in message


def test_two_products_of_one_day(cogs: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    first = copy(cogs.product)
    second = copy(cogs.product, cogs.product.name.replace("N9999", "N0205"))
    message = refusal(first.parent, tmp_path / "p.lance", boa_offset=0)
    assert "two products of tile 33UUP and one day" in message
    assert str(first) in message
    assert str(second) in message


@pytest.mark.parametrize("kind", ["polygons", "raster"])
def test_a_land_cover_map_that_lies_elsewhere(kind: str, cogs: SyntheticTile, tmp_path: Path) -> None:
    if kind == "polygons":
        from shapely.geometry import box

        from eoforge.geo.geopackage import write_geopackage

        cover = tmp_path / "map.gpkg"
        write_geopackage(cover, "clc", 32633, [(box(700_000, 5_000_000, 701_000, 5_001_000), "211")])
    else:
        cover = tmp_path / "map.tif"
        write(cover, np.full((10, 10), 211, dtype=np.uint16), "EPSG:32633", 700_000, 5_000_000, 100)
    message = refusal(cogs.product, tmp_path / "p.lance", boa_offset=0, land_cover=str(cover))
    assert message == f"the land-cover map {cover} does not cover the tile {cogs.product}"


@pytest.mark.parametrize("damage", ["cut", "text", "view", "no layer"])
def test_a_damaged_geopackage(damage: str, safe: SyntheticTile, tmp_path: Path) -> None:
    cover = tmp_path / "map.gpkg"
    shutil.copy(safe.land_cover, cover)
    if damage == "cut":
        cover.write_bytes(cover.read_bytes()[:5000])
    elif damage == "text":
        cover.write_text("no database")
    else:
        import sqlite3

        with sqlite3.connect(cover) as base:
            if damage == "view":
                base.execute("ALTER TABLE U2018_CLC2018 RENAME TO other")
                base.execute("CREATE VIEW U2018_CLC2018 AS SELECT * FROM other")
            else:
                base.execute("ALTER TABLE U2018_CLC2018 RENAME COLUMN Code_18 TO name")
        base.close()
    message = refusal(safe.product, tmp_path / "p.lance", land_cover=str(cover))
    assert message.startswith(str(cover))
    assert "GeoPackage" in message or "expected one layer of polygons" in message


def test_radar_that_does_not_fit(cogs: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    options = {"boa_offset": 0, "radar_scale": "db"}
    radar = copy(cogs.radar)
    (scene,) = radar.iterdir()
    late = refusal(cogs.product, tmp_path / "p.lance", radar=str(radar), **options | {"radar_days": 0})
    assert "no radar scene within 0 days of 2017-06-13" in late
    (scene / "VH.tif").unlink()
    assert f"{scene} lacks VH" in refusal(cogs.product, tmp_path / "p.lance", radar=str(radar), **options)
    shutil.rmtree(scene)
    assert "no radar at" in refusal(cogs.product, tmp_path / "p.lance", radar=str(radar), **options)


def test_options_that_contradict_each_other() -> None:
    for options in (
        {"radar": "/x"},
        {"radar_scale": "db"},
        {"radar": "/x", "radar_scale": "nepers"},
        {"boa_offset": 5},
    ):
        with pytest.raises(UsageError):
            TileOptions(**options).checked()  # type: ignore[arg-type]


def test_level_1c_is_refused(cogs: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    product = copy(cogs.product, cogs.product.name.replace("MSIL2A", "MSIL1C"))
    assert "is a level-1C product" in refusal(product, tmp_path / "p.lance", boa_offset=0)
    renamed = copy(cogs.product)
    shutil.copy(renamed / "B11.tif", renamed / "B10.tif")
    assert "holds B10, a band of level 1C" in refusal(renamed, tmp_path / "p.lance", boa_offset=0)


def test_a_folder_that_is_not_named_as_its_product(cogs: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    product = copy(cogs.product, "tile")
    assert "no name of a level-2A product" in refusal(product, tmp_path / "p.lance", boa_offset=0)


def test_an_address_without_tiles(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no level-2A product at"):
        ingest(str(tmp_path), str(tmp_path / "p.lance"), tiles=TileOptions())
    with pytest.raises(NotFound, match="does not exist"):
        ingest(str(tmp_path / "absent"), str(tmp_path / "p.lance"), tiles=TileOptions())


def test_the_sample_of_ssl4eo_is_in_degrees(shared_data: Path, tmp_path: Path) -> None:
    message = refusal(shared_data / "ssl4eo-s12-sample" / "s2a", tmp_path / "p.lance", boa_offset=0)
    assert "expected a UTM zone with pixels of whole metres, got EPSG:4326; warp it first" in message


def test_bad_input_ends_the_command_with_one_line(cogs: SyntheticTile, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eoforge.cli", "construct", str(cogs.product), str(tmp_path / "p.lance"), "--json"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == DataRefused.exit_code
    assert json.loads(made.stderr)["error"]["reason"] == "DATA_REFUSED"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8"])
def test_metadata_with_entities(encoding: str) -> None:
    text = '<!DOCTYPE a [<!ENTITY x "yyy">]><a>&x;</a>'
    with pytest.raises(DataRefused, match="document type"):
        parse_xml(text.encode(encoding), "metadata")


@pytest.mark.parametrize("number", ["nan", "inf", "1e999", "", "x"])
def test_metadata_with_numbers_that_are_none(number: str) -> None:
    with pytest.raises(DataRefused, match="expected a number in NROWS"):
        number_of(parse_xml(f"<a><NROWS>{number}</NROWS></a>".encode(), "metadata"), "NROWS", "metadata")


@pytest.mark.parametrize(("pixel", "left"), [(float("nan"), 5e5), (10.0, float("nan")), (float("inf"), 5e5)])
def test_a_transform_that_is_not_finite(pixel: float, left: float, tmp_path: Path) -> None:
    write(tmp_path / "a.tif", np.ones((4, 4), np.uint16), "EPSG:32633", left, 5e6, pixel)
    with open_raster(tmp_path / "a.tif") as dataset, pytest.raises(DataRefused, match="square upright pixels"):
        grid_of(dataset, "a file")
