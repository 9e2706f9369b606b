"""Official split: three concentric regions per tile, with half, a quarter and a quarter of its area.

The outer frame is for training, the next one for validation, the centre for test. Neighbouring tiles overlap by 9.8 km,
less than the width of the training frame, so no ground is in two splits. The rule reproduces all 549,488 published
splits (tests/data/test_split.py); as a function of the cell alone, it also checks metadata and splits new tiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.names import GRID_SIDE
from eoforge.errors import UsageError
from eoforge.geo.footprint import PATCH_METRES

SPLITS: tuple[str, ...] = ("train", "validation", "test")
TILE_METRES = 109_800

# Side a of the inner square with half the area is s/sqrt(2); the frame around it is (s - a) / 2 wide.
_TRAIN_FRAME = TILE_METRES * (2 - 2**0.5) / 4
# The inner quarter has side s/2, so train and validation frames together are s/4 wide.
_VALIDATION_FRAME = TILE_METRES / 4


def _frame_of(index: int) -> int:
    centre = PATCH_METRES // 2 + PATCH_METRES * index
    distance = min(centre, TILE_METRES - centre)
    return 0 if distance < _TRAIN_FRAME else 1 if distance < _VALIDATION_FRAME else 2


_FRAMES: npt.NDArray[np.uint8] = np.array([_frame_of(i) for i in range(GRID_SIDE)], dtype=np.uint8)


def official_split(x: int, y: int) -> str:
    """Split of the cell in column ``x`` and row ``y``: ``train``, ``validation`` or ``test``.

    Raises:
        UsageError: A cell index is not in 0..90.
    """
    if not (0 <= x < GRID_SIDE and 0 <= y < GRID_SIDE):
        raise UsageError(f"cell indices must be in 0..{GRID_SIDE - 1}, got x={x}, y={y}")
    return SPLITS[min(_FRAMES[x], _FRAMES[y])]


def official_splits(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Indices ``[N]`` into :data:`SPLITS` of cells given by columns ``[N]`` and rows ``[N]``.

    Raises:
        UsageError: A cell index is not in 0..90.
    """
    for axis in (x, y):
        if axis.size and (axis.min() < 0 or axis.max() >= GRID_SIDE):
            raise UsageError(f"cell indices must be in 0..{GRID_SIDE - 1}, got {axis.min()}..{axis.max()}")
    return np.minimum(_FRAMES[x], _FRAMES[y])
