"""Closed forms of the fidelity measures, and sizes of the baselines' streams."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from eoforge.data.bands import S1_10M, S2_10M
from eoforge.methods.evaluation import codec_baselines as baselines
from eoforge.methods.evaluation.fidelity import Fidelity, Rasters, ms_ssim, psnr, spectral_angle


@pytest.fixture(scope="module")
def optical() -> Rasters:
    rng = np.random.default_rng(0)
    ground = 1200 + 400 * np.sin(np.indices((120, 120)).sum(0) / 9)
    return {"s2_10m": (ground + rng.normal(0, 20, (1, 4, 120, 120))).astype(np.uint16)}


def test_psnr_names_its_peak() -> None:
    assert psnr(100.0, 1, 10_000.0) == pytest.approx(60.0)
    assert psnr(100.0, 1, 65_535.0) - psnr(100.0, 1, 10_000.0) == pytest.approx(16.33, abs=0.01)


def test_identical_patches_have_the_best_fidelity(optical: Rasters) -> None:
    fidelity = Fidelity("s2")
    fidelity.add(optical, optical)
    found = fidelity.summary()
    assert (found["rmse"], found["ms_ssim"]) == (0.0, pytest.approx(1.0))
    assert "spectral_angle_degrees" not in found or found["spectral_angle_degrees"] < 1e-3


def test_an_offset_costs_psnr_in_its_band_alone(optical: Rasters) -> None:
    shifted = optical["s2_10m"].copy()
    shifted[:, 1] += 100
    fidelity = Fidelity("s2")
    fidelity.add(optical, {"s2_10m": shifted})
    found = fidelity.summary()
    assert found["psnr_10000_B03"] == pytest.approx(40.0)
    assert found["psnr_65535_B03"] == pytest.approx(56.33, abs=0.01)
    assert found["rmse"] == pytest.approx(50.0), "one band of four"
    assert found["psnr_10000_B02"] > 100 > found["psnr_10000_B03"]
    assert found["ms_ssim_B03"] < found["ms_ssim_B02"] == pytest.approx(1.0)


def test_noise_lowers_ms_ssim_and_more_noise_lowers_it_more(optical: Rasters) -> None:
    x = optical["s2_10m"].astype(np.float64)
    noise = np.random.default_rng(1).normal(0, 1, x.shape)
    little, much = (ms_ssim(x, x + size * noise, 10_000.0).mean() for size in (50, 500))
    assert 0 < much < little < 1


def test_the_spectral_angle_of_known_spectra() -> None:
    def patch(*spectrum: int) -> Rasters:
        return {"s2_10m": np.tile(np.array(spectrum, np.uint16)[None, :, None, None], (1, 1, 120, 120))}

    assert spectral_angle(patch(1, 0, 0, 0), patch(0, 7, 0, 0)) == pytest.approx(90.0)
    assert spectral_angle(patch(5, 0, 0, 0), patch(3, 3, 0, 0)) == pytest.approx(45.0)
    assert spectral_angle(patch(100, 200, 300, 400), patch(200, 400, 600, 800)) == pytest.approx(0.0, abs=1e-4)


def test_baselines_report_the_bytes_of_their_streams(optical: Rasters) -> None:
    [patch] = optical["s2_10m"]
    codec = baselines.lossy_codecs()["jpeg-xl"]
    one = baselines.LossyCodec(codec.encode, codec.decode, (0.4,))
    [point] = baselines.lossy_curve(one, optical)
    written = [imagecodecs.jpegxl_encode(band, distance=0.4, effort=5) for band in patch]
    assert point.bits == 8 * sum(map(len, written))
    back = np.stack([imagecodecs.jpegxl_decode(data) for data in written]).astype(float)
    assert point.squared_error == pytest.approx(np.square(back - patch).sum())
    assert (point.samples, point.patches) == (4 * 120 * 120, 1)
    lossless = sum(len(imagecodecs.jpegxl_encode(band, lossless=True, effort=7)) for band in patch)
    assert baselines.lossless_bits("jpeg-xl", optical) == 8 * lossless


def test_jpeg2000_streams_decode_without_the_comment_segment(optical: Rasters) -> None:
    codec = baselines.lossy_codecs(optical)
    [patch] = optical["s2_10m"]
    for name in ("jpeg2000", "jpeg2000-klt"):
        [stream] = codec[name].encode(patch, 88.0)
        assert stream.startswith(b"\xff\x4f\xff\x51"), "a raw codestream, no boxes"
        assert b"Created by" not in stream
        error = codec[name].decode([stream]).astype(float) - patch
        assert np.sqrt(np.square(error).mean()) < 10, "88 dB at a peak of 65,535 are an error of 2.6"


def test_radar_is_given_to_integer_codecs_in_small_steps() -> None:
    values = np.array([[-35.1234, 0.0, 4.5678]], np.float32)
    back = baselines.from_uint16(baselines.to_uint16(values, S1_10M), S1_10M)
    assert np.abs(back - values).max() <= 0.0005 + 1e-6
    reflectance = np.array([[0, 10_000, 65_535]], np.uint16)
    assert (baselines.to_uint16(reflectance, S2_10M) == reflectance).all()
