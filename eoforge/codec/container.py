"""Stream format: header, payload, hash codes, CRC-32C.

All numbers are little-endian; the order of the fields is the order of the bytes::

    magic "EOFC" | version u16 | kind u8 | flags u8 | bands u16 | height u32 | width u32 | tile u16 | overlap u16
    | quality f32 | error_s2 u16 | error_s1 f32 | bundle 8 bytes | code bytes u16 | codes u32
    | name length u16 | CRS length u16 | name | [EPSG u32, x f64, y f64, pixel f64  or  CRS text, transform 6 f64]
    | [profile length u32, profile] | payload length u64 | payload | codes | CRC-32C u32 of all before it

Version 1 has no profile: its rasters follow the convention of reBEN. It is still written for rasters without one.
Version 2 has a profile (``profile``), and each piece of its payload begins with a section of masks (``validity``).

``bands`` has bit ``i`` set for the i-th name of ``raster.BAND_ORDER``. No memory is allocated from a number in the
header before that number has been checked against the limits and against the length of the stream.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import IntEnum

import google_crc32c
import numpy as np

from eoforge.codec.profile import MAX_PACKED_BYTES, Profile, pack_profile, unpack_profile
from eoforge.codec.raster import ALIGNMENT, BAND_ORDER, Georeference, factor_of, grid_shape, modalities_of
from eoforge.codec.slices import FileSlice, Stream
from eoforge.data.bands import GROUP_OF
from eoforge.errors import DataRefused, LimitExceeded

MAGIC = b"EOFC"
VERSION = 2
"""Highest version that is read; 1 is read too."""
_PLAIN = 1
"""Version of a stream without a profile."""
DIGEST_BYTES = 8
"""Bytes of the bundle id in a stream: ``Bundle.short_id``."""
MAX_NAME_BYTES = 256
MAX_CRS_BYTES = 8192
MAX_CODE_BYTES = 64
MIN_TILE = 48
"""Smallest side of a tile; smaller tiles would let a small header plan millions of windows."""
_FIXED = struct.Struct("<4sHBBHIIHHfHf8sHIHH")
_EPSG = struct.Struct("<Iddd")
_TRANSFORM = struct.Struct("<6d")
_PROFILE = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_GEO_NONE, _GEO_EPSG, _GEO_TEXT = 0, 1, 2
_MAX_HEAD = (
    _FIXED.size + MAX_NAME_BYTES + MAX_CRS_BYTES + _TRANSFORM.size + _PROFILE.size + MAX_PACKED_BYTES + _LENGTH.size
)
_CHUNK = 1 << 20


class Kind(IntEnum):
    """Kind of the payload."""

    LEARNED = 1
    BOUNDED = 2


@dataclass(frozen=True)
class Limits:
    """Upper limits for the numbers in a header.

    Attributes:
        max_pixels: Pixels of the base grid of a whole raster; a Sentinel-2 tile has 10,980 x 10,980.
        max_tile_pixels: Pixels of the base grid that are decoded at once.
        max_payload_bytes: Bytes of a payload.
    """

    max_pixels: int = 1 << 27
    max_tile_pixels: int = 1 << 22
    max_payload_bytes: int = 1 << 32


LIMITS = Limits()


@dataclass(frozen=True)
class Header:
    """Header of a stream.

    Attributes:
        kind: Learned or bounded.
        bands: Band names in the order of ``raster.BAND_ORDER``.
        shape: Rows and columns of the base grid.
        patch_id: Name, may be empty.
        georeference: Georeference of the raster, None if unknown.
        tile: Side of a tile in base pixels; 0 if the raster is one piece.
        overlap: Overlap of a tile with each neighbour in base pixels.
        quality: Quality step of a learned stream, NaN otherwise.
        max_error: Bound of a bounded stream by modality: DN for ``s2``, dB for ``s1``.
        bundle: First 16 hex digits of the id of the bundle that decodes a learned stream; empty otherwise.
        code_bytes: Bytes of one hash code, 0 if the stream has none.
        codes: Number of hash codes: one per tile and modality.
        payload_bytes: Length of the payload.
        profile: Nodata, scales, tags and the like; None for the convention of reBEN.
    """

    kind: Kind
    bands: tuple[str, ...]
    shape: tuple[int, int]
    patch_id: str = ""
    georeference: Georeference | None = None
    tile: int = 0
    overlap: int = 0
    quality: float = math.nan
    max_error: tuple[tuple[str, float], ...] = ()
    bundle: str = ""
    code_bytes: int = 0
    codes: int = 0
    payload_bytes: int = 0
    profile: Profile | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Sensors with at least one band."""
        return modalities_of(self.bands)

    @property
    def samples(self) -> int:
        """Number of samples of all bands on their native grids."""
        return sum(math.prod(grid_shape(self.shape, factor_of(band))) for band in self.bands)

    @property
    def raw_bytes(self) -> int:
        """Bytes of all samples in memory."""
        widths = {band: np.dtype(GROUP_OF[band].dtype).itemsize for band in self.bands}
        return sum(math.prod(grid_shape(self.shape, factor_of(band))) * width for band, width in widths.items())


