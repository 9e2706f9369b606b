"""GeoTIFFs whose place or metadata are no numbers: refused as data, never an error of our own."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile
from rasterio.rpc import RPC

from eoforge.codec.geotiff import GeoTiff, read_raster
from eoforge.errors import DataRefused

RPCS = RPC(
    line_off=7.0, samp_off=11, lat_off=3.0, long_off=9, height_off=1, line_scale=8, samp_scale=12, lat_scale=4,
    long_scale=10, height_scale=2, line_num_coeff=[1.0] * 20, line_den_coeff=[1.0] * 20, samp_num_coeff=[1.0] * 20,
    samp_den_coeff=[4.0] * 20,
)  # fmt: skip


def written(rpcs: dict[str, str] | None = None, transform: rasterio.Affine | None = None) -> bytes:
    pixels = np.arange(1, 145, dtype=np.uint16).reshape(12, 12)
    with MemoryFile() as memory:
        options = {"driver": "GTiff", "height": 12, "width": 12, "count": 1, "dtype": "uint16"}
        with memory.open(**options, transform=transform or rasterio.Affine(10, 0, 5e5, 0, -10, 6e6)) as dataset:
            dataset.write(pixels, 1)
            dataset.set_band_description(1, "B02")
            if rpcs is not None:
                dataset.update_tags(ns="XPC", **rpcs)
        # GDAL would write numbers of the domain RPC in binary; it reads their text, too.
        return bytes(memory.read()).replace(b'domain="XPC"', b'domain="RPC"')


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 2, 4, 5])
def test_a_transform_that_is_not_finite_is_refused(number: float, place: int) -> None:
    numbers = [10.0, 0.0, 5e5, 0.0, -10.0, 6e6]
    numbers[place] = number
    with pytest.raises(DataRefused, match="must be finite"):
        read_raster([GeoTiff(written(transform=rasterio.Affine(*numbers)))], max_pixels=1 << 20)


@pytest.mark.parametrize(
    "change", [{"LINE_OFF": "no number"}, {"LINE_OFF": ""}, {"LAT_OFF": None}, {"LINE_NUM_COEFF": "1 2 x"}]
)
def test_rpcs_that_are_no_numbers_are_refused(change: dict[str, str | None]) -> None:
    given = {key: str(value) for key, value in RPCS.to_gdal().items()} | change
    content = written({key: value for key, value in given.items() if value is not None})
    assert content.count(b'domain="RPC"') >= len(given) - 1
    with pytest.raises(DataRefused, match="RPCs"):
        read_raster([GeoTiff(content)], max_pixels=1 << 20)
