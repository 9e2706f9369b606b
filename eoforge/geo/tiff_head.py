"""The head of a TIFF file, read before GDAL opens the file: a CRS in it may not be text that GDAL hands to PROJ.

Some programs put WKT into the text of the GeoTIFF keys, as "ESRI PE String = ...". GDAL parses that WKT while it opens
the file, and PROJ then opens the grids that it names: any path on this machine, a pipe included.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from eoforge.errors import DataRefused, LimitExceeded

_GEO_ASCII_PARAMS = 34737
_ASCII = 2
_MAX_ENTRIES = 4096
_MAX_TEXT = 1 << 16
_MAX_OFFSET = 1 << 50  # files are smaller, and seek takes 63 bits at most
_FREE_BYTES = 1 << 20
_MAX_EXPANSION = 4096
_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}


def check_head(file: BinaryIO, what: str) -> None:
    """Refuses what is no TIFF file, and one whose CRS is WKT.

    Args:
        file: Open at its start, and seekable.
        what: What to call it in messages.

    Raises:
        DataRefused: It is one of these, or too short for what its head says.
    """
    magic = file.read(4)
    if magic not in _ORDERS:
        raise DataRefused(f"{what} is not a readable GeoTIFF: expected TIFF, got {magic!r} at its start; give a .tif")
    order, big = _ORDERS[magic], b"+" in magic
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    file.seek(8 if big else 4)
    _seek(file, _number(file, order + ("Q" if big else "I"), what), what)
    count = _number(file, order + ("Q" if big else "H"), what)
    if count > _MAX_ENTRIES:
        raise DataRefused(f"{what} is not a readable GeoTIFF: its directory has {count} entries; give a .tif")
    for tag, kind, size, value in entry.iter_unpack(_read(file, count * entry.size, what)):
        if tag != _GEO_ASCII_PARAMS:
            continue
        if kind != _ASCII or size > _MAX_TEXT:
            raise DataRefused(f"{what}: expected up to {_MAX_TEXT} bytes of text in its GeoTIFF keys, got {size}")
        if size > len(value):
            _seek(file, struct.unpack(order + ("Q" if big else "I"), value)[0], what)
            value = _read(file, size, what)
        if b"ESRI PE String" in value:
            raise DataRefused(f"{what} holds its CRS as an ESRI PE string, which is not read; give it an EPSG code")


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
