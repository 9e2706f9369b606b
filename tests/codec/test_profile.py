"""What a GeoTIFF says about its pixels comes back from a stream, and no loss changes which pixels are valid."""

from __future__ import annotations

import base64
import io
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC

from eoforge.codec.bounded.streams import compress_bounded, decompress
from eoforge.codec.coder import Coder, MaxError, Rate
from eoforge.codec.cog import write_cogs
from eoforge.codec.container import inspect
from eoforge.codec.geotiff import GeoTiff, open_raster, read_raster
from eoforge.codec.learned.model import Codec
from eoforge.codec.learned.streams import write
from eoforge.codec.profile import BandProfile, ControlPoint, GridProfile, Profile
from eoforge.codec.raster import Georeference, Raster
from eoforge.codec.validity import invalid_of, is_nodata
from eoforge.errors import DataRefused
from eoforge.geo.gdal import open_geotiff

SIDE = 36
RNG = np.random.default_rng(3)
AFFINE = rasterio.Affine(10, 1, 331_200, 2, -10, 5_331_600)
MASK = np.add.outer(np.arange(SIDE), np.arange(SIDE)) > 20
POINTS = [GroundControlPoint(0.5, 1.25, 14.0, 50.0, 3.0), GroundControlPoint(20, 30.75, 15.0, 51.0)]
RPCS = RPC(
    line_off=7.25, samp_off=11, lat_off=3.125, long_off=9, height_off=1, line_scale=8, samp_scale=12, lat_scale=4,
    long_scale=10, height_scale=2, line_num_coeff=[0.1 + i for i in range(20)], line_den_coeff=[1.0] * 20,
    samp_num_coeff=[5.5e-7] * 20, samp_den_coeff=[4.0] * 20, err_bias=0.5, err_rand=0.25,
)  # fmt: skip
FIRST_VERSION = (
    "RU9GQwEAAgEBAAYAAAAGAAAAAAAAAAAAwH8AAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAB4eX8AAAAAAAAAahhBAAAAANASU0EAAAAAAAAkQFQAAAAAAAAA"
    "uKdCxY6vQ8KRDb2FQ0VAJgAAANhwBQDT7wAAAAAAAAAA9AIAAJMHOBaUBw9tUbXm/P//VP3//+P+/wD/ngAAAAAAAAAAVAAAADAADgACAAAAOwMA3tb7"
    "0g=="
)
"""A stream that eoforge made before profiles."""
UNKNOWN = CRS.from_string("+proj=utm +zone=33 +ellps=intl +towgs84=-87,-98,-121,0,0,0,0")


def optical(low: int = 1, high: int = 900, side: int = SIDE) -> np.ndarray[Any, Any]:
    return RNG.integers(low, high, (side, side), dtype=np.uint16)


def written(
    path: Path, bands: dict[str, np.ndarray[Any, Any]], mask: np.ndarray[Any, Any] | None = None, **given: Any
) -> Path:
    """A GeoTIFF; ``given`` holds arguments of rasterio.open and attributes of the dataset."""
    first = next(iter(bands.values()))
    attributes = {
        key: given.pop(key)
        for key in ("scales", "offsets", "units", "gcps", "rpcs", "colorinterp", "descriptions")
        if key in given
    }
    tags, band_tags = given.pop("tags", {}), given.pop("band_tags", {})
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", height=first.shape[0], width=first.shape[1], count=len(bands),
            dtype=first.dtype.name, **given,
        ) as target,
    ):  # fmt: skip
        target.descriptions = tuple(bands)
        for key, value in attributes.items():
            setattr(target, key, value)
        target.update_tags(**tags)
        for index, values in band_tags.items():
            target.update_tags(index, **values)
        for index, pixels in enumerate(bands.values(), start=1):
            target.write(pixels, index)
        if mask is not None:
            target.write_mask(mask)
    return path


