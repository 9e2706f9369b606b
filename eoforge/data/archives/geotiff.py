"""Reader and writer of GeoTIFF files of one band: a fast path for the layouts of reBEN, rasterio (GDAL) for others.

Opening a file with GDAL costs about a millisecond, fifteen files make a patch pair, and half a million pairs make
reBEN. The official files are uncompressed strips, so their pixels are a view of the bytes of the file.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.archives import tiff
from eoforge.data.archives.tiff_template import build_template
from eoforge.errors import DataRefused, LimitExceeded, UsageError
from eoforge.geo.crs import crs_text
from eoforge.geo.gdal import open_geotiff, refusing
from eoforge.geo.tiff_head import check_expansion

OFFSET_TAG = "BOA_ADD_OFFSET"
MAX_PIXELS = 1 << 24
"""Largest number of pixels that is decoded; an official raster has 14,400."""


@dataclass(frozen=True, slots=True)
class BandRaster:
    """Decoded raster of one band.

    Attributes:
        pixels: ``[H, W]``; read-only if they are a view of the bytes of the file.
        epsg: CRS code, None if the file names no CRS or none that a code means exactly.
        transform: ``(a, b, c, d, e, f)``: x = a * column + b * row + c, y = d * column + e * row + f.
        nodata: The nodata value, None if the file names none.
        crs: ``EPSG:<code>`` or WKT where ``epsg`` is None for lack of an exact code; for messages.
        scaling: Scale and offset by which the file turns its numbers into physical values.
        boa_offset: Value of its tag BOA_ADD_OFFSET, None without one.
    """

    pixels: npt.NDArray[Any]
    epsg: int | None
    transform: tuple[float, float, float, float, float, float]
    nodata: float | None
    crs: str | None = None
    scaling: tuple[float, float] = (1.0, 0.0)
    boa_offset: float | None = None


def read_geotiff(data: bytes, name: str = "GeoTIFF") -> BandRaster:
    """BandRaster of a file of one band.

    Args:
        data: All bytes of the file.
        name: Name of the file in error messages.

    Raises:
        DataRefused: The file is truncated, damaged, no GeoTIFF, holds several bands, or claims more than
            ``MAX_PIXELS`` pixels.
    """
    if len(data) < 8 or data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise DataRefused(f"{name}: expected a TIFF file, got {len(data)} bytes starting with {data[:4]!r}")
    if data[:4] != b"II*\0":
        return _read_with_rasterio(data, name)
    start = struct.unpack_from("<I", data, 4)[0]
    if start + 2 > len(data):
        raise DataRefused(f"{name}: truncated: the directory starts at byte {start}, the file has {len(data)} bytes")
    end = start + 2 + 12 * struct.unpack_from("<H", data, start)[0] + 4
    if end > len(data):
        raise DataRefused(f"{name}: truncated: the directory ends at byte {end}, the file has {len(data)} bytes")
    layout = tiff.parse_layout(data[start + 2 : end])
    if layout is None:
        return _read_with_rasterio(data, name)
    epsg = tiff.epsg_of(_field(data, layout.geo_keys, name))
    nodata = None if layout.nodata is None else tiff.nodata_of(_field(data, layout.nodata, name))
    i, j, _, x, y, _ = struct.unpack("<6d", _field(data, layout.tie_point, name))
    scale_x, scale_y, _ = struct.unpack("<3d", _field(data, layout.pixel_scale, name))
    if epsg is None or i or j or (layout.nodata is not None and nodata is None):
        return _read_with_rasterio(data, name)
    if layout.width * layout.height > MAX_PIXELS:
        raise DataRefused(f"{name}: claims {layout.width} x {layout.height} pixels; at most {MAX_PIXELS} are read")
    try:
        check_expansion(layout.width * layout.height * layout.dtype.itemsize, len(data), name)
    except LimitExceeded as error:
        raise DataRefused(str(error)) from error
    pixels = _decode(data, layout, name)
    if pixels is None:
        return _read_with_rasterio(data, name)
    return BandRaster(pixels, epsg, (scale_x, 0.0, x, 0.0, -scale_y, y), nodata)


def _field(data: bytes, field: tiff.Field, name: str) -> bytes:
    if field.inline is not None:
        return field.inline
    value = data[field.offset : field.offset + field.size]
    if len(value) != field.size:
        end = field.offset + field.size
        raise DataRefused(f"{name}: truncated: a header field ends at byte {end}, the file has {len(data)} bytes")
    return value


def _decode(data: bytes, layout: tiff.StripLayout, name: str) -> npt.NDArray[Any] | None:
    """Pixels ``[H, W]``; None if offsets or sizes of the strips are left to GDAL."""
    raw_offsets = _field(data, layout.strip_offsets, name)
    raw_counts = _field(data, layout.strip_byte_counts, name)
    if not layout.deflate:
        span = tiff.gapless_span(layout, raw_offsets, raw_counts)
        if span is None:
            return None
        _check_end(data, span[1], name)
        pixels = np.frombuffer(data, layout.dtype, layout.height * layout.width, span[0])
        return pixels.reshape(layout.height, layout.width)
    offsets = struct.unpack(f"<{layout.strips}{tiff.TYPE_FORMATS[layout.strip_offsets.type]}", raw_offsets)
    counts = struct.unpack(f"<{layout.strips}{tiff.TYPE_FORMATS[layout.strip_byte_counts.type]}", raw_counts)
    if 0 in offsets:
        return None
    strips = []
    for index, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
        _check_end(data, offset + count, name)
        strips.append(_inflate(data[offset : offset + count], layout.strip_bytes(index), name))
    pixels = np.frombuffer(b"".join(strips), layout.dtype).reshape(layout.height, layout.width)
    return np.add.accumulate(pixels, axis=1, dtype=layout.dtype) if layout.predictor else pixels


def _check_end(data: bytes, end: int, name: str) -> None:
    if end > len(data):
        raise DataRefused(f"{name}: truncated: pixels end at byte {end}, the file has {len(data)} bytes")


def _inflate(strip: bytes, size: int, name: str) -> bytes:
    """Decompressed strip of ``size`` bytes; decompression stops at that size."""
    try:
        out = zlib.decompressobj().decompress(strip, size)
    except zlib.error as error:
        raise DataRefused(f"{name}: damaged: a compressed strip does not decode ({error})") from error
    if len(out) != size:
        raise DataRefused(f"{name}: damaged: a compressed strip holds {len(out)} bytes, expected {size}")
    return out


def _read_with_rasterio(data: bytes, name: str) -> BandRaster:
    try:
        with open_geotiff(data, name, MAX_PIXELS) as source:
            if source.count != 1:
                raise DataRefused(f"{name}: expected one band, got {source.count}")
            with refusing(name):
                crs = crs_text(source.crs)
                code = crs.removeprefix("EPSG:") if crs else ""
                epsg = int(code) if code.isdecimal() else None
                scaling = (float(source.scales[0]), float(source.offsets[0]))
                tag = (source.tags() | source.tags(1)).get(OFFSET_TAG)
                transform = tuple(source.transform)[:6]
                return BandRaster(source.read(1), epsg, transform, source.nodata, crs, scaling, number_of(tag, name))
    except LimitExceeded as error:
        raise DataRefused(f"{name}: {error}") from error


def number_of(text: str | None, name: str) -> float | None:
    """Offset from the text of its tag.

    Raises:
        DataRefused: The text is no number.
    """
    if text is None:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise DataRefused(f"{name}: expected a number as {OFFSET_TAG}, got {text[:40]!r}") from error


def write_geotiff(
    path: str | Path | None,
    array: npt.NDArray[Any],
    epsg: int,
    ulx: float,
    uly: float,
    resolution: float,
    nodata: int | None = None,
    *,
    deflate: bool = False,
    boa_offset: int | None = None,
) -> bytes:
    """GeoTIFF in the layout of the official files; uncompressed files are equal to them byte for byte.

    Args:
        path: File to write, or None to return the bytes only.
        array: ``[H, W]`` uint16 or float32.
        epsg: A UTM zone on WGS 84: 32601..32660 or 32701..32760.
        ulx: Easting of the upper-left corner in metres.
        uly: Northing of the upper-left corner in metres.
        resolution: Metres per pixel.
        nodata: Nodata tag (official: 0 for S2 and maps, none for S1).
        deflate: DEFLATE with horizontal predictor, as the official reference maps; integers only.
        boa_offset: Tag BOA_ADD_OFFSET, which the official files lack.

    Returns:
        Bytes of the file.

    Raises:
        UsageError: Another shape, dtype or CRS.
    """
    kind = array.dtype
    if array.ndim != 2 or kind not in (np.uint16, np.float32) or not all(0 < n < 1 << 16 for n in array.shape):
        raise UsageError(f"expected uint16 or float32 [H, W] with sides of 1..65535, got {kind} {list(array.shape)}")
    if not (32601 <= epsg <= 32660 or 32701 <= epsg <= 32760):
        raise UsageError(f"expected the EPSG code of a WGS 84 UTM zone, got {epsg}")
    if deflate and kind != np.uint16:
        raise UsageError(f"DEFLATE with horizontal predictor is for integers, got {kind}")
    height, width = array.shape
    template = build_template(width, height, kind.name, epsg, float(resolution), nodata, deflate, boa_offset)
    head = bytearray(template.head)
    struct.pack_into("<6d", head, template.tie_point, 0, 0, 0, ulx, uly, 0)
    pixels = np.ascontiguousarray(array, dtype=kind.newbyteorder("<"))
    if deflate:
        differences = pixels.copy()
        differences[:, 1:] -= pixels[:, :-1]
        raw = memoryview(differences.tobytes())
        ends = np.cumsum(template.strips)
        strips = [zlib.compress(raw[e - n : e]) for n, e in zip(template.strips, ends, strict=True)]
        sizes = [len(s) for s in strips]
        offsets = [len(head) + sum(sizes[:i]) for i in range(len(sizes))]
        struct.pack_into(f"<{len(sizes)}I", head, template.strip_offsets, *offsets)
        struct.pack_into(f"<{len(sizes)}{template.counts_type}", head, template.strip_byte_counts, *sizes)
        data = b"".join([head, *strips])
    else:
        data = b"".join([head, pixels.data.cast("B")])
    if path is not None:
        Path(path).write_bytes(data)
    return data
