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


@pytest.mark.parametrize("page", [0, 1])
def test_a_crowd_of_metadata_is_refused_before_gdal_reads_it(page: int) -> None:
    """GDAL compares each item with all before it: 20,000 took half a second of a worker, 40,000 two."""
    with MemoryFile() as memory:
        options = {"driver": "GTiff", "height": 4, "width": 4, "count": 1, "dtype": "uint16"}
        with memory.open(**options) as dataset:
            dataset.update_tags(**{f"A{i}": "b" for i in range(3000)})
        crowd = bytes(memory.read())
    first = second = crowd
    if page:  # an image without metadata, whose next directory is that of the other
        with MemoryFile() as memory:
            with memory.open(**options):
                pass
            first = bytes(memory.read())
        at = struct.unpack_from("<I", second, 4)[0]
        entries = struct.unpack_from("<H", second, at)[0]
        moved = bytearray(second)
        for number in range(entries):
            place = at + 2 + 12 * number
            tag, _, size, value = struct.unpack_from("<HHII", moved, place)
            if tag == 42112 and size > 4:
                struct.pack_into("<I", moved, place + 8, value + len(first))
        linked = bytearray(first)
        own = struct.unpack_from("<I", linked, 4)[0]
        after = own + 2 + 12 * struct.unpack_from("<H", linked, own)[0]
        struct.pack_into("<I", linked, after, len(first) + at)
        first = bytes(linked + moved)
    with pytest.raises(LimitExceeded, match="6002 marks of XML"), open_geotiff(first):
        pass


def test_a_chain_of_directories_without_an_end_is_refused() -> None:
    loop = b"II*\0" + struct.pack("<IH", 8, 0) + struct.pack("<I", 8)
    with pytest.raises(LimitExceeded, match="directories"):
        check_head(io.BytesIO(loop), "a file")


@pytest.mark.parametrize(("points", "taken"), [(4096, True), (4097, False), (20_000, False)])
def test_a_crowd_of_control_points_is_refused_before_gdal_reads_it(points: int, taken: bool) -> None:
    """20,000 of them, a megabyte of file, took 34 MiB of memory for each request."""
    entry = struct.pack("<HHII", 33922, 12, 6 * points, 200)
    file = b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(64)
    if taken:
        check_head(io.BytesIO(file), "a file")
        return
    with pytest.raises(LimitExceeded, match=f"{points} ground control points; at most 4096"):
        check_head(io.BytesIO(file), "a file")
