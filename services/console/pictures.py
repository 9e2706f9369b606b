"""Pictures of patches as PNG, from the retrieval service's pixels; bands, composites, radar and reference map."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from eoforge.client import Patch, RetrievalClient
from eoforge.data.bands import GROUP_OF, S1_BANDS, S2_10M, S2_BANDS
from eoforge.data.labels import CLASSES, IGNORE_INDEX, clc_to_classes
from eoforge.data.loading.plot import composite, grey, map_colours, rgb, s1_composite, thumbnail_png
from eoforge.errors import DataRefused, NotFound
from services.console.session import Caller

KEPT_SECONDS = 300.0
PIXELS_KEPT, THUMBNAILS_KEPT = 48, 512
"""Patches in memory: 0.3 MB each with pixels, some 60 kB each as two thumbnails."""
MAX_THUMBNAIL_BYTES = 1 << 17
"""Of 120 x 120 pixels; other owners' services send what they like."""
_PNG = b"\x89PNG\r\n\x1a\n"
Held = TypeVar("Held")
Bands = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class View:
    """Composite of a patch.

    Attributes:
        title: Title.
        words: Which bands are which colour, and what shows in which.
        bands: Bands that it needs.
        draw: Function from the bands to an image.
    """

    title: str
    words: str
    bands: tuple[str, ...]
    draw: Callable[[Bands], npt.NDArray[np.uint8]]


VIEWS: dict[str, View] = {
    "true": View(
        "True colour",
        "Red B04, green B03, blue B02, stretched to the patch.",
        S2_10M.bands,
        lambda b: rgb(np.stack([b[name] for name in S2_10M.bands])),
    ),
    "infrared": View(
        "Infrared",
        "Red B08, green B04, blue B03: plants are red, water is black.",
        ("B08", "B04", "B03"),
        lambda b: composite(b["B08"], b["B04"], b["B03"]),
    ),
    "shortwave": View(
        "Short-wave infrared",
        "Red B12, green B8A, blue B05 (20 m): dry ground and burnt areas are red, plants green.",
        ("B12", "B8A", "B05"),
        lambda b: composite(b["B12"], b["B8A"], b["B05"]),
    ),
    "radar": View(
        "Radar",
        "Red VV, green VH, blue VV minus VH, each over its usual range in dB.",
        S1_BANDS,
        lambda b: s1_composite(np.stack([b[name] for name in S1_BANDS])),
    ),
}


class Pictures:
    """Patches that were read for their pictures, kept for some minutes and for their caller alone; thread-safe.

    A page of one patch asks for some twenty pictures; they come from one call of the service.
    """

    def __init__(self) -> None:
        self._pixels: _Kept[Patch] = _Kept(PIXELS_KEPT)
        self._thumbnails: _Kept[dict[str, bytes]] = _Kept(THUMBNAILS_KEPT)

    def patch(self, client: RetrievalClient, caller: Caller, patch_id: str) -> Patch:
        """Patch with pixels and reference map."""
        return self._pixels.get(caller, patch_id, lambda: client.get_patch(patch_id, pixels=True, reference_map=True))

    def thumbnail(self, client: RetrievalClient, caller: Caller, patch_id: str, sensor: str, owner: str = "") -> bytes:
        """PNG of a sensor's image, as the service draws it; ``owner`` is empty for our own archive.

        Raises:
            NotFound: The patch has no image of this sensor.
            DataRefused: Another owner sent something else than a small picture.
        """
        png = self._thumbnails.get(caller, f"{owner}\0{patch_id}", lambda: _small(client, patch_id))[sensor]
        if not png:
            raise NotFound("the patch has no image of this sensor")
        return png


def _small(client: RetrievalClient, patch_id: str) -> dict[str, bytes]:
    """Thumbnails of a patch by sensor, and nothing else of what a service may send with them."""
    patch = client.get_patch(patch_id, thumbnails=True)
    found = {"s1": patch.s1_thumbnail_png, "s2": patch.s2_thumbnail_png}
    if any(png and not (len(png) <= MAX_THUMBNAIL_BYTES and png.startswith(_PNG)) for png in found.values()):
        raise DataRefused(
            f"expected a thumbnail as PNG of at most {MAX_THUMBNAIL_BYTES} bytes; the service sent another"
        )
    return found


class _Kept(Generic[Held]):
    """Pictures by caller and name; an entry is dropped after some minutes, or when there are too many."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._entries: OrderedDict[tuple[str, str], tuple[float, Held]] = OrderedDict()

    def get(self, caller: Caller, patch_id: str, read: Callable[[], Held]) -> Held:
        """Pictures of a patch, read by ``read`` unless it is here."""
        key = (hashlib.sha256((caller.token or "").encode()).hexdigest(), patch_id)
        with self._lock:
            found = self._entries.get(key)
            if found is not None and time.monotonic() - found[0] < KEPT_SECONDS:
                self._entries.move_to_end(key)
                return found[1]
        made = read()
        with self._lock:
            self._entries[key] = (time.monotonic(), made)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)
        return made


def views_of(patch: Patch) -> dict[str, View]:
    """Composites for which a patch has the bands."""
    return {key: view for key, view in VIEWS.items() if set(view.bands) <= patch.bands.keys()}


def bands_of(patch: Patch) -> list[tuple[str, int]]:
    """Bands of a patch with their metres per pixel, radar first, then by wavelength."""
    return [(band, GROUP_OF[band].resolution) for band in (*S1_BANDS, *S2_BANDS) if band in patch.bands]


def picture(patch: Patch, name: str) -> bytes:
    """PNG of a composite, a band, or the reference map (``map``), at its native size.

    Raises:
        NotFound: The patch has no such picture.
    """
    views = views_of(patch)
    if name in views:
        image = views[name].draw(patch.bands)
    elif name in patch.bands:
        image = grey(patch.bands[name])
    elif name == "map" and patch.reference_map is not None:
        image = map_colours(patch.reference_map)
    else:
        raise NotFound(f"the patch has no picture {name[:20]!r}")
    return thumbnail_png(image, image.shape[0])


def legend(patch: Patch) -> list[tuple[str, str, float]]:
    """Colour (``#rrggbb``), name and share of the pixels of each class on the reference map, the largest first."""
    if patch.reference_map is None:
        return []
    classes = clc_to_classes(patch.reference_map)
    present, counts = np.unique(classes, return_counts=True)
    colours = map_colours(present[None])[0]
    rows = [
        ("#" + bytes(colour.tolist()).hex(), "no class" if i == IGNORE_INDEX else CLASSES[i], float(n / classes.size))
        for i, n, colour in zip(present.tolist(), counts, colours, strict=True)
    ]
    return sorted(rows, key=lambda row: -row[2])