def facts(content: Path | bytes) -> dict[str, Any]:
    with open_geotiff(content) as file:
        points, crs = file.gcps
        return {
            "pixels": file.read().tobytes(),
            "masks": file.read_masks().tobytes(),
            "nodata": repr(file.nodata),
            "scales": (file.scales, file.offsets, file.units),
            "descriptions": file.descriptions,
            "colours": file.colorinterp,
            "tags": [file.tags(i) for i in (0, *file.indexes)],
            "place": (file.transform, file.crs and file.crs.to_wkt()),
            "points": [(p.row, p.col, p.x, p.y, p.z) for p in points],
            "points crs": crs and crs.to_wkt(),
            "rpcs": file.rpcs and file.rpcs.to_dict(),
        }


FILES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "nodata": {"nodata": 7},
    "nodata at the top": {"nodata": 65_535},
    "mask": {"mask": MASK},
    "mask and nodata": {"mask": MASK, "nodata": 3},
    "scale and offset": {"scales": (1e-4, 0.5), "offsets": (-0.1, 3.0), "units": ("1", "K")},
    "control points": {"gcps": (POINTS, CRS.from_epsg(4326))},
    "control points of pixels that are points": {
        "gcps": (POINTS, CRS.from_epsg(4326)),
        "tags": {"AREA_OR_POINT": "Point"},
    },
    "RPCs": {"rpcs": RPCS},
    "affine without CRS": {"transform": AFFINE},
    "points, no areas": {"transform": AFFINE, "crs": "EPSG:32633", "tags": {"AREA_OR_POINT": "Point"}},
    "a CRS without a code": {"transform": AFFINE, "crs": UNKNOWN},
    "tags": {
        "tags": {"BOA_ADD_OFFSET": "-1000", "TIFFTAG_DATETIME": "2024:05:01 10:00:00", "TIFFTAG_SOFTWARE": "<\u00fc>"},
        "band_tags": {2: {"wavelength": "560"}},
    },
    "colours": {"colorinterp": (ColorInterp.red, ColorInterp.green)},
    "descriptions": {"descriptions": ("Blue, 490 nm", "Green")},
}  # fmt: skip


@pytest.mark.parametrize("given", FILES.values(), ids=FILES)
def test_a_lossless_stream_returns_what_the_file_says(given: dict[str, Any], tmp_path: Path) -> None:
    source = written(tmp_path / "a.tif", {"B02": optical(), "B03": optical()}, **given)
    raster = read_raster([GeoTiff(source, ("B02", "B03"))], max_pixels=1 << 20, exact=True)
    [back] = decompress([compress_bounded(raster, 0)])
    [content] = write_cogs(back).values()
    expected = facts(source)
    found = facts(content)
    for tags in found["tags"]:
        tags.pop("BAND_NAME", None)
    assert found == expected
    again = read_raster([GeoTiff(content)], max_pixels=1 << 20, exact=True)
    assert list(again.bands) == ["B02", "B03"], "the bands are known without their names from the caller"
    assert replace(again.profile, grids={}) == replace(back.profile, grids={})


def radar(nodata: float) -> np.ndarray[Any, Any]:
    """Backscatter around a nodata value, the value itself included."""
    centre = 0.0 if not np.isfinite(nodata) else max(-30.0, min(nodata, 30.0))
    pixels = (centre + RNG.normal(0, 0.4, (SIDE, SIDE))).astype(np.float32)
    pixels[MASK & (RNG.random(MASK.shape) < 0.3)] = nodata
    return pixels


def valid_pixels(raster: Raster) -> dict[str, np.ndarray[Any, Any]]:
    return {band: ~invalid_of(raster, band) for band in raster.bands}


