"""Heads of JPEG 2000 files that claim more than their bytes can hold."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from rasterio.io import MemoryFile

from eoforge.errors import DataRefused, EoforgeError, LimitExceeded
from eoforge.geo.jp2_head import SIGNATURE, check_jp2


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">HH", marker, len(data) + 2) + data


def style(precinct: int | None, levels: int, layers: int = 1, block: int = 4) -> bytes:
    head = struct.pack(">BBHBBBBBB", precinct is not None, 0, layers, 0, levels, block, block, 0, 1)
    return head + (b"" if precinct is None else bytes([precinct]) * (levels + 1))


def jp2(side: int, tile: int = 0, bands: int = 1, inside: bytes = b"", **coding: Any) -> bytes:
    size = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, tile or side, tile or side, 0, 0, bands)
    main = segment(0xFF51, size + b"\x0f\1\1" * bands) + segment(0xFF52, style(**coding))
    part = struct.pack(">HIBB", 0, 14 + len(inside) + 2, 0, 1)
    stream = b"\xff\x4f" + main + segment(0xFF90, part) + inside + b"\xff\x93\0\0" + b"\xff\xd9"
    return SIGNATURE + struct.pack(">I4s", len(stream) + 8, b"jp2c") + stream


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (jp2(4096, precinct=0x11, levels=5), "code blocks"),  # 3.9 GB in the decoder
        (jp2(10_980, precinct=None, levels=5, block=0), "code blocks"),
        (jp2(256, tile=1, precinct=None, levels=5), "65536 tiles"),
        (jp2(1024, tile=256, bands=16_384, precinct=None, levels=5), "16 tiles of 16384 bands"),
        (jp2(64, precinct=None, levels=5, layers=65_535), "layers"),
        (jp2(64, precinct=None, levels=5, inside=segment(0xFF52, style(0x11, 5))), "different ways"),
        (jp2(64, precinct=None, levels=5, inside=segment(0xFF53, b"\0" + style(0x11, 5))), "different ways"),
    ],
)
def test_an_image_in_a_crowd_of_parts_is_refused(content: bytes, words: str) -> None:
    assert len(content) < 60_000
    with pytest.raises((DataRefused, LimitExceeded), match=words):
        check_jp2(io.BytesIO(content), len(content), "a file")


def test_images_as_sentinel_2_has_them_are_read() -> None:
    for content in (jp2(10_980, tile=1024, precinct=0x88, levels=5), jp2(10_980, precinct=None, levels=5)):
        check_jp2(io.BytesIO(content), len(content), "a file")


def test_a_head_with_any_damage_is_read_or_refused() -> None:
    with MemoryFile(ext=".jp2") as memory:
        with memory.open(driver="JP2OpenJPEG", height=64, width=64, count=1, dtype="uint16") as dataset:
            dataset.write(np.arange(4096, dtype=np.uint16).reshape(1, 64, 64))
        whole = bytes(memory.read())
    check_jp2(io.BytesIO(whole), len(whole), "a file")
    generator = np.random.default_rng(5)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[int(generator.integers(12, 300))] = int(generator.integers(256))
        try:
            check_jp2(io.BytesIO(damaged), len(damaged), "a file")
        except EoforgeError:
            continue


@pytest.mark.parametrize("where", ["main", "parts", "inside"])
def test_a_crowd_of_markers_is_refused_in_bounded_time(where: str) -> None:
    """The time of the check grew with the file, and a file of a product may have gigabytes."""
    size = struct.pack(">HIIIIIIIIH", 0, 64, 64, 0, 0, 64, 64, 0, 0, 1) + b"\x0f\1\1"
    comment, count = segment(0xFF64, b""), 70_000
    main = segment(0xFF51, size) + segment(0xFF52, style(None, 5)) + (comment * count if where == "main" else b"")
    inside = comment * count if where == "inside" else b""
    part = segment(0xFF90, struct.pack(">HIBB", 0, 14 + len(inside), 0, 1)) + inside + b"\xff\x93"
    stream = b"\xff\x4f" + main + part * (count if where == "parts" else 1) + b"\xff\xd9"
    content = SIGNATURE + struct.pack(">I4s", len(stream) + 8, b"jp2c") + stream
    with pytest.raises(LimitExceeded, match="more than 65536 markers"):
        check_jp2(io.BytesIO(content), len(content), "a file")
