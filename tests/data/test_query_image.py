"""Query images of users: names of bands, sensors, sizes; real samples where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from eoforge.data import query_image
from eoforge.data.bands import GROUP_OF, S2_BANDS, band_in_name, canonical_band
from eoforge.data.query_image import read_query_image
from eoforge.errors import DataRefused, EoforgeError, LimitExceeded, NotFound, UsageError
from tests.services.retrieval.fixtures import write_tiff


@pytest.mark.parametrize(
    ("text", "band"),
    [("B2", "B02"), ("b02", "B02"), ("Band 12", "B12"), ("b8a", "B8A"), ("B8", "B08"), ("vv", "VV"), ("B13", None)],
)
def test_spellings_of_bands(text: str, band: str | None) -> None:
    assert canonical_band(text) == band


def test_names_of_files() -> None:
    assert band_in_name("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57_B8A") == "B8A"
    assert band_in_name("T33UUP_20170613T101031_B02_10m") == "B02"
    assert band_in_name("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_65_63_VH") == "VH"
    assert band_in_name("reference_map") is None


def band(name: str, side: int, seed: int = 1) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(key=[seed, side]))
    if GROUP_OF[name].dtype == "float32":
        return rng.normal(-12, 3, (side, side)).astype(np.float32)
    return rng.integers(1, 4000, (side, side)).astype(np.uint16)


def written(path: Path, **bands: np.ndarray) -> Path:
    names = not all(name.startswith("unnamed") for name in bands)
    path.write_bytes(write_tiff(bands, names=names))
    return path


def test_a_folder_of_native_grids_is_one_window_unchanged(tmp_path: Path) -> None:
    pixels = {name: band(name, GROUP_OF[name].size) for name in S2_BANDS}
    for name, samples in pixels.items():
        written(tmp_path / f"patch_{name}.tif", unnamed=samples)
    written(tmp_path / "patch_reference_map.tif", unnamed=pixels["B02"])
    (tmp_path / "._patch_B02.tif").write_bytes(b"no image")
    image = read_query_image([tmp_path])
    assert image.modality == "s2"
    assert image.notes == ("patch_reference_map.tif names no band and was left out",)
    (window,) = image.windows
    assert all(np.array_equal(window.bands[name], samples) for name, samples in pixels.items())


def test_bands_by_argument_by_description_and_by_file(tmp_path: Path) -> None:
    two = written(tmp_path / "radar.tif", unnamed_1=band("VV", 120), unnamed_2=band("VH", 120, 2))
    with pytest.raises(UsageError, match="--bands"):
        read_query_image([two])
    assert list(read_query_image([two], ("vv", "vh")).windows[0].bands) == ["VV", "VH"]
    described = written(tmp_path / "d.tif", VV=band("VV", 120), VH=band("VH", 120, 2))
    assert list(read_query_image([described]).windows[0].bands) == ["VV", "VH"]
    files = [written(tmp_path / f"{n}.tif", unnamed=band(n, 120)) for n in ("VV", "VH")]
    assert read_query_image(files).modality == "s1"
    assert list(read_query_image(files, ("VH", "VV")).windows[0].bands) == ["VH", "VV"]
    with pytest.raises(UsageError, match="given twice"):
        read_query_image([files[0], described])
    with pytest.raises(NotFound):
        read_query_image([tmp_path / "absent.tif"])


def test_a_20_m_band_given_at_10_m_is_averaged_back(tmp_path: Path) -> None:
    coarse = band("B11", 60)
    path = written(tmp_path / "x.tif", B02=band("B02", 120), B11=coarse.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(read_query_image([path]).windows[0].bands["B11"], coarse)


def test_larger_images_are_cropped_or_cut_into_windows(tmp_path: Path) -> None:
    large = band("B02", 250)
    large[0, 0] = 0
    crop = read_query_image([written(tmp_path / "a.tif", B02=large[5:141, 5:141])])
    assert np.array_equal(crop.windows[0].bands["B02"], large[11:131, 11:131])
    assert crop.notes == ("cropped to the middle 120 x 120 of 136 x 136 pixels of 10 m",)
    cut = read_query_image([written(tmp_path / "b.tif", B02=large)])
    assert [(w.row, w.column) for w in cut.windows] == [(0, 120), (120, 0), (120, 120)]
    assert np.array_equal(cut.windows[2].bands["B02"], large[120:240, 120:240])
    assert "cut into 4 windows" in cut.notes[0]
    assert cut.notes[1] == "1 of 4 windows have pixels without data and were left out"
    with pytest.raises(LimitExceeded, match="at most 400"):
        read_query_image([written(tmp_path / "c.tif", B02=np.ones((2520, 2520), np.uint16))])
    with pytest.raises(LimitExceeded, match="2 x 2 patches; at most 3"):
        read_query_image([tmp_path / "b.tif"], most_windows=3)
    with pytest.raises(LimitExceeded, match="1800 x 1800 pixels; at most 2684354"):
        read_query_image([written(tmp_path / "d.tif", B02=np.ones((1800, 1800), np.uint16))], most_windows=64)


@pytest.mark.parametrize(
    ("bands", "sensor", "error", "words"),
    [
        ({"B02": band("B02", 120)}, "s1", DataRefused, "is of Sentinel-2 .* the query says s1"),
        ({"VV": band("VV", 120)}, "s2", DataRefused, "is of Sentinel-1"),
        ({"VV": np.full((120, 120), 0.1, np.float32)}, None, DataRefused, "linear backscatter"),
        ({"VV": np.full((120, 120), -1e30, np.float32)}, None, DataRefused, "expected dB, -100 to 50"),
        ({"B02": np.full((120, 120), 7, np.uint8)}, None, DataRefused, "8 bits"),
        ({"B02": np.zeros((120, 120), np.uint16)}, None, DataRefused, "without data"),
    ],
)
def test_the_wrong_sensor_or_unit_is_named(
    tmp_path: Path, bands: dict[str, np.ndarray], sensor: str | None, error: type[EoforgeError], words: str
) -> None:
    path = written(tmp_path / "x.tif", **bands)
    with pytest.raises(error, match=words):
        read_query_image([path], modality=sensor)


def test_reflectance_from_0_to_1_is_scaled(tmp_path: Path) -> None:
    image = read_query_image([written(tmp_path / "x.tif", B02=np.full((120, 120), 0.25, np.float32))])
    assert (image.windows[0].bands["B02"] == 2500).all()
    assert "multiplied by 10,000" in image.notes[0]


@pytest.mark.parametrize(
    ("folder", "modality", "windows", "note"),
    [
        ("reben-original-files/BigEarthNet-S2/*T33UUP/*_75_43", "s2", 1, None),
        ("reben-original-files/BigEarthNet-S1/*/*_33UUP_65_63", "s1", 1, None),
        ("major-tom-s2l2a-cell/S2L2A/199U/199U_1099R/S2B*", "s2", 64, "cut into 64 windows"),
        ("ssl4eo-s12-sample/s2a/0000200/20200813*", "s2", 4, "cut into 4 windows"),
        ("ssl4eo-s12-sample/s1/0000200/*", "s1", 4, "cut into 4 windows"),
    ],
)
def test_real_images(shared_data: Path, folder: str, modality: str, windows: int, note: str | None) -> None:
    path = sorted(shared_data.glob(folder))[0]
    image = read_query_image([path])
    assert (image.modality, len(image.windows)) == (modality, windows)
    assert any(note in text for text in image.notes) if note else image.notes == ()
    for name, pixels in image.windows[0].bands.items():
        assert pixels.shape == (GROUP_OF[name].size,) * 2


@pytest.mark.parametrize("height", [float("nan"), float("inf"), 1e12])
def test_a_place_that_is_none_is_refused(tmp_path: Path, height: float) -> None:
    path = tmp_path / "x_B02.tif"
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -height, 6e6)}
    path.write_bytes(write_tiff({"B02": band("B02", 120)}, **place))
    with pytest.raises(DataRefused, match=r"x_B02\.tif"):
        read_query_image([path])


@pytest.mark.parametrize("crs", ["EPSG:4978", 'LOCAL_CS["site",UNIT["metre",1]]'])
def test_a_crs_without_metres_on_the_ground_says_no_pixel_size(tmp_path: Path, crs: str) -> None:
    path = tmp_path / "x_B02.tif"
    place = {"crs": rasterio.crs.CRS.from_user_input(crs), "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 6e6)}
    path.write_bytes(write_tiff({"B02": band("B02", 120)}, **place))
    assert read_query_image([path]).windows[0].bands["B02"].shape == (120, 120)


def test_bands_that_are_too_much_together_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("B02", "B03", "B04"):
        written(tmp_path / f"x_{name}.tif", unnamed=band(name, 120))
    monkeypatch.setattr(query_image, "MAX_BYTES", 3 * 120 * 120 * 2 - 1)
    with pytest.raises(LimitExceeded, match="MiB of pixels"):
        read_query_image([tmp_path])


def test_complex_pixels_are_no_reflectance(tmp_path: Path) -> None:
    path = written(tmp_path / "x_B02.tif", unnamed=band("B02", 120).astype(np.complex64))
    with pytest.raises(DataRefused, match="real numbers"):
        read_query_image([path])