@pytest.mark.parametrize("nodata", [0, 500, 65_535])
@pytest.mark.parametrize("error", [1, 300])
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "masked"])
def test_a_bounded_stream_keeps_valid_pixels_and_the_bound(
    nodata: int, error: int, mask: np.ndarray[Any, Any] | None, tmp_path: Path
) -> None:
    low, high = max(0, nodata - error - 1), min(65_535, nodata + error + 1)
    pixels = RNG.integers(low, high, (SIDE, SIDE), dtype=np.uint16, endpoint=True)  # nothing but collisions
    source = written(tmp_path / "a.tif", {"B04": pixels}, mask=mask, nodata=nodata)
    raster = read_raster([GeoTiff(source)], max_pixels=1 << 20, exact=True)
    [back] = decompress([compress_bounded(raster, error)])
    np.testing.assert_array_equal(back.bands["B04"] == nodata, pixels == nodata)
    assert np.abs(back.bands["B04"].astype(int) - pixels).max() <= error
    [content] = write_cogs(back).values()
    assert facts(content)["masks"] == facts(source)["masks"]


@pytest.mark.parametrize("nodata", [0.0, -9999.0, float("nan"), -12.5, float("-inf"), -3.4028234663852886e38])
@pytest.mark.parametrize("error", [0.001, 0.5])
def test_a_bounded_radar_stream_keeps_valid_pixels_and_the_bound(nodata: float, error: float, tmp_path: Path) -> None:
    pixels = radar(nodata)
    source = written(tmp_path / "a.tif", {"VV": pixels}, nodata=nodata)
    raster = read_raster([GeoTiff(source)], max_pixels=1 << 20, exact=True)
    [back] = decompress([compress_bounded(raster, error)])
    [content] = write_cogs(back).values()
    assert facts(content)["masks"] == facts(source)["masks"]
    seen = valid_pixels(raster)["VV"]
    assert np.abs(back.bands["VV"][seen] - pixels[seen]).max() <= error


