"""Templates of TIFF headers in the layout of the official files; values that differ per file are patched in."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from eoforge.data.archives.tiff import (
    ASCII,
    BITS,
    COMPRESSION,
    DEFLATE,
    DOUBLE,
    GDAL_NODATA,
    GEO_ASCII,
    GEO_KEYS,
    GEO_MODEL,
    GEO_RASTER,
    HEIGHT,
    HORIZONTAL,
    LINEAR_UNITS,
    LONG,
    METRE,
    NO_COMPRESSION,
    PHOTOMETRIC,
    PIXEL_SCALE,
    PLANAR,
    PREDICTOR,
    PROJECTED_CRS,
    ROWS_PER_STRIP,
    SAMPLE_FORMAT,
    SAMPLES_PER_PIXEL,
    SHORT,
    STRIP_BYTE_COUNTS,
    STRIP_OFFSETS,
    TIE_POINT,
    WIDTH,
)

GEO_CITATION: Final = 1026
GEOGRAPHIC_CITATION: Final = 2049
ANGULAR_UNITS: Final = 2054
DEGREE: Final = 9102
GDAL_METADATA: Final = 42112


@dataclass(frozen=True, slots=True)
class Template:
    """Header of a file, with the byte positions of the values that differ per file."""

    head: bytes
    tie_point: int
    strip_offsets: int
    strip_byte_counts: int
    counts_type: str
    strips: tuple[int, ...]


@lru_cache(maxsize=256)
def build_template(
    width: int,
    height: int,
    dtype: str,
    epsg: int,
    resolution: float,
    nodata: int | None,
    deflate: bool,
    boa_offset: int | None = None,
) -> Template:
    """Header in the official layout: strips of at most 8 kB, values out of line in the order that GDAL writes.

    Strip offsets and sizes are filled in for uncompressed files; compressed ones leave them to the caller.
    """
    sample = np.dtype(dtype)
    rows = max(1, min(height, 8192 // (width * sample.itemsize)))
    strips = tuple(min(rows, height - first) * width * sample.itemsize for first in range(0, height, rows))
    zone, hemisphere = epsg % 100, "N" if epsg // 100 == 326 else "S"
    citation = f"WGS 84 / UTM zone {zone}{hemisphere}|".encode("ascii")
    ascii_keys = citation + b"WGS 84|\0"
    geo_keys = (
        (1, 1, 0, 7),
        (GEO_MODEL, 0, 1, 1),
        (GEO_RASTER, 0, 1, 1),
        (GEO_CITATION, GEO_ASCII, len(citation), 0),
        (GEOGRAPHIC_CITATION, GEO_ASCII, len(b"WGS 84|"), len(citation)),
        (ANGULAR_UNITS, 0, 1, DEGREE),
        (PROJECTED_CRS, 0, 1, epsg),
        (LINEAR_UNITS, 0, 1, METRE),
    )
    # The originals hold the sizes of several optical strips as SHORT and all others as LONG.
    short = sample.kind == "u" and len(strips) > 1 and not deflate and max(strips) < 1 << 16
    counts_type = "H" if short else "I"
    entries: list[tuple[int, int, int, bytes]] = [
        (WIDTH, SHORT, 1, struct.pack("<H", width)),
        (HEIGHT, SHORT, 1, struct.pack("<H", height)),
        (BITS, SHORT, 1, struct.pack("<H", 8 * sample.itemsize)),
        (COMPRESSION, SHORT, 1, struct.pack("<H", DEFLATE if deflate else NO_COMPRESSION)),
        (PHOTOMETRIC, SHORT, 1, struct.pack("<H", 1)),
        (STRIP_OFFSETS, LONG, len(strips), bytes(4 * len(strips))),
        (SAMPLES_PER_PIXEL, SHORT, 1, struct.pack("<H", 1)),
        (ROWS_PER_STRIP, SHORT, 1, struct.pack("<H", rows)),
        (STRIP_BYTE_COUNTS, SHORT if short else LONG, len(strips),
         struct.pack(f"<{len(strips)}{counts_type}", *strips)),
        (PLANAR, SHORT, 1, struct.pack("<H", 1)),
        *([(PREDICTOR, SHORT, 1, struct.pack("<H", HORIZONTAL))] if deflate else []),
        (SAMPLE_FORMAT, SHORT, 1, struct.pack("<H", 3 if sample.kind == "f" else 1)),
        (PIXEL_SCALE, DOUBLE, 3, struct.pack("<3d", resolution, resolution, 0)),
        (TIE_POINT, DOUBLE, 6, bytes(48)),
        (GEO_KEYS, SHORT, 32, struct.pack("<32H", *(v for key in geo_keys for v in key))),
        (GEO_ASCII, ASCII, len(ascii_keys), ascii_keys),
    ]  # fmt: skip
    if boa_offset is not None:
        item = f'<GDALMetadata>\n  <Item name="BOA_ADD_OFFSET">{boa_offset}</Item>\n</GDALMetadata>\n\0'.encode("ascii")
        entries.append((GDAL_METADATA, ASCII, len(item), item))
    if nodata is not None:
        entries.append((GDAL_NODATA, ASCII, len(str(nodata)) + 1, str(nodata).encode("ascii") + b"\0"))
    start = 8 + 2 + 12 * len(entries) + 4
    positions: dict[int, int] = {}
    tail = b""
    # GDAL writes the strip sizes before the offsets, everything else in tag order.
    for tag, _, _, value in sorted(entries, key=lambda e: STRIP_OFFSETS - 1 if e[0] == STRIP_BYTE_COUNTS else e[0]):
        if len(value) > 4:
            positions[tag] = start + len(tail)
            tail += value + bytes(len(value) % 2)
    directory = b""
    for index, (tag, kind_code, count, value) in enumerate(entries):
        stored = struct.pack("<I", positions[tag]) if tag in positions else value.ljust(4, b"\0")
        positions.setdefault(tag, 8 + 2 + 12 * index + 8)
        directory += struct.pack("<HHI", tag, kind_code, count) + stored
    head = bytearray(b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + tail)
    offsets = [len(head) + sum(strips[:i]) for i in range(len(strips))]
    struct.pack_into(f"<{len(strips)}I", head, positions[STRIP_OFFSETS], *offsets)
    return Template(
        bytes(head), positions[TIE_POINT], positions[STRIP_OFFSETS], positions[STRIP_BYTE_COUNTS], counts_type, strips
    )
