"""Reference codecs, each band coded separately as in GDAL drivers, and their settings for a given PSNR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np

from eoforge.codec.learned.rate import psnr
from eoforge.codec.raster import Raster

Coded = dict[str, bytes]
_STEPS = 12


@dataclass(frozen=True)
class Peer:
    """A codec of single bands.

    Attributes:
        encode: Band ``[h, w]`` and setting to bytes.
        decode: Bytes to pixels.
        low: Setting of the least quality that is looked at.
        high: Setting of the best.
    """

    encode: Callable[[Any, float], bytes]
    decode: Callable[[bytes], Any]
    low: float
    high: float

    def compress(self, raster: Raster, setting: float) -> Coded:
        """Every band."""
        return {band: self.encode(pixels, setting) for band, pixels in raster.bands.items()}

    def decompress(self, coded: Coded, shape: tuple[int, int]) -> Raster:
        """Every band back."""
        return Raster({band: self.decode(data).astype(np.uint16) for band, data in coded.items()}, shape)

    def setting_for(self, rasters: list[Raster], wanted: float) -> float:
        """The setting whose mean PSNR is nearest to ``wanted`` dB, by bisection."""
        low, high = self.low, self.high
        for _ in range(_STEPS):
            middle = (low + high) / 2
            reached = [psnr(r, self.decompress(self.compress(r, middle), r.shape)) for r in rasters]
            low, high = (middle, high) if np.mean(reached) < wanted else (low, middle)
        return (low + high) / 2


PEERS: dict[str, Peer] = {
    "jpeg2000": Peer(
        lambda pixels, level: imagecodecs.jpeg2k_encode(pixels, level=level, codecformat="j2k", numthreads=1),  # type: ignore[arg-type]
        imagecodecs.jpeg2k_decode,
        30.0,
        100.0,
    ),
    "jpegxl": Peer(
        lambda pixels, quality: imagecodecs.jpegxl_encode(pixels, distance=25.0 / 2.0**quality, numthreads=1),  # type: ignore[arg-type]
        lambda data: np.squeeze(imagecodecs.jpegxl_decode(data, numthreads=1)),
        0.0,
        11.0,
    ),
}


def _jpegxl(pixels: Any, effort: int) -> int:
    return len(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=effort, numthreads=1))


def _stacked(raster: Raster, effort: int) -> int:
    """Bands of one grid as the channels of one image, which lets JPEG-XL take the others out of the first three."""
    grids: dict[tuple[int, ...], list[Any]] = {}
    for pixels in raster.bands.values():
        grids.setdefault(pixels.shape, []).append(pixels)
    total = 0
    for images in grids.values():
        for start in range(0, len(images), 4):
            part = images[start : start + 4]
            # Two channels are gray and alpha to JPEG-XL, which costs more than two images.
            if len(part) < 3:
                total += sum(_jpegxl(pixels, effort) for pixels in part)
            else:
                total += _jpegxl(np.ascontiguousarray(np.stack(part, axis=-1)), effort)
    return total


def _each(size: Callable[[Any], int]) -> Callable[[Raster], int]:
    return lambda raster: sum(size(pixels) for pixels in raster.bands.values())


LOSSLESS: dict[str, Callable[[Raster], int]] = {
    "jpegxl_effort_7": _each(lambda pixels: _jpegxl(pixels, 7)),
    "jpegxl_effort_9": _each(lambda pixels: _jpegxl(pixels, 9)),
    "jpegxl_effort_7_stacked": lambda raster: _stacked(raster, 7),
    "jpeg2000": _each(lambda p: len(imagecodecs.jpeg2k_encode(p, codecformat="j2k", reversible=True, level=0))),
    "zstd_19": _each(lambda pixels: len(imagecodecs.zstd_encode(pixels.tobytes(), level=19))),
    "zstd_19_shuffled_differences": _each(
        lambda p: len(imagecodecs.zstd_encode(bytes(imagecodecs.byteshuffle_encode(p, delta=True)), level=19))
    ),
}
"""Lossless bytes of a raster; JPEG2000 supports integers only."""