@pytest.mark.parametrize("tile", [0, 48])
def test_a_learned_stream_keeps_valid_pixels(codec: Codec, tile: int, tmp_path: Path) -> None:
    side = 66
    ground = (600 + 40 * np.sin(np.arange(side * side) / 50)).reshape(side, side)
    bands = {"B02": ground.astype(np.uint16), "B03": (ground * 1.1).astype(np.uint16)}
    for pixels in bands.values():
        pixels[:20, 30:] = 640  # amid the values
    mask = np.ones((side, side), dtype=bool)
    mask[40:, :9] = False
    optical_file = written(tmp_path / "s2.tif", bands, mask=mask, nodata=640)
    holes = (ground / 70 - 20).astype(np.float32)
    holes[5:9] = np.nan
    radar_file = written(tmp_path / "s1.tif", {"VV": holes}, nodata=float("nan"))
    raster = read_raster([GeoTiff(optical_file), GeoTiff(radar_file)], max_pixels=1 << 20)
    with io.BytesIO() as file:
        write(codec, raster, 3.0, file, tile=tile, overlap=6 if tile else 0)
        stream = file.getvalue()
    [back] = codec.decompress([stream])
    contents = write_cogs(back)
    assert facts(contents["s2_10m"])["masks"] == facts(optical_file)["masks"]
    assert facts(contents["s1"])["masks"] == facts(radar_file)["masks"]
    for band in bands:
        np.testing.assert_array_equal(back.bands[band] == 640, bands[band] == 640)
    if not tile:
        [whole] = codec.decompress(codec.compress([raster], 3.0))
        for band, pixels in whole.bands.items():
            np.testing.assert_array_equal(pixels, back.bands[band])
        assert codec.hash_stream([stream]).shape == (1, codec.config.bits // 8)
        assert codec.compress([raster], target_psnr=20.0)


def test_backscatter_that_is_not_finite_and_not_declared_is_refused(codec: Codec) -> None:
    holes = np.zeros((12, 12), dtype=np.float32)
    holes[3, 3] = np.nan
    with pytest.raises(DataRefused, match="Declare them as nodata"):
        codec.compress([Raster({"VV": holes, "VH": np.zeros_like(holes)})], 3)


def test_a_nodata_value_near_another_float_is_that_of_gdal(tmp_path: Path) -> None:
    for nodata in (-9999.0, 0.0, 5.0):
        pixels = np.full((1, 24), nodata, dtype=np.float32)
        for i in range(1, 24):
            pixels[0, i] = np.nextafter(pixels[0, i - 1], np.float32(1e30))
        path = written(tmp_path / "a.tif", {"VV": pixels}, nodata=nodata)
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(is_nodata(pixels, np.float32(nodata)), file.read_masks(1) == 0)


def test_files_of_one_grid_share_what_a_geotiff_has_once(tmp_path: Path) -> None:
    def pair(one: dict[str, Any], other: dict[str, Any]) -> list[GeoTiff]:
        return [
            GeoTiff(written(tmp_path / f"{band}.tif", {band: optical()}, **given))
            for band, given in (("B02", one), ("B03", other))
        ]

    def read(one: dict[str, Any], other: dict[str, Any]) -> Raster:
        return read_raster(pair(one, other), max_pixels=1 << 20, exact=True)

    with pytest.raises(DataRefused, match=r"B02 and B03 have the nodata values 0.0 and 65535.0"):
        read({"nodata": 0}, {"nodata": 65_535})
    with pytest.raises(DataRefused, match="B02 and B03, one has an internal mask"):
        read({"mask": MASK}, {})
    with pytest.raises(DataRefused, match="the internal mask of B03 differs"):
        read({"mask": MASK}, {"mask": ~MASK})
    with pytest.raises(DataRefused, match="B02 and B03 differ in ground control points or RPCs"):
        read({"rpcs": RPCS}, {})
    with pytest.raises(DataRefused, match="different places"):
        read({"transform": AFFINE}, {"transform": AFFINE @ rasterio.Affine.translation(3, 0)})
    with open_raster(pair({"nodata": 0}, {"nodata": 65_535}), max_pixels=1 << 20) as source:
        assert [name for name, _ in source.given()] == ["B02", "B03"], "who wants pixels alone is not refused"
    raster = read({"tags": {"A": "1", "B": "2"}}, {"tags": {"A": "1", "B": "3"}})
    assert raster.profile is not None
    part = raster.profile.grids["s2_10m"]
    assert part.tags == {"A": "1", "AREA_OR_POINT": "Area"} or part.tags == {"A": "1"}
    assert [part.bands[b].tags for b in ("B02", "B03")] == [{"B": "2"}, {"B": "3"}]


def test_what_is_not_kept_is_named(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.tif",
        {"VV": radar(0.0)},
        band_tags={1: {"STATISTICS_MEAN": "4", "kept": "yes"}},
    )
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns="mine", A="b")
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset/>")
    (tmp_path / "A.TFW").write_text("")
    with open_raster([GeoTiff(path)], max_pixels=1 << 20) as source:
        assert source.warnings == (
            "A.TFW, a.tif.aux.xml beside a.tif",
            "metadata of VV in the domains mine",
            "statistics of VV: STATISTICS_MEAN",
        )
        assert source.profile.grids["s1"].bands["VV"].tags == {"kept": "yes"}
    (tmp_path / "a.tif.msk").write_text("")
    with pytest.raises(DataRefused, match="msk holds the mask of a"):
        read_raster([GeoTiff(path)], max_pixels=1 << 20)


def test_transparency_is_refused_by_name(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.tif",
        {"B02": optical(), "B08": optical()},
        colorinterp=(ColorInterp.gray, ColorInterp.alpha),
    )
    with pytest.raises(DataRefused, match=r"band B08 is marked as transparency \(alpha\)"):
        read_raster([GeoTiff(path)], max_pixels=1 << 20)


