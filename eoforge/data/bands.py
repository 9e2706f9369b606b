"""Bands of Sentinel-1 and Sentinel-2 as reBEN stores them, on their native grids.

Two band orders circulate for BigEarthNet models (facts: v0.1.1 puts S2 first with B8A last, v0.2.0 puts S1 first).
The order is therefore explicit: every function that stacks channels takes the band names, every bundle records them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from eoforge.errors import UsageError


@dataclass(frozen=True)
class BandGroup:
    """Group of bands on one grid, stored in one tensor column of ``patches.lance``.

    Attributes:
        column: Name of the column.
        bands: Band names in channel order.
        size: Side in pixels.
        resolution: Metres per pixel.
        dtype: NumPy dtype name.
    """

    column: str
    bands: tuple[str, ...]
    size: int
    resolution: int
    dtype: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return (len(self.bands), self.size, self.size)


S2_10M = BandGroup("s2_10m", ("B02", "B03", "B04", "B08"), 120, 10, "uint16")
S2_20M = BandGroup("s2_20m", ("B05", "B06", "B07", "B8A", "B11", "B12"), 60, 20, "uint16")
S2_60M = BandGroup("s2_60m", ("B01", "B09"), 20, 60, "uint16")
S1_10M = BandGroup("s1", ("VV", "VH"), 120, 10, "float32")

GROUPS: tuple[BandGroup, ...] = (S2_10M, S2_20M, S2_60M, S1_10M)
GROUP_OF: dict[str, BandGroup] = {band: group for group in GROUPS for band in group.bands}

S1_BANDS: tuple[str, ...] = S1_10M.bands
S2_BANDS: tuple[str, ...] = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
"""All twelve optical bands in spectral order."""
S2_BANDS_10: tuple[str, ...] = tuple(b for b in S2_BANDS if b not in S2_60M.bands)
"""The ten bands at 10 and 20 m, in spectral order (what most BigEarthNet models read)."""

MODALITIES: dict[str, tuple[str, ...]] = {"s1": S1_BANDS, "s2": S2_BANDS}
"""Bands of each of the two sensors."""


_SPELT = re.compile(r"(?:BAND[ _-]?|B)0?([1-9]|1[0-2]|8A)|(VV|VH)", re.IGNORECASE)


def canonical_band(text: str) -> str | None:
    """Band of a name as people and products spell it (``B2``, ``b02``, ``Band 2``, ``vv``); None if it is none.

    ``B10`` of Level-1C products is a band, but none of :data:`S2_BANDS`.
    """
    found = _SPELT.fullmatch(text.strip())
    if found is None:
        return None
    number, radar = found.groups()
    if radar:
        return str(radar).upper()
    return f"B{number.upper():0>2}"


def band_in_name(stem: str) -> str | None:
    """Band in the name of a file without its suffix, such as ``T33UUP_20170613_B02_10m``; None if it names none."""
    return next(filter(None, map(canonical_band, reversed(re.split(r"[_.\s-]+", stem)))), None)


def require_modality(name: str) -> str:
    """Name of a modality after a check: ``s1`` or ``s2``.

    Raises:
        UsageError: ``name`` is another text.
    """
    if name not in MODALITIES:
        raise UsageError(f"modality must be one of {', '.join(MODALITIES)}; got {name!r}")
    return name


def require_bands(bands: tuple[str, ...], modality: str) -> tuple[str, ...]:
    """Band names after a check: distinct bands of ``modality``.

    Raises:
        UsageError: A band is unknown, of the other sensor, or given twice.
    """
    known = MODALITIES[require_modality(modality)]
    wrong = [b for b in bands if b not in known]
    if wrong or len(set(bands)) != len(bands) or not bands:
        raise UsageError(
            f"bands of {modality} must be distinct names out of {', '.join(known)}; got {', '.join(bands) or 'none'}"
        )
    return bands
