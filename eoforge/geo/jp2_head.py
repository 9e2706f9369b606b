"""The boxes of a JPEG 2000 file, read before GDAL opens it, so that a file that is cut off is not filled with zeros."""

from __future__ import annotations

import math
import struct
from typing import BinaryIO

from eoforge.errors import DataRefused, LimitExceeded

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
"""First bytes of every file of the format."""
_CODESTREAM = b"jp2c"
_START, _END = b"\xff\x4f", b"\xff\xd9"
_MAX_BOXES = 256
_SIZ, _COD, _COC, _SOT, _SOD = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93
_SIZE, _STYLE = struct.Struct(">HIIIIIIIIH"), struct.Struct(">BBHBBBB")
_WHOLE = 15
"""Exponent of a precinct's side where none is given: that of the whole tile."""
_MAX_LEVELS, _MAX_LAYERS = 32, 64
_MAX_TILES, _MAX_BLOCKS = 1 << 12, 1 << 18
"""Tiles of all bands, and precincts and code blocks of one of them; a tile of Sentinel-2 has 121 and some hundreds."""

_MAX_SEGMENTS = 1 << 16
"""Markers of the image and of its parts: a tile of Sentinel-2 has some thousands, if each part lists its packets."""


def check_jp2(file: BinaryIO, size: int, what: str) -> None:
    """Refuses what is no JPEG 2000 file, or is not complete.

    Args:
        file: Open at its start, and seekable.
        size: Bytes of the file.
        what: What to call it in messages.

    Raises:
        DataRefused: It is one of these.
        LimitExceeded: It is cut into far more parts than a product of Sentinel-2, and the decoder takes memory for all.
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
            _check_size(file, position + start, end, what)
            return
        position = end
    raise DataRefused(f"{what} has no image among its first {_MAX_BOXES} boxes")


def _check_ends(file: BinaryIO, start: int, end: int, what: str) -> None:
    file.seek(start)
    first = file.read(2)
    file.seek(end - 2)
    if (first, file.read(2)) != (_START, _END):
        raise DataRefused(f"{what} is cut off: its image lacks the start or the end mark; download it again")


def _check_size(file: BinaryIO, start: int, end: int, what: str) -> None:
    """Refuses an image in so many parts that their description in memory is the attack (ISO/IEC 15444-1, Annex A)."""
    sides, position = (0, 0), start + 2
    segments = _Segments(file, what)
    while True:
        marker, data = segments.at(position)
        if marker == _SOT:
            break
        if marker == _SIZ and len(data) >= _SIZE.size:
            _, right, bottom, left, top, width, height, tile_left, tile_top, bands = _SIZE.unpack_from(data)
            if not (left < right and top < bottom and width and height and tile_left <= left and tile_top <= top):
                raise DataRefused(f"{what} is damaged: its image has no size; download it again")
            tiles = -(-(right - tile_left) // width) * -(-(bottom - tile_top) // height)
            if tiles * bands > _MAX_TILES:
                raise LimitExceeded(f"{what} has {tiles} tiles of {bands} bands; at most {_MAX_TILES} are read")
            sides = min(width, right - left), min(height, bottom - top)
        elif marker == _COD:
            _check_blocks(data, sides, what)
        elif marker == _COC:
            raise DataRefused(f"{what} codes its bands in different ways, which is not read")
        position += 4 + len(data)
    while position < end - 2:  # the parts of tiles: none codes its pixels in a way of its own
        _, data = segments.at(position)
        length = int.from_bytes(data[2:6], "big")
        inside = position + 4 + len(data)
        while (found := segments.at(inside))[0] != _SOD:
            if found[0] in (_COD, _COC):
                raise DataRefused(f"{what} codes its tiles in different ways, which is not read")
            inside += 4 + len(found[1])
        if length < inside - position:
            if length:
                raise DataRefused(f"{what} is damaged: a part of {length} bytes; download it again")
            return  # 0: the last part, up to the end
        position += length


class _Segments:
    """The marker segments of an image, of which a limited number is read: each costs time, and few bytes."""

    def __init__(self, file: BinaryIO, what: str) -> None:
        self._file, self._what, self._left = file, what, _MAX_SEGMENTS

    def at(self, position: int) -> tuple[int, bytes]:
        """Marker and data of a segment; SOD has none."""
        self._left -= 1
        if self._left < 0:
            raise LimitExceeded(f"{self._what} has more than {_MAX_SEGMENTS} markers in its image")
        self._file.seek(position)
        head = self._file.read(4)
        marker, length = struct.unpack(">HH", head) if len(head) == 4 else (0, 0)
        if marker == _SOD:
            return marker, b""
        data = self._file.read(length - 2) if length >= 2 else b""
        if not 0xFF4F < marker < 0xFFFF or len(data) != length - 2:
            raise DataRefused(f"{self._what} is damaged: no marker of JPEG 2000 at byte {position}; download it again")
        return marker, data


def _check_blocks(data: bytes, sides: tuple[int, int], what: str) -> None:
    """Checks the coding style: precincts and code blocks of a tile over all resolutions."""
    if len(data) < 10 or not all(sides):
        raise DataRefused(f"{what} is damaged: its coding style is cut off; download it again")
    style, _, layers, _, levels, across, down = _STYLE.unpack_from(data)
    precincts = data[10 : 11 + levels] if style & 1 else bytes([_WHOLE << 4 | _WHOLE]) * (levels + 1)
    if levels > _MAX_LEVELS or layers > _MAX_LAYERS or max(across, down) > 8 or len(precincts) != levels + 1:
        raise DataRefused(f"{what}: expected at most {_MAX_LEVELS} resolutions and {_MAX_LAYERS} layers in its image")
    parts = 0
    for number, exponents in enumerate(precincts):
        shrunk = [(side >> (levels - number)) + 1 for side in sides]
        steps = [min(exponents & 15, across + 2), min(exponents >> 4, down + 2)]
        parts += math.prod((side >> step) + 2 for side, step in zip(shrunk, steps, strict=True))
    if parts > _MAX_BLOCKS:
        raise LimitExceeded(f"{what} has {parts} code blocks in a tile; at most {_MAX_BLOCKS} are read")
