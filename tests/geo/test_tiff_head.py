"""Heads of TIFF files that point elsewhere."""

from __future__ import annotations

import io
import struct

import pytest

from eoforge.errors import DataRefused
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