@dataclass(frozen=True)
class Container:
    """Parts of a stream: header, payload, and ``codes * code_bytes`` bytes of codes in tile, then modality order."""

    header: Header
    payload: memoryview | FileSlice
    codes: memoryview | FileSlice


def pack(header: Header, payload: bytes, codes: bytes = b"") -> bytes:
    """Bytes of a stream.

    Args:
        header: Header; ``payload_bytes`` is taken from ``payload``.
        payload: Input of the decoder of this kind.
        codes: ``header.codes * header.code_bytes`` bytes.

    Raises:
        LimitExceeded: A name, a CRS or the raster is larger than the format holds.
    """
    body = b"".join((pack_head(header, len(payload)), payload, codes))
    return body + pack_checksum(body)


def pack_head(header: Header, payload_bytes: int) -> bytes:
    """Bytes before the payload; their number does not depend on ``payload_bytes``.

    Raises:
        LimitExceeded: A name, a CRS or the raster is larger than the format holds.
    """
    name = header.patch_id.encode()
    geo, crs, kind = _pack_georeference(header.georeference)
    if len(name) > MAX_NAME_BYTES or len(crs) > MAX_CRS_BYTES:
        raise LimitExceeded(
            f"a stream holds a name of {MAX_NAME_BYTES} and a CRS of {MAX_CRS_BYTES} bytes; got {len(name)}, {len(crs)}"
        )
    _check_shape(header.shape, LIMITS)
    profile = b""
    if header.profile is not None:
        packed = pack_profile(header.profile, header.bands)
        profile = _PROFILE.pack(len(packed)) + packed
    errors = dict(header.max_error)
    fixed = _FIXED.pack(
        MAGIC,
        _PLAIN if header.profile is None else VERSION,
        header.kind,
        kind,
        sum(1 << BAND_ORDER.index(band) for band in header.bands),
        *header.shape,
        header.tile,
        header.overlap,
        header.quality,
        int(errors.get("s2", 0)),
        errors.get("s1", 0.0),
        bytes.fromhex(header.bundle) if header.bundle else bytes(DIGEST_BYTES),
        header.code_bytes,
        header.codes,
        len(name),
        len(crs),
    )
    return b"".join((fixed, name, crs, geo, profile, _LENGTH.pack(payload_bytes)))


def pack_checksum(body: Stream) -> bytes:
    """Checksum at the end of a stream, from all bytes before it."""
    return _CRC.pack(_checksum(body))


def inspect(stream: Stream, limits: Limits = LIMITS) -> Header:
    """Header of a stream, read without the payload.

    Raises:
        DataRefused: The bytes are no stream of eoforge, of another version, truncated or inconsistent.
        LimitExceeded: The header claims more than ``limits``.
    """
    return _parse(stream, limits)[0]


def unpack(stream: Stream, limits: Limits = LIMITS) -> Container:
    """Header, payload and codes of a stream, after its length and checksum have been checked.

    Raises:
        DataRefused: As for :func:`inspect`, or the checksum does not match.
        LimitExceeded: The header claims more than ``limits``.
    """
    header, start = _parse(stream, limits)
    view = stream if isinstance(stream, FileSlice) else memoryview(stream)
    (stored,) = _CRC.unpack(bytes(view[-_CRC.size :]))
    found = _checksum(view[: -_CRC.size])
    if found != stored:
        raise DataRefused(
            f"damaged stream: its CRC-32C is {found:08x}, expected {stored:08x}. Fetch the stream again from its source"
        )
    end = start + header.payload_bytes
    return Container(header, view[start:end], view[end : -_CRC.size])


def _checksum(body: memoryview | Stream) -> int:
    value = 0
    for start in range(0, len(body), _CHUNK):
        value = google_crc32c.extend(value, bytes(body[start : start + _CHUNK]))
    return value


