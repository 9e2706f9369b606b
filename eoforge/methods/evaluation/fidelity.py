"""Fidelity of decoded patches: PSNR, MS-SSIM and spectral angle, per band and overall.

All measures are taken on the native grids and in stored units (reflectance x 10,000; dB). "Overall" pools squared
errors over all samples of a sensor before the logarithm, so a 10 m band counts with as many samples as it has. PSNR
depends on its peak (10,000 and 65,535 differ by 16.3 dB), so every key names it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from eoforge.codec.learned.rate import BACKSCATTER_PEAK, REFLECTANCE_PEAK
from eoforge.data.bands import GROUPS, S1_10M, BandGroup

PEAKS: dict[str, tuple[float, ...]] = {"s2": (REFLECTANCE_PEAK, 65_535.0), "s1": (BACKSCATTER_PEAK,)}
"""Sensor -> peaks of PSNR: reflectance 1.0 and the largest stored value; the span of backscatter in dB (*ours*)."""
_SSIM_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of Wang et al. 2003, finest scale first
_SSIM_WINDOW = 11
_EXACT = 1e-12

Rasters = Mapping[str, npt.NDArray[np.generic]]
"""Column of ``patches.lance`` -> ``[B, C, H, W]``."""


def groups_of(rasters: Rasters) -> list[BandGroup]:
    """The band groups of ``rasters``, in table order."""
    return [group for group in GROUPS if group.column in rasters]


def psnr(squared_error: float, samples: int, peak: float) -> float:
    """``10 log10(peak^2 / mean squared error)`` in dB; an exact copy counts as an error of 1e-12 per sample."""
    return float(10 * np.log10(peak**2 / max(squared_error / samples, _EXACT)))


class Fidelity:
    """Accumulated fidelity of batches of patches of one sensor."""

    def __init__(self, modality: str) -> None:
        self.peaks = PEAKS[modality]
        self.patches = 0
        self._error: dict[str, float] = {}
        self._samples: dict[str, int] = {}
        self._ssim: dict[str, float] = {}
        self._angle = 0.0

    def add(self, original: Rasters, decoded: Rasters) -> None:
        """Adds a batch; both have the same columns and shapes."""
        groups = groups_of(original)
        for group in groups:
            x, y = (np.asarray(r[group.column], dtype=np.float64) for r in (original, decoded))
            similarity = ms_ssim(x, y, self.peaks[0])
            for i, band in enumerate(group.bands):
                self._error[band] = self._error.get(band, 0.0) + float(np.square(x[:, i] - y[:, i]).sum())
                self._samples[band] = self._samples.get(band, 0) + x[:, i].size
                self._ssim[band] = self._ssim.get(band, 0.0) + float(similarity[:, i].sum())
        if groups != [S1_10M]:  # an angle between decibels has no meaning
            self._angle += spectral_angle(original, decoded)
        self.patches += len(original[groups[0].column])

    @property
    def samples(self) -> int:
        """Stored samples over all bands and patches."""
        return sum(self._samples.values())

    def summary(self) -> dict[str, float]:
        """Measures by name: ``psnr_10000``, ``psnr_10000_B02``, ``ms_ssim``, ``spectral_angle_degrees``, ``rmse``."""
        error, samples = sum(self._error.values()), self.samples
        out = {f"psnr_{peak:.0f}": psnr(error, samples, peak) for peak in self.peaks}
        out["rmse"] = float(np.sqrt(error / samples))
        out["ms_ssim"] = sum(self._ssim.values()) / (len(self._ssim) * self.patches)
        if self._angle:
            out["spectral_angle_degrees"] = self._angle / self.patches
        for band in self._error:
            out |= {f"psnr_{p:.0f}_{band}": psnr(self._error[band], self._samples[band], p) for p in self.peaks}
            out[f"ms_ssim_{band}"] = self._ssim[band] / self.patches
        return out


def ms_ssim(x_BCHW: npt.NDArray[np.float64], y_BCHW: npt.NDArray[np.float64], peak: float) -> npt.NDArray[np.float64]:
    """MS-SSIM ``[B, C]`` over as many of the five scales as the image size allows, their weights renormalised.

    120 pixels hold four scales, 60 three, 20 one. Window: Gaussian, 11 pixels, deviation 1.5; only positions where
    it lies inside the image count. Means of torchmetrics are equal except at the border (its two-dimensional windows
    take seconds per patch).

    Args:
        x_BCHW: Originals.
        y_BCHW: Decoded.
        peak: The dynamic range.
    """
    side = x_BCHW.shape[-1]
    scales = max(n for n in range(1, len(_SSIM_SCALES) + 1) if side >> (n - 1) >= _SSIM_WINDOW)
    weights = np.asarray(_SSIM_SCALES[:scales]) / sum(_SSIM_SCALES[:scales])
    out = np.ones(x_BCHW.shape[:2])
    offset = min(0.0, float(x_BCHW.min()))  # the formula needs means that are not negative; decibels are
    x, y = x_BCHW - offset, y_BCHW - offset
    for scale, weight in enumerate(weights):
        luminance, contrast = _ssim_terms(x, y, peak)
        last = scale == scales - 1
        value = (luminance * contrast if last else contrast).mean(axis=(2, 3))
        out *= np.maximum(value, 0) ** weight
        if not last:
            x, y = _halved(x), _halved(y)
    return out


def _ssim_terms(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], peak: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]  # scipy ships no types

    def windowed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        edge = _SSIM_WINDOW // 2
        smooth = gaussian_filter(values, sigma=(0, 0, 1.5, 1.5), radius=(0, 0, edge, edge))
        return smooth[:, :, edge:-edge, edge:-edge]

    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_x, mean_y = windowed(x), windowed(y)
    variance_x, variance_y = windowed(x * x) - mean_x**2, windowed(y * y) - mean_y**2
    covariance = windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (variance_x + variance_y + c2)


def _halved(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    even = values[:, :, : values.shape[2] // 2 * 2, : values.shape[3] // 2 * 2]
    return (even[:, :, ::2, ::2] + even[:, :, 1::2, ::2] + even[:, :, ::2, 1::2] + even[:, :, 1::2, 1::2]) / 4


def spectral_angle(original: Rasters, decoded: Rasters) -> float:
    """Sum over patches of the mean angle, in degrees, between original and decoded spectra on the finest grid."""
    x, y = (_stacked(r) for r in (original, decoded))
    dot = (x * y).sum(axis=1)
    length = np.sqrt(np.square(x).sum(axis=1) * np.square(y).sum(axis=1))
    cosine = np.divide(dot, length, out=np.ones_like(dot), where=length > 0)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean(axis=(1, 2)).sum())


def _stacked(rasters: Rasters) -> npt.NDArray[np.float64]:
    groups = groups_of(rasters)
    side = max(group.size for group in groups)
    grown = []
    for group in groups:
        values = np.asarray(rasters[group.column], dtype=np.float64)
        grown.append(values.repeat(side // group.size, axis=2).repeat(side // group.size, axis=3))
    return np.concatenate(grown, axis=1)
