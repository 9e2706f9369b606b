"""How good and how large: PSNR, bits per pixel, and the quality that meets a target."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from eoforge.codec.raster import Raster
from eoforge.data.bands import S1_BANDS
from eoforge.errors import UsageError

if TYPE_CHECKING:
    from eoforge.codec.model import Codec

REFLECTANCE_PEAK = 10_000.0
BACKSCATTER_PEAK = 50.0
"""Peaks of PSNR: reflectance 1.0 is 10,000; backscatter spans some 50 dB."""


def psnr(original: Raster, decoded: Raster, peak: float | None = None) -> float:
    """PSNR in dB over all samples of all bands, each on its native grid.

    Args:
        original: What was compressed.
        decoded: What came back.
        peak: In the unit of the bands; 10,000 for reflectance and 50 for backscatter if None. Bands of both sensors
            are made comparable by their peaks.
    """
    squares, samples = 0.0, 0
    for band, pixels in original.bands.items():
        scale = peak or (BACKSCATTER_PEAK if band in S1_BANDS else REFLECTANCE_PEAK)
        difference = (pixels.astype(np.float64) - decoded.bands[band].astype(np.float64)) / scale
        squares += float(np.square(difference).sum())
        samples += pixels.size
    return math.inf if squares == 0 else -10 * math.log10(squares / samples)


def bits_per_pixel(stream: bytes, raster: Raster) -> float:
    """Bits of the whole stream, header and code included, per pixel of the base grid."""
    return 8 * len(stream) / math.prod(raster.shape)


def pick_quality(codec: Codec, raster: Raster, target_bpp: float | None, target_psnr: float | None) -> float:
    """The best quality within ``target_bpp``, or the least that reaches ``target_psnr``; by bisection over sixteenths.

    Raises:
        UsageError: Even the extreme quality does not meet the target.
    """
    steps = round((codec.config.steps - 1) * 16)
    if target_bpp is not None:
        bpp = target_bpp

        def fits(sixteenths: int) -> bool:
            return bits_per_pixel(codec.compress([raster], sixteenths / 16)[0], raster) <= bpp

        if not fits(0):
            raise UsageError(
                f"target_bpp {bpp} cannot be met: the lowest quality needs "
                f"{bits_per_pixel(codec.compress([raster], 0)[0], raster):.3f} bits per pixel"
            )
        return _last(fits, steps) / 16

    assert target_psnr is not None
    wanted = target_psnr

    def falls_short(sixteenths: int) -> bool:
        decoded = codec.decompress(codec.compress([raster], sixteenths / 16))[0]
        return psnr(raster, decoded) < wanted

    if falls_short(steps):
        best = psnr(raster, codec.decompress(codec.compress([raster], steps / 16))[0])
        raise UsageError(
            f"target_psnr {wanted} dB cannot be met: the highest quality reaches {best:.2f} dB. "
            "max_error has no such ceiling"
        )
    return (_last(falls_short, steps) + 1) / 16 if falls_short(0) else 0.0


def _last(holds: Callable[[int], bool], steps: int) -> int:
    """The last of 0..steps for which a condition holds that holds at 0 and, once broken, stays broken."""
    low, high = 0, steps + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle <= steps and holds(middle) else (low, middle)
    return low
