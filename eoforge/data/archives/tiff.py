"""Subset of TIFF that the files of reBEN use: tags, and the layout in an image file directory (IFD).

All files of one band have equal IFD bytes: the values that differ (strip sizes, tie point, CRS) lie outside the IFD.
A layout is therefore parsed once per band and looked up by those bytes afterwards.

Source: TIFF 6.0, OGC GeoTIFF 1.1 (19-008r4).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

WIDTH: Final = 256
HEIGHT: Final = 257
BITS: Final = 258
COMPRESSION: Final = 259
PHOTOMETRIC: Final = 262
STRIP_OFFSETS: Final = 273
SAMPLES_PER_PIXEL: Final = 277
ROWS_PER_STRIP: Final = 278
STRIP_BYTE_COUNTS: Final = 279
PLANAR: Final = 284
PREDICTOR: Final = 317
SAMPLE_FORMAT: Final = 339
PIXEL_SCALE: Final = 33550
TIE_POINT: Final = 33922
GEO_KEYS: Final = 34735
GEO_DOUBLES: Final = 34736
GEO_ASCII: Final = 34737
GDAL_NODATA: Final = 42113

SHORT: Final = 3
LONG: Final = 4
DOUBLE: Final = 12
ASCII: Final = 2

NO_COMPRESSION: Final = 1
DEFLATE: Final = 8
HORIZONTAL: Final = 2
"""Predictor 2: each pixel holds the difference to its left neighbour."""

GEO_MODEL: Final = 1024
GEO_RASTER: Final = 1025
PROJECTED_CRS: Final = 3072
LINEAR_UNITS: Final = 3076

METRE: Final = 9001

_NAMING_KEYS: Final = {GEO_MODEL, GEO_RASTER, 1026, 2049, 2054, PROJECTED_CRS, 3073, LINEAR_UNITS}
"""GeoTIFF keys that leave a projected CRS as its code defines it: model, pixel type, citations, units."""

TYPE_FORMATS: Final = {SHORT: "H", LONG: "I", DOUBLE: "d", ASCII: "s"}
_NEEDED = {WIDTH, HEIGHT, BITS, STRIP_OFFSETS, STRIP_BYTE_COUNTS, PIXEL_SCALE, TIE_POINT, GEO_KEYS}
# A tag outside this set may change the meaning of the pixels (orientation, masks, tiles, scale): left to GDAL.
_KNOWN = _NEEDED | {
    COMPRESSION, PHOTOMETRIC, SAMPLES_PER_PIXEL, ROWS_PER_STRIP, PLANAR, PREDICTOR, SAMPLE_FORMAT,
    GEO_DOUBLES, GEO_ASCII, GDAL_NODATA,
}  # fmt: skip
_DTYPES = {(8, 1): "u1", (16, 1): "<u2", (32, 1): "<u4", (16, 2): "<i2", (32, 2): "<i4", (32, 3): "<f4", (64, 3): "<f8"}


@dataclass(frozen=True, slots=True)
class Field:
    """IFD entry: ``count`` values of ``type`` in ``size`` bytes, at byte ``offset`` of the file or ``inline``."""

    type: int
    count: int
    size: int
    offset: int
    inline: bytes | None

    def scalar(self) -> int:
        """Value of an entry with one inline integer; -1 for any other entry."""
        if self.inline is None or self.count != 1 or self.type not in (SHORT, LONG):
            return -1
        return int(struct.unpack("<" + TYPE_FORMATS[self.type], self.inline)[0])


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity: one object per IFD makes a cheap cache key
class StripLayout:
    """Image layout of an IFD: one sample per pixel, in strips of whole rows."""

    width: int
    height: int
    dtype: np.dtype[np.generic]
    deflate: bool
    predictor: bool
    rows_per_strip: int
    strip_offsets: Field
    strip_byte_counts: Field
    pixel_scale: Field
    tie_point: Field
    geo_keys: Field
    nodata: Field | None

    @property
    def strips(self) -> int:
        """Number of strips."""
        return -(-self.height // self.rows_per_strip)

    def strip_bytes(self, index: int) -> int:
        """Decompressed size of a strip; the last strip may be shorter."""
        rows = min(self.rows_per_strip, self.height - index * self.rows_per_strip)
        return rows * self.width * self.dtype.itemsize


@lru_cache(maxsize=256)
def parse_layout(ifd: bytes) -> StripLayout | None:
    """Layout of a little-endian IFD, given as its entries and the pointer to the next IFD.

    Returns:
        The layout, or None for files that are left to GDAL: tiles, several images or samples, other compressions,
        unknown tags.
    """
    if ifd[-4:] != b"\0\0\0\0":
        return None
    fields: dict[int, Field] = {}
    for tag, kind, count, value in struct.iter_unpack("<HHI4s", ifd[:-4]):
        if tag not in _KNOWN or kind not in TYPE_FORMATS:
            return None
        size = count * struct.calcsize(TYPE_FORMATS[kind])
        fields[tag] = Field(kind, count, size, struct.unpack("<I", value)[0], value[:size] if size <= 4 else None)
    if not fields.keys() >= _NEEDED:
        return None

    def scalar(tag: int, default: int) -> int:
        return fields[tag].scalar() if tag in fields else default

    width, height = scalar(WIDTH, 0), scalar(HEIGHT, 0)
    dtype = _DTYPES.get((scalar(BITS, 1), scalar(SAMPLE_FORMAT, 1)))
    compression, predictor = scalar(COMPRESSION, NO_COMPRESSION), scalar(PREDICTOR, 1)
    rows = min(scalar(ROWS_PER_STRIP, height), height)
    plain = scalar(SAMPLES_PER_PIXEL, 1) == 1 and scalar(PLANAR, 1) == 1 and scalar(PHOTOMETRIC, 1) == 1
    if not plain or dtype is None or min(width, height, rows) < 1 or compression not in (NO_COMPRESSION, DEFLATE):
        return None
    if predictor not in (1, HORIZONTAL) or (predictor == HORIZONTAL and (compression != DEFLATE or dtype[-2] == "f")):
        return None
    layout = StripLayout(
        width=width,
        height=height,
        dtype=np.dtype(dtype),
        deflate=compression == DEFLATE,
        predictor=predictor == HORIZONTAL,
        rows_per_strip=rows,
        strip_offsets=fields[STRIP_OFFSETS],
        strip_byte_counts=fields[STRIP_BYTE_COUNTS],
        pixel_scale=fields[PIXEL_SCALE],
        tie_point=fields[TIE_POINT],
        geo_keys=fields[GEO_KEYS],
        nodata=fields.get(GDAL_NODATA),
    )
    counts = (layout.strip_offsets.count, layout.strip_byte_counts.count)
    doubles = (fields[PIXEL_SCALE], fields[TIE_POINT])
    if counts != (layout.strips, layout.strips) or [(f.type, f.count) for f in doubles] != [(DOUBLE, 3), (DOUBLE, 6)]:
        return None
    integers = all(fields[tag].type in (SHORT, LONG) for tag in (STRIP_OFFSETS, STRIP_BYTE_COUNTS))
    return layout if integers and fields[GEO_KEYS].type == SHORT else None


@lru_cache(maxsize=1024)
def gapless_span(layout: StripLayout, offsets: bytes, counts: bytes) -> tuple[int, int] | None:
    """First byte and end of uncompressed pixels without gaps, as in every official raster; None with gaps.

    Args:
        layout: The image.
        offsets: Its strip offsets as stored.
        counts: Its strip sizes as stored.
    """
    starts = struct.unpack(f"<{layout.strips}{TYPE_FORMATS[layout.strip_offsets.type]}", offsets)
    sizes = struct.unpack(f"<{layout.strips}{TYPE_FORMATS[layout.strip_byte_counts.type]}", counts)
    expected = (layout.strip_bytes(i) for i in range(layout.strips))
    if starts[0] == 0 or any(a != b for a, b in zip(sizes, expected, strict=True)):
        return None
    if any(a + n != b for a, n, b in zip(starts, sizes, starts[1:], strict=False)):
        return None
    return starts[0], starts[-1] + sizes[-1]


@lru_cache(maxsize=256)
def epsg_of(geo_keys: bytes) -> int | None:
    """EPSG code of a GeoKey directory; None unless it is a projected CRS in metres with area pixels, and nothing more.

    Other keys replace a part of the CRS (its datum, its shift to WGS 84): such a file is left to GDAL.
    """
    count = len(geo_keys) // 2
    values = struct.unpack(f"<{count}H", geo_keys)
    if count < 4 or values[0] != 1 or count < 4 + 4 * values[3]:
        return None
    keys = {values[i]: (values[i + 1], values[i + 3]) for i in range(4, 4 + 4 * values[3], 4)}
    expected = {GEO_MODEL: 1, GEO_RASTER: 1, LINEAR_UNITS: METRE}
    if not keys.keys() <= _NAMING_KEYS or any(
        keys.get(key, (0, value)) != (0, value) for key, value in expected.items()
    ):
        return None
    location, code = keys.get(PROJECTED_CRS, (1, 0))
    return code if location == 0 and 1024 <= code <= 32766 else None


@lru_cache(maxsize=256)
def nodata_of(text: bytes) -> float | None:
    """Number in the nodata tag of GDAL; None if the text is no number."""
    try:
        return float(text.rstrip(b"\0").decode("ascii"))
    except ValueError:
        return None
