"""Guarantee of ``max_error``: no sample exceeds it, for any input and number of threads."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eoforge.codec.bounded.streams import compress_bounded, decompress
from eoforge.codec.container import inspect
from eoforge.codec.raster import Raster, factor_of, from_pair, grid_shape
from eoforge.data.archives.open import open_archive
from eoforge.data.bands import S1_BANDS
from eoforge.data.records import PatchPair
from eoforge.errors import DataRefused, UsageError

HARD_FLOATS = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, 3e38, -300.0, 255.99998, 0.015625, 2.0, -8.0, -7.9999995)


def same_bits(first: Raster, second: Raster) -> bool:
    """Whether all samples have equal bits, NaN payloads and signs of zero included."""
    return all(np.array_equal(p.view(np.uint8), second.bands[b].view(np.uint8)) for b, p in first.bands.items())


def largest_error(first: Raster, second: Raster) -> float:
    """Over all finite samples."""
    return max(
        float(np.nanmax(np.abs(p.astype(np.float64) - second.bands[b].astype(np.float64))))
        for b, p in first.bands.items()
    )


@st.composite
def rasters(draw: st.DrawFn) -> Raster:
    """Odd sizes, any bands, wild values."""
    shape = (draw(st.integers(1, 17)), draw(st.integers(1, 17)))
    bands = draw(st.sets(st.sampled_from(("B02", "B03", "B08", "B05", "B12", "B01", "VV", "VH")), min_size=1))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    pixels: dict[str, npt.NDArray[np.generic]] = {}
    for band in sorted(bands):
        grid = grid_shape(shape, factor_of(band))
        if band in S1_BANDS:
            values = rng.normal(-12, 4, grid).astype(np.float32)
            hard = rng.random(grid) < draw(st.sampled_from((0.0, 0.2, 1.0)))
            values[hard] = rng.choice(HARD_FLOATS, grid).astype(np.float32)[hard]
            pixels[band] = values
        else:
            top = draw(st.sampled_from((1, 300, 65_535)))
            pixels[band] = rng.integers(0, top + 1, grid).astype(np.uint16)
    return Raster(pixels, shape)


@given(rasters())
@settings(max_examples=25)
def test_lossless_is_bit_for_bit(raster: Raster) -> None:
    assert same_bits(raster, decompress([compress_bounded(raster, 0)])[0])


@given(rasters(), st.sampled_from((1, 3, 40, 5_000)), st.sampled_from((1e-5, 0.01, 0.5, 3.0)))
@settings(max_examples=25)
def test_the_bound_holds(raster: Raster, reflectance: int, decibels: float) -> None:
    decoded = decompress([compress_bounded(raster, {"s2": reflectance, "s1": decibels})])[0]
    for band, pixels in raster.bands.items():
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(pixels.astype(np.float64) - decoded.bands[band].astype(np.float64))
        finite = np.isfinite(pixels.astype(np.float64))
        assert (error[finite] <= (decibels if band in S1_BANDS else reflectance)).all()
        assert np.array_equal(pixels[~finite], decoded.bands[band][~finite], equal_nan=True)


def test_patches_without_loss_and_with_a_bound(pairs: list[PatchPair]) -> None:
    raster = from_pair(pairs[0])
    lossless = compress_bounded(raster, 0)
    assert same_bits(raster, decompress([lossless])[0])
    sizes = [len(lossless)]
    for error in (2, 20):
        stream = compress_bounded(raster, {"s2": error, "s1": error / 50})
        decoded = decompress([stream])[0]
        assert largest_error(raster.only("s2"), decoded.only("s2")) <= error
        assert largest_error(raster.only("s1"), decoded.only("s1")) <= error / 50
        assert dict(inspect(stream).max_error)["s2"] == error
        sizes.append(len(stream))
    assert sizes == sorted(sizes, reverse=True)
    assert decoded.georeference == raster.georeference
    assert decoded.patch_id == raster.patch_id


def jpegxl_bytes(raster: Raster) -> int:
    """Lossless JPEG-XL, each band on its own."""
    return sum(len(imagecodecs.jpegxl_encode(p, lossless=True, effort=7)) for p in raster.bands.values())


def test_smaller_than_lossless_jpegxl(pairs: list[PatchPair]) -> None:
    raster = from_pair(pairs[1], ("s2",))
    assert len(compress_bounded(raster, 0)) < 0.95 * jpegxl_bytes(raster)


def test_smaller_than_lossless_jpegxl_on_real_patches(shared_data: Path) -> None:
    archive = open_archive(str(shared_data / "reben-sample-24"))
    rows = archive.metadata()
    ours = theirs = 0
    for result in archive.read([rows[0], rows[12]]):
        assert result.pair is not None
        raster = from_pair(result.pair, ("s2",))
        stream = compress_bounded(raster, 0)
        assert same_bits(raster, decompress([stream])[0])
        ours, theirs = ours + len(stream), theirs + jpegxl_bytes(raster)
    assert ours < 0.93 * theirs


def test_bytes_do_not_depend_on_threads_or_process(tmp_path: Path, pairs: list[PatchPair]) -> None:
    raster = from_pair(pairs[2], ("s2",)).window(0, 0, 60, 60)
    stream = compress_bounded(raster, 4)
    path = tmp_path / "stream"
    path.write_bytes(stream)
    program = (
        "import sys, hashlib; from pathlib import Path; from eoforge.codec.bounded.streams import decompress\n"
        "raster = decompress([Path(sys.argv[1]).read_bytes()])[0]\n"
        "print(hashlib.sha256(b''.join(p.tobytes() for p in raster.bands.values())).hexdigest())\n"
    )
    digests = set()
    for threads in ("1", "4"):
        env = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", program, str(path)], env=env, capture_output=True, text=True, check=True
        )
        digests.add(run.stdout)
    assert len(digests) == 1
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        assert largest_error(raster, decompress([stream])[0]) <= 4
    finally:
        torch.set_num_threads(before)


def test_tiles_keep_the_bound() -> None:
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(130), np.arange(100)) * 20 + rng.integers(0, 9, (130, 100))
    raster = Raster({"B02": smooth.astype(np.uint16), "B11": smooth[::2, ::2].astype(np.uint16)})
    stream = compress_bounded(raster, 3, tile=48)
    assert inspect(stream).tile == 48
    assert largest_error(raster, decompress([stream])[0]) <= 3


@pytest.mark.parametrize("error", [-1, math.nan, math.inf, 40_000])
def test_invalid_bounds_are_refused(error: float, pairs: list[PatchPair]) -> None:
    with pytest.raises(UsageError, match="max_error"):
        compress_bounded(from_pair(pairs[0], ("s2",)), error)


def test_one_number_for_two_units_is_refused(pairs: list[PatchPair]) -> None:
    with pytest.raises(UsageError, match="units differ"):
        compress_bounded(from_pair(pairs[0]), 5)


def test_a_learned_stream_names_its_bundle(codec, optical) -> None:
    with pytest.raises(DataRefused, match="0123456789abcdef"):
        decompress(codec.compress(optical[:1], 2))
