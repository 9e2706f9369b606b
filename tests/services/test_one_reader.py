"""Images of strangers are the same integers, and are refused for the same sizes, in every service and in ingestion."""

from __future__ import annotations

import numpy as np
import pytest

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.codec.geotiff import GeoTiff, read_raster
from eoforge.codec.raster import averaged
from eoforge.data.archives.geotiff import read_geotiff
from eoforge.errors import DataRefused, LimitExceeded
from services.retrieval.images import from_bands, from_geotiff
from tests.services.retrieval.fixtures import write_tiff

BANDS = {"B02": 1, "B05": 2, "B09": 6}
"""Band -> how much coarser its native grid is."""
ROOM = 1 << 24


def image(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.Generator(np.random.Philox(seed))
    return {name: rng.integers(1, 20, (120, 120), dtype=np.uint16) for name in BANDS}


def geotiff(content: bytes) -> pb.GeoTiffImage:
    return pb.GeoTiffImage(modality=pb.MODALITY_S2, files=[pb.GeoTiffFile(content=content)])


def native(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Bands of the images that retrieval makes, where ``BANDS`` lie in their columns."""
    return {"B02": columns["s2_10m"][0], "B05": columns["s2_20m"][0], "B09": columns["s2_60m"][1]}


def rounded_half_up(pixels: np.ndarray, ratio: int) -> np.ndarray:
    """Means of blocks one by one, in whole numbers."""
    side = len(pixels) // ratio
    out = np.zeros((side, side), np.uint16)
    for row in range(side):
        for column in range(side):
            block = pixels[row * ratio : (row + 1) * ratio, column * ratio : (column + 1) * ratio]
            total = sum(int(value) for value in block.flat)
            out[row, column] = (2 * total + ratio**2) // (2 * ratio**2)
    return out


@pytest.mark.parametrize("seed", range(3))
def test_services_read_the_same_integers(seed: int) -> None:
    given = image(seed)
    expected = {name: rounded_half_up(pixels, BANDS[name]) for name, pixels in given.items()}
    halves = (given["B05"].reshape(60, 2, 60, 2).sum(axis=(1, 3)) % 4 == 2) & (expected["B05"] % 2 == 1)
    assert halves.any(), "no block tells half up from half to even"

    compressed = read_raster([GeoTiff(write_tiff(given))], max_pixels=ROOM).bands
    searched = native(dict(from_geotiff(geotiff(write_tiff(given)), "s2", list(BANDS), ROOM).columns))
    arrays = [pb.Band(name=n, height=120, width=120, samples=p.tobytes()) for n, p in given.items()]
    sent = native(dict(from_bands(pb.BandImage(modality=pb.MODALITY_S2, bands=arrays), "s2", list(BANDS)).columns))
    for name, pixels in expected.items():
        for found in (compressed[name], searched[name], sent[name]):
            np.testing.assert_array_equal(found, pixels)


def test_averages_take_the_edge_and_large_values() -> None:
    pixels = np.full((5, 3), 65_535, np.uint16)
    np.testing.assert_array_equal(averaged(pixels, 2), np.full((3, 2), 65_535))
    np.testing.assert_array_equal(averaged(np.array([[0, 1], [0, 1]], np.uint16), 2), [[1]])
    np.testing.assert_array_equal(averaged(np.array([[2, 3], [2, 3]], np.uint16), 2), [[3]])


def test_a_pixel_without_data_is_seen_before_averages_hide_it() -> None:
    given = image(0)
    given["B05"][7, 7] = 0
    with pytest.raises(DataRefused, match="B05 has pixels without data"):
        from_geotiff(geotiff(write_tiff(given)), "s2", list(BANDS), ROOM)


def test_tiles_far_larger_than_the_image_are_refused_by_all() -> None:
    tile = {"tiled": True, "blockxsize": 2048, "blockysize": 1024, "compress": "deflate"}
    vast = write_tiff({"B02": image(0)["B02"]}, **tile)
    with pytest.raises(LimitExceeded, match="internal tiles"):
        read_raster([GeoTiff(vast)], max_pixels=ROOM)
    with pytest.raises(LimitExceeded, match="internal tiles"):
        from_geotiff(geotiff(vast), "s2", ["B02"], ROOM)
    with pytest.raises(DataRefused, match="internal tiles"):
        read_geotiff(vast)
