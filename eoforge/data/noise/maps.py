"""Label noise of pixel maps, consistent with that of the scene labels.

Shape legend: H x W pixels, L classes. A map holds class indices, and ``IGNORE_INDEX`` where there is no class. The
classes of a noisy map are exactly the noisy scene labels of its patch if that held for the clean ones.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eoforge.data.labels import IGNORE_INDEX
from eoforge.data.noise.scene import Bools
from eoforge.errors import UsageError

Map = npt.NDArray[np.uint8]


def relabelled(map_HW: Map, clean_L: Bools, noisy_L: Bools) -> Map:
    """The map whose classes changed as the scene labels of its patch did (*ours*; *confirmed* for a class change).

    Removed and added classes are paired in ascending order: all pixels of the removed class take the added one. A
    removed class without a partner gives its pixels to the largest class that stays. An added class without a partner
    takes one half, in the order of rows, of the pixels of the largest class, so that no other class vanishes.
    """
    noisy = map_HW.copy()
    present = np.bincount(map_HW[map_HW != IGNORE_INDEX], minlength=len(clean_L)) > 0
    removed = np.flatnonzero(clean_L & ~noisy_L & present)
    added = np.flatnonzero(noisy_L & ~clean_L)
    pairs = min(len(removed), len(added))
    for old, new in zip(removed[:pairs], added[:pairs], strict=True):
        noisy[map_HW == old] = new
    for old in removed[pairs:]:
        noisy[map_HW == old] = _largest(noisy, without=set(removed.tolist()))
    for new in added[pairs:]:
        largest = _largest(noisy, without=set())
        places = np.flatnonzero(noisy == largest)
        if largest != IGNORE_INDEX and len(places) > 1:
            noisy.flat[places[: len(places) // 2]] = new
    return noisy


def _largest(map_HW: Map, without: set[int]) -> int:
    sizes = np.bincount(map_HW.ravel(), minlength=IGNORE_INDEX + 1)
    sizes[[IGNORE_INDEX, *without]] = 0
    return int(sizes.argmax()) if sizes.any() else IGNORE_INDEX


def shifted(map_HW: Map, rows: int, columns: int) -> Map:
    """The map moved by a geolocation error of some pixels; the border repeats the nearest pixel.

    Args:
        map_HW: Classes.
        rows: Shift down, in pixels; negative for up.
        columns: Shift to the right, in pixels; negative for left.

    Raises:
        UsageError: The shift is as large as the map.
    """
    height, width = map_HW.shape
    if abs(rows) >= height or abs(columns) >= width:
        raise UsageError(f"a shift must be smaller than the map, {height} x {width} pixels; got {rows}, {columns}")
    source_rows = np.clip(np.arange(height) - rows, 0, height - 1)
    source_columns = np.clip(np.arange(width) - columns, 0, width - 1)
    return map_HW[np.ix_(source_rows, source_columns)]