def test_resampled_bands_keep_whole_valid_pixels(tmp_path: Path) -> None:
    coarse = optical(400, 600, SIDE // 2)
    coarse[:4] = 500
    fine = coarse.repeat(2, 0).repeat(2, 1)
    tags = {"rpcs": RPCS, "nodata": 500}
    path = written(tmp_path / "a.tif", {"B02": optical(), "B05": fine}, **tags)
    raster = read_raster([GeoTiff(path)], max_pixels=1 << 20, exact=True)
    np.testing.assert_array_equal(raster.bands["B05"], coarse)
    assert raster.profile is not None
    halves = raster.profile.grids["s2_20m"].rpcs
    assert (halves["line_off"], halves["line_scale"]) == ([(7.25 + 0.5) / 2 - 0.5], [4.0])
    fine[20:22, 20:22] = [[499, 501], [501, 499]]  # their mean is the nodata value
    path = written(tmp_path / "b.tif", {"B02": optical(), "B05": fine}, nodata=500)
    assert read_raster([GeoTiff(path)], max_pixels=1 << 20).bands["B05"][10, 10] == 499
    fine[20, 20] = 500
    path = written(tmp_path / "c.tif", {"B02": optical(), "B05": fine}, nodata=500)
    with pytest.raises(DataRefused, match="B05 was resampled to a finer grid, and its valid area"):
        read_raster([GeoTiff(path)], max_pixels=1 << 20)


def test_a_nodata_value_that_the_type_cannot_hold_marks_nothing(tmp_path: Path) -> None:
    raster = replace(
        Raster({"B02": optical()}), profile=Profile({"s2_10m": GridProfile({"B02": BandProfile()}, nodata=-9999.0)})
    )
    [back] = Coder().decompress(Coder().compress([raster], Rate(max_error=MaxError(s2=3))))
    [content] = write_cogs(back).values()
    assert facts(content)["nodata"] == "None"


def test_streams_without_a_profile_are_those_of_the_first_version() -> None:
    place = Georeference("EPSG:32633", (10.0, 0.0, 4e5, 0.0, -10.0, 5e6))
    pixels = np.arange(36, dtype=np.uint16).reshape(6, 6) + 7
    stream = compress_bounded(Raster({"B02": pixels}, georeference=place, patch_id="x"), 0)
    assert stream == base64.b64decode(FIRST_VERSION)
    np.testing.assert_array_equal(decompress([stream])[0].bands["B02"], pixels)
    assert struct.unpack_from("<H", stream, 4) == (1,)
    assert inspect(stream).profile is None
    [content] = write_cogs(decompress([stream])[0]).values()
    assert facts(content)["nodata"] == "0.0", "the convention of reBEN"


def profiled(profile: Profile) -> Raster:
    return Raster({"B02": optical()}, profile=profile)


@pytest.mark.parametrize("nodata", [1e300, -1e300])
def test_a_nodata_value_beyond_float32_marks_nothing(nodata: float) -> None:
    profile = Profile({"s1": GridProfile({"VV": BandProfile()}, nodata=nodata)})
    raster = Raster({"VV": np.full((SIDE, SIDE), -10, np.float32)}, profile=profile)
    [content] = write_cogs(decompress([Coder([]).compress([raster], Rate(max_error=MaxError(s1=1)))[0]])[0]).values()
    assert facts(content)["nodata"] == "None"


def test_ground_control_points_without_a_crs_come_back() -> None:
    part = GridProfile({"B02": BandProfile()}, points=(ControlPoint(1, 2, 3, 4, 5),))
    [content] = write_cogs(decompress([compress_bounded(profiled(Profile({"s2_10m": part})), 0)])[0]).values()
    with open_geotiff(content) as dataset:
        ([point], crs) = dataset.gcps
        assert (point.row, point.col, point.x, point.y, point.z) == (1, 2, 3, 4, 5)
        assert not crs


def test_tags_with_the_names_of_arguments_are_left_out_and_named(tmp_path: Path) -> None:
    """GDAL keeps such tags, and rasterio, which takes tags as arguments, cannot write them."""
    path = written(tmp_path / "B02.tif", {"B02": optical()})
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(bidy="9", AB="kept")
    assert b'"bidy"' in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b'"bidy"', b'"bidx"'))
    with open_raster([GeoTiff(path)], max_pixels=SIDE**2) as source:
        raster = source.window(0, 0, *source.shape)
        assert any("bidx" in words for words in source.warnings)
    assert raster.profile is not None
    assert raster.profile.grids["s2_10m"].tags["AB"] == "kept"
    assert write_cogs(decompress([compress_bounded(raster, 0)])[0])
