"""Plausible backscatter: Sentinel-1 in dB, told from linear power, amplitudes and damaged numbers."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from eoforge.errors import DataRefused

DECIBELS = (-100.0, 50.0)
"""Least and greatest backscatter in dB that is believed. Land and water have -40 to 15, noise and its removal lie
below, ships and roofs up to some 30."""


def require_decibels(pixels: npt.NDArray[Any], what: str) -> None:
    """Check of bands ``[..., H, W]`` without missing pixels; values are not quoted.

    Raises:
        DataRefused: A value is out of the plausible range, or a band has no negative one: linear backscatter.
    """
    low, high = DECIBELS
    if pixels.size == 0:
        return
    if not (pixels.min() >= low and pixels.max() <= high):
        raise DataRefused(f"{what} holds values beyond any backscatter; expected dB, {low:g} to {high:g}")
    if (pixels.min(axis=(-2, -1)) >= 0).any():
        raise DataRefused(
            f"{what} has a band without a negative value: linear backscatter; expected dB, 10 * log10 of it"
        )
