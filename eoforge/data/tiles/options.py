"""Options of a construction: what beside the optical product makes a patch."""

from __future__ import annotations

from dataclasses import dataclass

from eoforge.errors import UsageError
from eoforge.storage.addresses import normalise

RADAR_SCALES = ("db", "linear")
RADAR_DAYS = 7
"""Largest time between the optical and the radar acquisition; the largest one of reBEN is 6 days."""
_MAX_OFFSET = 10_000


@dataclass(frozen=True)
class TileOptions:
    """Options of a construction.

    Attributes:
        boa_offset: Offset in the stored reflectances, as the product's ``BOA_ADD_OFFSET`` (-1000 or 0); None reads it
            from each product.
        radar: Folder of terrain-corrected Sentinel-1 scenes; None builds patches without radar.
        radar_scale: ``db`` or ``linear`` (power): what the scenes hold.
        radar_days: Largest time between optical and radar acquisition in days.
        land_cover: GeoPackage or raster of CLC level-3 codes; None builds unlabelled patches.
        country: Country of all patches; None if it is not known.
    """

    boa_offset: int | None = None
    radar: str | None = None
    radar_scale: str | None = None
    radar_days: int = RADAR_DAYS
    land_cover: str | None = None
    country: str | None = None

    def checked(self) -> TileOptions:
        """Options with normalised addresses, after a check.

        Raises:
            UsageError: A value is unknown or out of range, or options contradict each other.
        """
        if self.boa_offset is not None and not -_MAX_OFFSET <= self.boa_offset <= 0:
            raise UsageError(f"the offset is 0 or negative, as in the product (-1000); got {self.boa_offset}")
        if (self.radar is None) != (self.radar_scale is None):
            raise UsageError(f"radar and its scale ({' or '.join(RADAR_SCALES)}) are given together")
        if self.radar_scale is not None and self.radar_scale not in RADAR_SCALES:
            raise UsageError(f"the scale of radar must be {' or '.join(RADAR_SCALES)}; got {self.radar_scale!r}")
        if self.radar_days < 0:
            raise UsageError(f"radar_days must not be negative; got {self.radar_days}")
        if self.country is not None and not 0 < len(self.country) <= 80:
            raise UsageError("the name of a country has 1 to 80 characters")
        return TileOptions(
            self.boa_offset,
            None if self.radar is None else normalise(self.radar),
            self.radar_scale,
            self.radar_days,
            None if self.land_cover is None else normalise(self.land_cover),
            self.country,
        )


def options_of(
    boa_offset: str, radar: str, radar_scale: str, radar_days: int, land_cover: str, country: str
) -> TileOptions:
    """Options from texts, as pipelines give them; an empty text stands for None.

    Raises:
        UsageError: ``boa_offset`` is no whole number.
    """
    if boa_offset and not boa_offset.removeprefix("-").isdecimal():
        raise UsageError(f"boa_offset must be a whole number such as -1000, or empty; got {boa_offset[:40]!r}")
    offset = int(boa_offset) if boa_offset else None
    return TileOptions(offset, radar or None, radar_scale or None, radar_days, land_cover or None, country or None)
