"""The boxes of a JPEG 2000 file, read before GDAL opens it, so that a file that is cut off is not filled with zeros."""

from __future__ import annotations

import struct
from typing import BinaryIO

from eoforge.errors import DataRefused

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
"""First bytes of every file of the format."""
_CODESTREAM = b"jp2c"
_START, _END = b"\xff\x4f", b"\xff\xd9"
_MAX_BOXES = 256


def check_jp2(file: BinaryIO, size: int, what: str) -> None:
    """Refuses what is no JPEG 2000 file, or is not complete.

    Args:
        file: Open at its start, and seekable.
        size: Bytes of the file.
        what: What to call it in messages.

    Raises:
        DataRefused: It is one of these.
    """
    head = file.read(len(SIGNATURE))
    if head != SIGNATURE:
        raise DataRefused(f"{what} is no JPEG 2000 file: it starts with {head[:8]!r}")
    position = len(SIGNATURE)
    for _ in range(_MAX_BOXES):
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            raise DataRefused(f"{what} is cut off: {size} bytes without an image; download it again")
        length, kind = struct.unpack(">I4s", header[:8])
        start = 8
        if length == 1 and len(header) == 16:
            (length,), start = struct.unpack(">Q", header[8:]), 16
        end = position + length if length else size
        if end > size or end <= position + start:
            raise DataRefused(f"{what} is cut off: a box ends at byte {end}, the file has {size}; download it again")
        if kind == _CODESTREAM:
            _check_ends(file, position + start, end, what)
            return
        position = end
    raise DataRefused(f"{what} has no image among its first {_MAX_BOXES} boxes")


def _check_ends(file: BinaryIO, start: int, end: int, what: str) -> None:
    file.seek(start)
    first = file.read(2)
    file.seek(end - 2)
    if (first, file.read(2)) != (_START, _END):
        raise DataRefused(f"{what} is cut off: its image lacks the start or the end mark; download it again")
