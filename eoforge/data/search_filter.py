"""Filter of a search, shared by the client, the service and the index."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from eoforge.data.labels import CLASSES, INDEX
from eoforge.data.split import SPLITS
from eoforge.errors import UsageError, did_you_mean

BoundingBox = tuple[float, float, float, float]
"""lon_min, lat_min, lon_max, lat_max in degrees (WGS 84); lon_min > lon_max crosses the 180th meridian."""

COUNTRIES: tuple[str, ...] = (
    "Austria",
    "Belgium",
    "Finland",
    "Ireland",
    "Kosovo",
    "Lithuania",
    "Luxembourg",
    "Portugal",
    "Serbia",
    "Switzerland",
)
"""Countries of reBEN; an archive of one's own may have others."""


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Conditions on the patches of a search; all must hold, an empty field does not restrict.

    Attributes:
        countries: Any of these countries. The index refuses one that is neither in it nor in ``COUNTRIES``.
        splits: Any of ``train``, ``validation``, ``test``.
        labels_any: At least one of these classes.
        labels_all: All of these classes.
        bbox: The footprint touches this box.
        acquired_from: Sentinel-2 acquisition at this time or later, with time zone.
        acquired_until: Sentinel-2 acquisition before this time, with time zone.
        exclude_snow: No seasonal snow.
        exclude_cloud: No cloud or cloud shadow.
    """

    countries: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    labels_any: tuple[str, ...] = ()
    labels_all: tuple[str, ...] = ()
    bbox: BoundingBox | None = None
    acquired_from: datetime | None = None
    acquired_until: datetime | None = None
    exclude_snow: bool = False
    exclude_cloud: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in (*self.labels_any, *self.labels_all) if name not in INDEX]
        if unknown:
            raise UsageError(f"unknown label {unknown[0][:80]!r}{did_you_mean(unknown[0], CLASSES)}")
        # Without this check, a mistyped split ("val") would give an empty result.
        unknown = [name for name in self.splits if name not in SPLITS]
        if unknown:
            raise UsageError(f"unknown split {unknown[0][:80]!r}{did_you_mean(unknown[0], SPLITS)}")
        if self.bbox is not None:
            west, south, east, north = self.bbox
            if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
                raise UsageError(f"expected lon_min, lat_min, lon_max, lat_max in degrees; got {self.bbox}")
        for time in (self.acquired_from, self.acquired_until):
            if time is not None and time.tzinfo is None:
                raise UsageError(f"filter times need a time zone (UTC: append Z); got {time.isoformat()}")
