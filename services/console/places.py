"""Patches by place, from the retrieval service: a search for an arbitrary code whose filter is a box."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from eoforge.client import Hit, IndexInfo, RetrievalClient
from eoforge.data.search_filter import BoundingBox, SearchFilter

MOST = 1000
"""Patches that one question finds at most: the service's own limit."""
POINT_DEGREES = 1e-6


def patches_in(
    client: RetrievalClient, index: IndexInfo, sensor: str, box: BoundingBox, condition: SearchFilter, most: int = MOST
) -> list[Hit]:
    """Patches whose footprint touches a box, by name.

    Args:
        client: Of the caller.
        index: The served index.
        sensor: Sensor that the patches have.
        box: Longitudes and latitudes.
        condition: What else must hold; its own box is replaced.
        most: Number of patches at most; beyond it, which ones is arbitrary.
    """
    code = bytes(index.bits // 8)  # any code does: the filter decides, and distances are not shown
    found = client.search(code=code, target=sensor, k=min(most, MOST), filter=replace(condition, bbox=box))
    return sorted(found, key=lambda hit: hit.patch_id)


def patch_at(client: RetrievalClient, index: IndexInfo, sensor: str, lon: float, lat: float) -> Hit | None:
    """Patch whose footprint's centre is nearest to a point in it; None if no patch is there."""
    e = POINT_DEGREES
    box = (max(lon - e, -180), max(lat - e, -90), min(lon + e, 180), min(lat + e, 90))
    found = patches_in(client, index, sensor, box, SearchFilter())
    return min(found, key=lambda hit: apart(hit.footprint, lon, lat), default=None)


def nearest_places(hits: Iterable[Hit], patch_id: str, box: BoundingBox) -> list[Hit]:
    """Other patches, the nearest first."""
    lon, lat = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return sorted((h for h in hits if h.patch_id != patch_id), key=lambda h: (apart(h.footprint, lon, lat), h.patch_id))


def nearest_times(hits: Iterable[Hit], patch_id: str, moment: datetime) -> list[Hit]:
    """Other patches, those of the nearest time first."""
    others = [(h.acquired, h) for h in hits if h.patch_id != patch_id and h.acquired is not None]
    others.sort(key=lambda pair: (abs((pair[0] - moment).total_seconds()), pair[1].patch_id))
    return [hit for _, hit in others]


def around(box: BoundingBox, degrees: float) -> BoundingBox:
    """Box that reaches ``degrees`` further on each side, within the globe."""
    west, south, east, north = box
    return max(west - degrees, -180), max(south - degrees, -90), min(east + degrees, 180), min(north + degrees, 90)


def apart(box: BoundingBox | None, lon: float, lat: float) -> float:
    """Squared distance of a box's centre to a point, in degrees of latitude; longitudes count half, as in Europe.

    A footprint that its owner withholds is infinitely far away.
    """
    if box is None:
        return float("inf")
    return ((box[0] + box[2]) / 4 - lon / 2) ** 2 + ((box[1] + box[3]) / 2 - lat) ** 2