def _parse(stream: Stream, limits: Limits) -> tuple[Header, int]:
    """Header, and position of the payload."""
    head = bytes(stream[:_MAX_HEAD])
    if len(head) < _FIXED.size or head[:4] != MAGIC:
        raise DataRefused(
            f"no stream of eoforge: expected at least {_FIXED.size} bytes starting with {MAGIC!r}; "
            f"got {len(stream)} starting with {head[:4]!r}"
        )
    (
        _, version, kind, flags, mask, height, width, tile, overlap, quality, error_s2, error_s1, bundle,
        code_bytes, codes, name_bytes, crs_bytes,
    ) = _FIXED.unpack_from(head)  # fmt: skip
    if not _PLAIN <= version <= VERSION:
        raise DataRefused(
            f"stream format {version}: this eoforge reads the formats {_PLAIN} to {VERSION}. Use the eoforge that "
            "wrote it"
        )
    if kind not in tuple(Kind) or flags > _GEO_TEXT or not mask or mask >> len(BAND_ORDER):
        raise DataRefused(f"damaged stream: kind {kind}, flags {flags}, bands {mask:#x} are not defined")
    if name_bytes > MAX_NAME_BYTES or crs_bytes > MAX_CRS_BYTES or code_bytes > MAX_CODE_BYTES:
        raise DataRefused(
            f"damaged stream: claims a name of {name_bytes}, a CRS of {crs_bytes} and codes of {code_bytes} bytes"
        )
    shape = (height, width)
    _check_shape(shape, limits)
    _check_tiles(shape, tile, overlap, limits)
    geo_end = _FIXED.size + name_bytes + crs_bytes + (0, _EPSG.size, _TRANSFORM.size)[flags]
    profile_bytes = 0 if version == _PLAIN else _PROFILE.size
    start = geo_end + profile_bytes + _LENGTH.size
    if profile_bytes and len(head) >= start:
        profile_bytes += _PROFILE.unpack_from(head, geo_end)[0]
        start = geo_end + profile_bytes + _LENGTH.size
    if len(stream) < start + _CRC.size or len(head) < start:
        raise DataRefused(f"truncated stream: its header has {start} bytes, the stream {len(stream)}")
    name_end = _FIXED.size + name_bytes
    name = _text(head[_FIXED.size : name_end], "patch id")
    georeference = _unpack_georeference(head, name_end, crs_bytes, flags)
    (payload_bytes,) = _LENGTH.unpack_from(head, start - _LENGTH.size)
    if payload_bytes > limits.max_payload_bytes:
        raise LimitExceeded(
            f"the stream claims {payload_bytes} payload bytes; at most {limits.max_payload_bytes} are read"
        )
    whole = start + payload_bytes + codes * code_bytes + _CRC.size
    if len(stream) != whole:
        raise DataRefused(f"truncated or padded stream: its header gives {whole} bytes; the stream has {len(stream)}")
    bands = tuple(band for i, band in enumerate(BAND_ORDER) if mask >> i & 1)
    if not (kind == Kind.BOUNDED or math.isfinite(quality)) or not (math.isfinite(error_s1) and error_s1 >= 0):
        raise DataRefused(f"damaged stream: quality {quality} or error {error_s1} is not a valid number")
    header = Header(
        Kind(kind), bands, shape, name, georeference, tile, overlap, quality, (), bundle.hex() if any(bundle) else "",
        code_bytes, codes, payload_bytes,
        unpack_profile(head[geo_end + _PROFILE.size : geo_end + profile_bytes], bands) if profile_bytes else None,
    )  # fmt: skip
    if kind == Kind.BOUNDED:
        known = {"s1": error_s1, "s2": float(error_s2)}
        object.__setattr__(header, "max_error", tuple((m, known[m]) for m in header.modalities))
    return header, start


def _check_shape(shape: tuple[int, int], limits: Limits) -> None:
    if 0 in shape:
        raise DataRefused(f"damaged stream: a raster of {shape[0]} x {shape[1]} pixels")
    if math.prod(shape) > limits.max_pixels:
        raise LimitExceeded(f"the stream claims {shape[0]} x {shape[1]} pixels; at most {limits.max_pixels} are read")


def _check_tiles(shape: tuple[int, int], tile: int, overlap: int, limits: Limits) -> None:
    if tile % ALIGNMENT or overlap % ALIGNMENT or 2 * overlap > tile or 0 < tile < MIN_TILE:
        raise DataRefused(f"damaged stream: tiles of {tile} pixels with an overlap of {overlap}")
    at_once = math.prod(min(tile + 2 * overlap, side) if tile else side for side in shape)
    if at_once > limits.max_tile_pixels:
        raise LimitExceeded(
            f"the stream is decoded in pieces of {at_once} pixels; at most {limits.max_tile_pixels} at a time"
        )


def _pack_georeference(georeference: Georeference | None) -> tuple[bytes, bytes, int]:
    """Transform bytes, CRS bytes, and the flag of their form."""
    if georeference is None:
        return b"", b"", _GEO_NONE
    a, b, c, d, e, f = georeference.transform
    code = georeference.crs.removeprefix("EPSG:")
    if b == d == 0 and a == -e and georeference.crs.startswith("EPSG:") and code.isascii() and code.isdecimal():
        number = int(code)
        if str(number) == code and number < 1 << 32:
            return _EPSG.pack(number, c, f, a), b"", _GEO_EPSG
    return _TRANSFORM.pack(a, b, c, d, e, f), georeference.crs.encode(), _GEO_TEXT


def _unpack_georeference(head: bytes, start: int, crs_bytes: int, flags: int) -> Georeference | None:
    if flags == _GEO_NONE:
        return None
    if flags == _GEO_EPSG:
        epsg, x, y, pixel = _EPSG.unpack_from(head, start + crs_bytes)
        crs, transform = f"EPSG:{epsg}", (pixel, 0.0, x, 0.0, -pixel, y)
    else:
        crs = _text(head[start : start + crs_bytes], "CRS")
        transform = _TRANSFORM.unpack_from(head, start + crs_bytes)
    if not all(map(math.isfinite, transform)):
        raise DataRefused(f"damaged stream: its transform {transform} is not finite")
    return Georeference(crs, transform)


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataRefused(f"damaged stream: its {what} is no UTF-8 text") from error
