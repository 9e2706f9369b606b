"""Large rasters: windows cover the raster, no seams, memory of one row of tiles."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoforge.codec import tiles
from eoforge.codec.bounded import streams as bounded
from eoforge.codec.coder import Coder
from eoforge.codec.container import LIMITS, inspect
from eoforge.codec.learned import streams
from eoforge.codec.learned.model import Codec
from eoforge.codec.learned.rate import psnr
from eoforge.codec.raster import Georeference, Raster, grid_shape
from eoforge.codec.slices import FileSlice
from eoforge.errors import DataRefused, UsageError

TILE, OVERLAP = 48, 12


def scene(rows: int, columns: int) -> Raster:
    """Hills and texture on all three grids and in dB."""
    rng = np.random.default_rng(0)
    bands = {}
    for band, factor in (("B03", 1), ("B08", 1), ("B11", 2), ("B01", 6), ("VV", 1)):
        y, x = np.indices(grid_shape((rows, columns), factor)) * factor
        ground = 1500 + 600 * np.sin(y / 23) * np.cos(x / 31) + 3 * x + rng.normal(0, 12, y.shape)
        bands[band] = (ground / 200 - 20).astype(np.float32) if band == "VV" else ground.astype(np.uint16)
    place = Georeference("EPSG:32633", (10.0, 0.0, 300_000.0, 0.0, -10.0, 5_000_000.0))
    return Raster(bands, (rows, columns), place, "scene")


def tiled(codec: Codec, source: tiles.Source, quality: float) -> bytes:
    """The stream of a raster that is cut although it is small."""
    file = io.BytesIO()
    streams.write(codec, source, quality, file, TILE, OVERLAP)
    return file.getvalue()


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([(48, 0), (48, 12), (60, 24), (504, 24)]))
def test_windows_cover_and_weights_add_up_to_one(rows: int, columns: int, tiling: tuple[int, int]) -> None:
    shape = (rows, columns)
    decoded = [
        (
            w,
            {
                "B03": np.full((w.height, w.width), 1000, dtype=np.uint16),
                "B09": np.full(grid_shape((w.height, w.width), 6), 50, dtype=np.uint16),
                "VV": np.full((w.height, w.width), 7.5, np.float32),
            },
        )
        for w in tiles.plan(shape, *tiling)
    ]
    blocks = list(tiles.blocks(decoded, shape, tiling[1]))
    assert sum(block.pixels["VV"].size for block in blocks) == rows * columns, "each pixel is finished once"
    whole = tiles.assemble(("B03", "B09", "VV"), shape, blocks)
    assert (whole["B03"] == 1000).all()
    assert (whole["B09"] == 50).all()
    np.testing.assert_allclose(whole["VV"], 7.5, rtol=1e-6)


@given(st.integers(100, 300), st.integers(100, 300))
def test_overlaps_are_mixed_linearly(rows: int, columns: int) -> None:
    """Against one loop over whole planes: weights that fall from one to zero over twice the overlap, summed."""
    tile, overlap, shape = 60, 24, (rows, columns)
    rng = np.random.default_rng(rows * columns)
    windows = tiles.plan(shape, tile, overlap)
    images = [rng.normal(-15, 4, (w.height, w.width)).astype(np.float32) for w in windows]
    expected = np.zeros(shape)
    for w, image in zip(windows, images, strict=True):
        weights = []
        for start, length, side in ((w.row, w.height, rows), (w.column, w.width, columns)):
            place = np.arange(length) + 0.5
            rise = np.clip(place / (2 * overlap), 0, 1) if start else np.ones(length)
            fall = np.clip((length - place) / (2 * overlap), 0, 1) if start + length < side else np.ones(length)
            weights.append(rise * fall)
        expected[w.row : w.row + w.height, w.column : w.column + w.width] += np.outer(*weights) * image
    blocks = tiles.blocks(((w, {"VV": i}) for w, i in zip(windows, images, strict=True)), shape, overlap)
    np.testing.assert_allclose(tiles.assemble(("VV",), shape, blocks)["VV"], expected, rtol=1e-5)


def test_tiles_leave_no_seams(codec: Codec) -> None:
    raster = scene(150, 200)
    stream = tiled(codec, raster, 3.0)
    decoded = codec.decompress([stream])[0]
    whole = codec.decompress(streams.compress(codec, [raster], 3.0))[0]
    for band, factor in (("B03", 1), ("B11", 2), ("VV", 1)):
        error = decoded.bands[band].astype(float) - raster.bands[band]
        reference = whole.bands[band].astype(float) - raster.bands[band]
        assert error.std() < 1.2 * reference.std() + 1
        # Jumps of the error over tile borders against jumps elsewhere, along both axes.
        for axis in (0, 1):
            jumps = np.abs(np.diff(error, axis=axis)).mean(axis=1 - axis)
            borders = np.arange(TILE // factor, len(jumps) - 1, TILE // factor) - 1
            assert jumps[borders].mean() < 1.5 * np.median(jumps)


def test_a_stream_is_read_from_a_file_tile_by_tile(codec: Codec) -> None:
    raster = scene(130, 100)
    coder = Coder([codec])
    for stream in (tiled(codec, raster, 4.0), bounded.compress_bounded(raster, 0, tile=TILE)):
        decoded = coder.decompress([stream])[0]
        blocks = list(coder.blocks(FileSlice(io.BytesIO(stream))))
        assert len(blocks) == len(tiles.plan(raster.shape, TILE, inspect(stream).overlap))
        again = tiles.assemble(decoded.bands, decoded.shape, blocks)
        for band, pixels in decoded.bands.items():
            np.testing.assert_array_equal(again[band], pixels)
        assert decoded.georeference == raster.georeference
        with pytest.raises(DataRefused, match="truncated"):
            list(coder.blocks(FileSlice(io.BytesIO(stream[:-9]))))


def test_an_unfinished_file_is_no_stream(codec: Codec) -> None:
    class Broken(Reader):
        def window(self, row: int, column: int, height: int, width: int) -> Raster:
            if row:
                raise OSError("the disk went away")
            return super().window(row, column, height, width)

    file = io.BytesIO()
    with pytest.raises(OSError, match="went away"):
        streams.write(codec, Broken(scene(150, 200)), 2.0, file, TILE, OVERLAP)
    with pytest.raises(DataRefused, match="no stream of eoforge"):
        inspect(file.getvalue())


def test_targets_are_met_with_windows(codec: Codec) -> None:
    raster = Raster({"B05": np.tile(scene(60, 60).bands["B11"], (10, 10))})
    assert tiles.is_tiled(raster.shape)
    [stream] = codec.compress([raster], target_psnr=35.0)
    quality = inspect(stream).quality
    assert psnr(raster, codec.decompress([stream])[0]) >= 35.0
    assert psnr(raster, codec.decompress(codec.compress([raster], quality - 1 / 16))[0]) < 35.0


class Reader:
    """A source that lets nobody hold more than a window."""

    def __init__(self, raster: Raster) -> None:
        self._raster = raster
        self.bands: Mapping[str, object] = dict.fromkeys(raster.bands)
        self.shape, self.georeference, self.patch_id = raster.shape, raster.georeference, raster.patch_id
        self.profile = raster.profile
        self.largest = 0

    def window(self, row: int, column: int, height: int, width: int) -> Raster:
        self.largest = max(self.largest, height * width)
        return self._raster.window(row, column, height, width)


def test_sources_are_read_by_windows(codec: Codec) -> None:
    raster, reader = scene(150, 200), Reader(scene(150, 200))
    assert tiled(codec, reader, 2.0) == tiled(codec, raster, 2.0)
    assert reader.largest == (TILE + 2 * OVERLAP) ** 2
    assert bounded.compress_bounded(Reader(raster), 0, tile=TILE) == bounded.compress_bounded(raster, 0, tile=TILE)


def test_each_tile_has_its_code(codec: Codec) -> None:
    raster = scene(100, 100)
    stream = tiled(codec, raster, 2.0)
    count = len(tiles.plan(raster.shape, TILE, OVERLAP))
    codes = streams.stored_codes(stream, LIMITS)
    assert {m: c.shape for m, c in codes.items()} == {"s1": (count, 4), "s2": (count, 4)}
    assert inspect(stream).codes == 2 * count
    with pytest.raises(UsageError, match="one code per tile"):
        codec.hash_stream([stream])


def test_large_rasters_are_tiled_by_default(codec: Codec) -> None:
    raster = Raster({"B05": np.full((300, 300), 800, dtype=np.uint16)})
    for stream in (codec.compress([raster], 1)[0], bounded.compress_bounded(raster, 0)):
        assert inspect(stream).tile == tiles.TILE


def test_an_inconsistent_table_of_lengths_is_refused() -> None:
    joined = tiles.LENGTH.pack(3) + tiles.LENGTH.pack(4) + b"abcdefg"
    assert [bytes(p) for p in tiles.split(memoryview(joined), 2)] == [b"abc", b"defg"]
    for damaged, count in ((joined[:-1], 2), (joined, 3), (b"", 1)):
        with pytest.raises(DataRefused):
            tiles.split(memoryview(damaged), count)


def test_windows_start_on_all_grids() -> None:
    with pytest.raises(UsageError, match="multiples of 6"):
        scene(30, 30).window(4, 0, 12, 12)
