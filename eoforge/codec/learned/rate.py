"""Rate and distortion: bits per pixel, PSNR, and the search for the quality that meets a target."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

import numpy as np

from eoforge.codec.container import LIMITS
from eoforge.codec.learned import streams
from eoforge.codec.learned.config import QUALITY_FRACTIONS
from eoforge.codec.learned.network import CodecNetwork
from eoforge.codec.raster import Raster, factor_of
from eoforge.codec.slices import FileSlice, Stream
from eoforge.codec.tiles import Pixels, Source
from eoforge.codec.validity import invalid_of
from eoforge.data.bands import S1_BANDS
from eoforge.errors import UsageError

REFLECTANCE_PEAK = 10_000.0
BACKSCATTER_PEAK = 50.0
"""Peaks of PSNR: reflectance 1.0 is 10,000; backscatter spans about 50 dB."""
_IN_MEMORY = 1 << 24
"""Size in bytes from which a trial stream is kept in a temporary file instead of memory."""


def psnr(original: Raster, decoded: Raster, peak: float | None = None) -> float:
    """PSNR in dB over all valid samples of all bands, each on its native grid.

    Args:
        original: Raster before compression.
        decoded: Raster after decompression.
        peak: Peak in the unit of the bands; None for 10,000 (reflectance) and 50 (backscatter), which also makes bands
            of both sensors comparable.
    """
    return _decibels(*_squares(original, decoded.bands, peak))


def _squares(original: Raster, decoded: Pixels, peak: float | None = None) -> tuple[float, int]:
    """Sum of squared differences over squared peaks, and the number of samples."""
    squares, samples = 0.0, 0
    for band, pixels in original.bands.items():
        scale = peak or (BACKSCATTER_PEAK if band in S1_BANDS else REFLECTANCE_PEAK)
        seen = ~invalid_of(original, band)
        difference = (pixels[seen].astype(np.float64) - decoded[band][seen].astype(np.float64)) / scale
        squares += float(np.square(difference).sum())
        samples += difference.size
    return squares, samples


def _decibels(squares: float, samples: int) -> float:
    return math.inf if squares == 0 else -10 * math.log10(squares / samples)


def bits_per_pixel(stream: Stream, shape: tuple[int, int]) -> float:
    """Bits of a stream, header and code included, per pixel of the base grid."""
    return 8 * len(stream) / math.prod(shape)


def pick_quality(codec: CodecNetwork, source: Source, target_bpp: float | None, target_psnr: float | None) -> float:
    """Highest quality within ``target_bpp``, or lowest quality that reaches ``target_psnr``; bisection over sixteenths.

    Each trial codes the whole source, tile by tile: a large raster takes about eight times as long as with a given
    quality, and no more memory.

    Raises:
        UsageError: Even the extreme quality does not meet the target.
    """
    steps = round((codec.config.steps - 1) * QUALITY_FRACTIONS)

    @cache
    def reached(sixteenths: int) -> float:
        """Bits per pixel or PSNR at a quality, depending on the target."""
        with SpooledTemporaryFile(max_size=_IN_MEMORY) as spooled:
            file = cast("BinaryIO", spooled)
            streams.write(codec, source, sixteenths / QUALITY_FRACTIONS, file)
            stream = FileSlice(file)
            return bits_per_pixel(stream, source.shape) if target_bpp is not None else _psnr_of(codec, source, stream)

    if target_bpp is not None:
        if reached(0) > target_bpp:
            raise UsageError(
                f"target_bpp {target_bpp} cannot be met: the lowest quality needs {reached(0):.3f} bits per pixel"
            )
        return _largest(lambda q: reached(q) <= target_bpp, steps) / QUALITY_FRACTIONS
    wanted = math.inf if target_psnr is None else target_psnr
    if reached(steps) < wanted:
        raise UsageError(
            f"target_psnr {wanted} dB cannot be met: the highest quality reaches {reached(steps):.2f} dB. "
            "max_error has no such ceiling"
        )
    return (_largest(lambda q: reached(q) < wanted, steps) + 1) / QUALITY_FRACTIONS if reached(0) < wanted else 0.0


def _psnr_of(codec: CodecNetwork, source: Source, stream: Stream) -> float:
    squares, samples = 0.0, 0
    for block in streams.decompress_blocks(codec, stream, LIMITS):
        height, width = (max(p.shape[i] * factor_of(b) for b, p in block.pixels.items()) for i in (0, 1))
        found = _squares(source.window(block.row, block.column, height, width), block.pixels)
        squares, samples = squares + found[0], samples + found[1]
    return _decibels(squares, samples)


def _largest(condition: Callable[[int], bool], steps: int) -> int:
    """Largest value in 0..steps for which a condition holds; the condition is monotonic and holds at 0."""
    low, high = 0, steps + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle <= steps and condition(middle) else (low, middle)
    return low
