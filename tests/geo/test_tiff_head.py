"""Heads of TIFF files that point elsewhere."""

from __future__ import annotations

import io
import struct

import pytest
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from eoforge.errors import DataRefused, LimitExceeded
from eoforge.geo.gdal import open_geotiff
from eoforge.geo.tiff_head import check_head

DIRECTORY = 16


@pytest.mark.parametrize("offset", [1 << 40, 1 << 63, (1 << 64) - 1])
def test_a_directory_beyond_every_file_is_refused(offset: int) -> None:
    with pytest.raises(DataRefused):
        check_head(io.BytesIO(b"II+\0" + struct.pack("<HHQ", 8, 0, offset) + bytes(64)), "a file")


@pytest.mark.parametrize("offset", [1 << 40, 1 << 63])
def test_a_text_beyond_every_file_is_refused(offset: int) -> None:
    entry = struct.pack("<HHQQ", 34737, 2, 100, offset)
    directory = struct.pack("<Q", 1) + entry
    with pytest.raises(DataRefused):
        check_head(io.BytesIO(b"II+\0" + struct.pack("<HHQ", 8, 0, DIRECTORY) + directory + bytes(64)), "a file")


def test_a_sparse_raster_is_refused_before_a_codec_reads_it() -> None:
    with MemoryFile() as memory:
        options = {"driver": "GTiff", "height": 4000, "width": 4000, "count": 3, "dtype": "uint16"}
        with memory.open(**options, sparse_ok=True, tiled=True, transform=from_origin(5e5, 6e6, 10, 10)):
            pass
        data = bytes(memory.read())
    with pytest.raises(LimitExceeded, match="claims 96000000 bytes of pixels"), open_geotiff(data):
        pass
