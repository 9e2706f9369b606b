"""The head of a TIFF file, read before GDAL opens the file: no CRS as text for PROJ, no crowd of metadata.

Some programs put WKT into the text of the GeoTIFF keys, as "ESRI PE String = ...". GDAL parses that WKT while it opens
the file, and PROJ then opens the grids that it names: any path on this machine, a pipe included.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from eoforge.errors import DataRefused, LimitExceeded

_GEO_ASCII_PARAMS = 34737
_GDAL_METADATA = 42112
_TIE_POINTS = 33922
_ASCII = 2
_MAX_ENTRIES = 4096
_MAX_DIRECTORIES = 64
_MAX_TEXT = 1 << 16
_MAX_METADATA, _MAX_MARKS = 1 << 20, 1 << 12
"""Bytes and ``<`` of the metadata in XML: GDAL's time for them grows with the square of their number."""
_MAX_POINTS = 1 << 12
"""Ground control points, six numbers each. Each takes 1.7 kB of memory in GDAL and rasterio; radar scenes have 210."""
_MAX_OFFSET = 1 << 50  # files are smaller, and seek takes 63 bits at most
_TEXTS = {_GEO_ASCII_PARAMS: ("GeoTIFF keys", _MAX_TEXT), _GDAL_METADATA: ("metadata", _MAX_METADATA)}
"""Tag -> name of its text for messages, and most bytes."""
_FREE_BYTES = 1 << 20
_MAX_EXPANSION = 4096
_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}


def check_head(file: BinaryIO, what: str) -> None:
    """Refuses what is no TIFF file, one whose CRS is WKT, and one with a crowd of metadata.

    Args:
        file: Open at its start, and seekable.
        what: What to call it in messages.

    Raises:
        DataRefused: It is one of these, or too short for what its head says.
        LimitExceeded: Its metadata have too many items, or it has too many control points.
    """
    magic = file.read(4)
    if magic not in _ORDERS:
        raise DataRefused(f"{what} is not a readable GeoTIFF: expected TIFF, got {magic!r} at its start; give a .tif")
    order, big = _ORDERS[magic], b"+" in magic
    marks = 0
    file.seek(8 if big else 4)
    at = _number(file, order + ("Q" if big else "I"), what)
    for _ in range(_MAX_DIRECTORIES):  # overviews and masks have directories of their own, and GDAL reads these, too
        texts, at = _directory(file, at, order, what, big=big)
        if b"ESRI PE String" in texts.get(_GEO_ASCII_PARAMS, b""):
            raise DataRefused(f"{what} holds its CRS as an ESRI PE string, which is not read; give it an EPSG code")
        marks += texts.get(_GDAL_METADATA, b"").count(b"<")
        if marks > _MAX_MARKS:
            raise LimitExceeded(f"{what}: its metadata have {marks} marks of XML; at most {_MAX_MARKS} are read")
        if not at:
            return
    raise LimitExceeded(f"{what} has more than {_MAX_DIRECTORIES} directories (images, overviews, masks)")


def _directory(file: BinaryIO, at: int, order: str, what: str, *, big: bool) -> tuple[dict[int, bytes], int]:
    """Texts of the directory at a byte, by tag, and where the next one is; 0 after the last."""
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    pointer = order + ("Q" if big else "I")
    _seek(file, at, what)
    count = _number(file, order + ("Q" if big else "H"), what)
    if count > _MAX_ENTRIES:
        raise DataRefused(f"{what} is not a readable GeoTIFF: its directory has {count} entries; give a .tif")
    entries = _read(file, count * entry.size, what)
    following = _number(file, pointer, what)
    texts: dict[int, bytes] = {}
    for tag, kind, size, value in entry.iter_unpack(entries):
        if tag == _TIE_POINTS and size > 6 * _MAX_POINTS:
            raise LimitExceeded(f"{what} has {size // 6} ground control points; at most {_MAX_POINTS} are read")
        if tag not in _TEXTS:
            continue
        name, limit = _TEXTS[tag]
        if kind != _ASCII or size > limit or tag in texts:
            raise DataRefused(f"{what}: expected one text of up to {limit} bytes as its {name}, got {size}")
        if size > len(value):
            _seek(file, struct.unpack(pointer, value)[0], what)
            value = _read(file, size, what)
        texts[tag] = value
    return texts, following


def check_expansion(pixel_bytes: int, file_bytes: int, what: str) -> None:
    """Refuses a raster that is far larger than its file can hold: tiles that are left out, or one that stands for all.

    Args:
        pixel_bytes: Size of all pixels.
        file_bytes: Size of the file.
        what: What to call it in messages.

    Raises:
        LimitExceeded: The pixels have more than 1 MiB and more than 4,096 bytes for each byte of the file. Constant
            tiles of 256 x 256 pixels come to 3,600 with the best codec: only a sparse file is beyond.
    """
    if pixel_bytes > max(_FREE_BYTES, _MAX_EXPANSION * file_bytes):
        raise LimitExceeded(
            f"{what} has {file_bytes} bytes and claims {pixel_bytes} bytes of pixels; at most {_MAX_EXPANSION} times "
            "the file are read. Write it without sparse tiles"
        )


def _seek(file: BinaryIO, offset: int, what: str) -> None:
    if offset > _MAX_OFFSET:
        raise DataRefused(f"{what} is not a readable GeoTIFF: its head names byte {offset}; give a .tif")
    file.seek(offset)


def _number(file: BinaryIO, form: str, what: str) -> int:
    (number,) = struct.unpack(form, _read(file, struct.calcsize(form), what))
    return int(number)


def _read(file: BinaryIO, size: int, what: str) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise DataRefused(f"{what} is not a readable GeoTIFF: truncated in its head; give a .tif")
    return data
