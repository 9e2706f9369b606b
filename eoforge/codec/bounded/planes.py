"""Lossless map between bands and planes of integers.

Reflectance is an integer already. Backscatter in dB is float32: its magnitude is cut at 2^-16 dB into an integer and
the few float32 steps above it, which are plain bits. Other values (NaN, infinities, magnitudes below 2^-6 or from 256
dB on) are exceptions, stored unchanged beside the plane.

Processors leave gaps in reflectances: of three neighbouring numbers only one may occur. Such a band is coded by the
rank of its values among the values that occur (its palette).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eoforge.codec.bounded.wavefront import Integers
from eoforge.errors import DataRefused

FIXED_BITS = 16
_SMALLEST, _LARGEST = 2.0**-6, 256.0
PLANE_LIMIT = 1 << 24
"""Upper limit of the magnitudes in a plane."""
_NEIGHBOURS = 8


@dataclass
class Backscatter:
    """Parts of a float32 band.

    Attributes:
        plane: int64 ``[h, w]``, signed magnitude in 2^-16 dB, cut towards zero.
        rest: float32 steps above, int64 ``[h, w]``, in ``[0, 2^rest_bits(plane))``.
        exceptions: bool ``[h, w]``.
        raw: uint32 bits of the exceptions.
    """

    plane: Integers
    rest: Integers
    exceptions: npt.NDArray[np.bool_]
    raw: npt.NDArray[np.uint32]


def split_backscatter(band: npt.NDArray[np.float32]) -> Backscatter:
    """Parts of a band; :func:`join_backscatter` is the exact inverse."""
    size = np.abs(band)
    exceptions = ~((size >= _SMALLEST) & (size < _LARGEST))
    fill = np.float32(np.median(band[~exceptions])) if not exceptions.all() else np.float32(1.0)
    if not _SMALLEST <= abs(fill) < _LARGEST:  # the median of an even number of values may be no value of the band
        fill = np.float32(1.0)
    filled = np.where(exceptions, fill, band).astype(np.float32)
    magnitude = np.floor(np.abs(filled).astype(np.float64) * (1 << FIXED_BITS)).astype(np.int64)
    bits = np.abs(filled).view(np.uint32).astype(np.int64)
    rest = bits - _bits_of(magnitude)
    rest[exceptions] = 0
    return Backscatter(np.where(filled < 0, -magnitude, magnitude), rest, exceptions, band.view(np.uint32)[exceptions])


def join_backscatter(
    plane: Integers, rest: Integers, exceptions: npt.NDArray[np.bool_], raw: npt.NDArray[np.uint32]
) -> npt.NDArray[np.float32]:
    """Band from its parts; inverse of :func:`split_backscatter`."""
    bits = (_bits_of(np.abs(plane)) + rest).astype(np.uint32)
    bits |= (plane < 0).astype(np.uint32) << 31
    bits[exceptions] = raw
    return bits.view(np.float32)


def plane_to_decibels(plane: Integers) -> npt.NDArray[np.float32]:
    """Multiples of 2^-16 dB as float32, exactly."""
    return (plane.astype(np.float64) / (1 << FIXED_BITS)).astype(np.float32)


def rest_bits(plane: Integers) -> Integers:
    """Number of plain bits beside each value of a plane."""
    _, exponent = np.frexp(np.abs(plane).astype(np.float64))
    return np.clip(24 - exponent, 0, 13).astype(np.int64)


def _bits_of(magnitude: Integers) -> Integers:
    return plane_to_decibels(magnitude).view(np.uint32).astype(np.int64)


def palette_of(plane: Integers) -> Integers | None:
    """Palette of a plane (ascending values), or None if coding ranks would not save the bytes of the palette."""
    values, counts = np.unique(plane, return_counts=True)
    if len(values) < 2 * _NEIGHBOURS:
        return None
    low = np.maximum(np.arange(len(values)) - _NEIGHBOURS, 0)
    high = np.minimum(np.arange(len(values)) + _NEIGHBOURS, len(values) - 1)
    spacing = (values[high] - values[low]) / (high - low)
    saved = float((counts * np.log2(spacing)).sum())
    return values if saved > 8 * len(pack_palette(values)) else None


def pack_palette(values: Integers) -> bytes:
    """Bytes of a palette: deflated differences, low bytes before high bytes."""
    gaps = np.diff(values, prepend=0).astype("<u2")
    return zlib.compress(gaps.view(np.uint8).reshape(-1, 2).T.tobytes(), 9)


def unpack_palette(data: bytes, limit: int) -> Integers:
    """Palette of at most ``limit`` values; inverse of :func:`pack_palette`.

    Raises:
        DataRefused: The bytes are damaged or hold more.
    """
    raw = inflate(data, 2 * limit)
    if len(raw) % 2 or not raw:
        raise DataRefused(f"damaged stream: a palette of {len(raw)} bytes")
    gaps = np.ascontiguousarray(np.frombuffer(raw, dtype=np.uint8).reshape(2, -1).T).view("<u2").ravel()
    values = np.cumsum(gaps.astype(np.int64))
    if values[-1] >= PLANE_LIMIT:
        raise DataRefused(f"damaged stream: a palette reaches {values[-1]}")
    return values


def inflate(data: bytes, limit: int) -> bytes:
    """Decompressed bytes, at most ``limit``.

    Raises:
        DataRefused: The bytes are damaged, or decompress to more.
    """
    try:
        decoder = zlib.decompressobj()
        out = decoder.decompress(data, limit)
    except zlib.error as error:
        raise DataRefused(f"damaged stream: a deflated part does not decode ({error})") from error
    if not decoder.eof:
        raise DataRefused(f"damaged stream: a deflated part holds more than {limit} bytes")
    return out
