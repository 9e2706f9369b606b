"""Large rasters: windows cover, borders do not show, memory holds a row of tiles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoforge.codec import bounded, streams, tiles
from eoforge.codec.container import LIMITS, inspect
from eoforge.codec.model import Codec
from eoforge.codec.raster import Georeference, Raster, grid_shape
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


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([(48, 0), (48, 12), (60, 24), (504, 24)]))
def test_windows_cover_and_weights_add_up_to_one(rows: int, columns: int, tiling: tuple[int, int]) -> None:
    shape = (rows, columns)
    plan = tiles.plan(shape, *tiling)
    ones = [
        (
            row,
            [
                {
                    "B03": np.full((w.height, w.width), 1000, dtype=np.uint16),
                    "VV": np.full((w.height, w.width), 7.5, np.float32),
                }
                for w in row
            ],
        )
        for row in plan
    ]
    whole = tiles.assemble(("B03", "VV"), shape, tiles.strips(ones, shape, *tiling))
    assert (whole["B03"] == 1000).all()
    np.testing.assert_allclose(whole["VV"], 7.5, rtol=1e-6)


def test_tiles_leave_no_seams(codec: Codec) -> None:
    raster = scene(150, 200)
    stream = streams.compress_tiled(codec, raster, 3.0, TILE, OVERLAP)
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


def test_strips_are_the_raster(codec: Codec) -> None:
    raster = scene(130, 100)
    learned = streams.compress_tiled(codec, raster, 4.0, TILE, OVERLAP)
    exact = bounded.compress_bounded(raster, 0, tile=TILE)
    for stream, found in (
        (learned, streams.decompress_strips(codec, learned, LIMITS)),
        (exact, bounded.decompress_strips(exact)),
    ):
        decoded = codec.decompress([stream])[0] if stream is learned else bounded.decompress([stream])[0]
        rows = 0
        for row, strip in found:
            assert row == rows
            rows += len(strip["B03"])
            np.testing.assert_array_equal(strip["B03"], decoded.bands["B03"][row:rows])
        assert rows == 130
        assert decoded.georeference == raster.georeference


class Reader:
    """A source that lets nobody hold more than a window."""

    def __init__(self, raster: Raster) -> None:
        self._raster = raster
        self.bands: Mapping[str, object] = dict.fromkeys(raster.bands)
        self.shape, self.georeference, self.patch_id = raster.shape, raster.georeference, raster.patch_id
        self.largest = 0

    def window(self, row: int, column: int, height: int, width: int) -> Raster:
        self.largest = max(self.largest, height * width)
        return self._raster.window(row, column, height, width)


def test_sources_are_read_by_windows(codec: Codec) -> None:
    raster, reader = scene(150, 200), Reader(scene(150, 200))
    stream = streams.compress_tiled(codec, reader, 2.0, TILE, OVERLAP)
    assert stream == streams.compress_tiled(codec, raster, 2.0, TILE, OVERLAP)
    assert reader.largest == (TILE + 2 * OVERLAP) ** 2
    assert bounded.compress_bounded(Reader(raster), 0, tile=TILE) == bounded.compress_bounded(raster, 0, tile=TILE)


def test_each_tile_has_its_code(codec: Codec) -> None:
    raster = scene(100, 100)
    stream = streams.compress_tiled(codec, raster, 2.0, TILE, OVERLAP)
    count = sum(map(len, tiles.plan(raster.shape, TILE, OVERLAP)))
    codes = streams.stored_codes(stream, LIMITS)
    assert {m: c.shape for m, c in codes.items()} == {"s1": (count, 4), "s2": (count, 4)}
    assert inspect(stream).codes == 2 * count
    with pytest.raises(UsageError, match="one code per tile"):
        codec.hash_stream([stream])


def test_large_rasters_are_tiled_unasked(codec: Codec) -> None:
    raster = Raster({"B05": np.full((300, 300), 800, dtype=np.uint16)})
    for stream in (codec.compress([raster], 1)[0], bounded.compress_bounded(raster, 0)):
        assert inspect(stream).tile == tiles.TILE


def test_a_table_of_lengths_that_lies_is_refused() -> None:
    joined = tiles.join([b"abc", b"defg"])
    assert [bytes(p) for p in tiles.split(memoryview(joined), 2)] == [b"abc", b"defg"]
    for damaged, count in ((joined[:-1], 2), (joined, 3), (b"", 1)):
        with pytest.raises(DataRefused):
            tiles.split(memoryview(damaged), count)


def test_windows_start_where_the_grids_meet() -> None:
    with pytest.raises(UsageError, match="multiples of 6"):
        scene(30, 30).window(4, 0, 12, 12)
