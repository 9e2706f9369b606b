"""Classes of reBEN (19), their two common orders, and the CORINE Land Cover (CLC) codes of each.

``CLASSES`` is the canonical order (the original one, which torchgeo uses). ConfigILM and the official parquet files use
the alphabetical one. A mix-up of the two raises no error, so conversions are explicit.
Source: reBEN paper (arXiv 2407.03653) and rsim-tu-berlin/bigearthnet-pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from eoforge.errors import DataRefused

# (class, CLC level-3 codes); the row number is the canonical index and the bit in label_mask: fixed for ever.
_TABLE: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("Urban fabric", (111, 112)),
    ("Industrial or commercial units", (121,)),
    ("Arable land", (211, 212, 213)),
    ("Permanent crops", (221, 222, 223, 241)),
    ("Pastures", (231,)),
    ("Complex cultivation patterns", (242,)),
    ("Land principally occupied by agriculture, with significant areas of natural vegetation", (243,)),
    ("Agro-forestry areas", (244,)),
    ("Broad-leaved forest", (311,)),
    ("Coniferous forest", (312,)),
    ("Mixed forest", (313,)),
    ("Natural grassland and sparsely vegetated areas", (321, 333)),
    ("Moors, heathland and sclerophyllous vegetation", (322, 323)),
    ("Transitional woodland, shrub", (324,)),
    ("Beaches, dunes, sands", (331,)),
    ("Inland wetlands", (411, 412)),
    ("Coastal wetlands", (421, 422)),
    ("Inland waters", (511, 512)),
    ("Marine waters", (521, 522, 523)),
)

CLASSES: tuple[str, ...] = tuple(name for name, _ in _TABLE)
NUM_CLASSES = len(CLASSES)
INDEX: dict[str, int] = {name: i for i, name in enumerate(CLASSES)}

UNLABELED_CLC: tuple[int, ...] = (122, 123, 124, 131, 132, 133, 141, 142, 332, 334, 335, 423, 999)
"""CLC codes that belong to no class; 999 means no CLC data."""
CLC_TO_CLASS: dict[int, int] = {code: i for i, (_, codes) in enumerate(_TABLE) for code in codes}
KNOWN_CLC: frozenset[int] = frozenset(CLC_TO_CLASS) | frozenset(UNLABELED_CLC)
"""All level-3 codes (44) and 999."""

CLASS_COLOURS: tuple[tuple[int, int, int], ...] = (
    (230, 0, 77), (204, 77, 242), (255, 255, 168), (230, 128, 0), (230, 230, 77), (255, 230, 77), (230, 204, 77),
    (242, 204, 166), (128, 255, 0), (0, 166, 0), (77, 255, 0), (204, 242, 77), (166, 255, 128), (166, 242, 0),
    (230, 230, 230), (166, 166, 255), (204, 204, 255), (0, 204, 242), (230, 242, 255),
)  # fmt: skip
"""Red, green and blue of each class: the official CORINE colour of a level-3 code of it, in canonical order."""

IGNORE_INDEX = 255
"""Class index of pixels that carry no class: unlabelled codes, nodata, or no map at all."""

ALPHABETICAL: tuple[str, ...] = tuple(sorted(CLASSES))
TO_ALPHABETICAL: tuple[int, ...] = tuple(ALPHABETICAL.index(name) for name in CLASSES)
"""``TO_ALPHABETICAL[i]`` is ConfigILM's column for our class ``i``."""

_LUT_SIZE = 1000


def _lookup_table() -> npt.NDArray[np.uint8]:
    lut = np.full(_LUT_SIZE, IGNORE_INDEX, dtype=np.uint8)
    for code, index in CLC_TO_CLASS.items():
        lut[code] = index
    return lut


CLC_LUT: npt.NDArray[np.uint8] = _lookup_table()


def clc_to_classes(reference_map: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Class indices 0..18 of CLC codes ``[..., H, W]``; unlabelled codes and 0 become ``IGNORE_INDEX``.

    Raises:
        DataRefused: The map holds a value above 999, which is no CLC level-3 code.
    """
    if reference_map.size and int(reference_map.max()) >= _LUT_SIZE:
        raise DataRefused(f"reference map holds {int(reference_map.max())}; CLC level-3 codes end at 999")
    return CLC_LUT[reference_map]


def mask_of(labels: Iterable[str]) -> int:
    """Bit mask of label names (32 bits): bit ``i`` stands for ``CLASSES[i]``.

    Raises:
        DataRefused: A name is not one of the 19 classes.
    """
    mask = 0
    for name in labels:
        if name not in INDEX:
            raise DataRefused(f"unknown label {name!r}; the 19 classes are {'; '.join(CLASSES)}")
        mask |= 1 << INDEX[name]
    return mask


def names_of(mask: int) -> list[str]:
    """Label names of a mask, sorted as in the official parquet files.

    Raises:
        DataRefused: A bit beyond class 18 is set.
    """
    if mask >> NUM_CLASSES:
        raise DataRefused(f"label mask {mask:#x} has bits beyond the {NUM_CLASSES} classes")
    return sorted(name for i, name in enumerate(CLASSES) if mask >> i & 1)


def multi_hot(masks: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    """Multi-hot rows ``[N, 19]`` of masks ``[N]``, in canonical order (as torchgeo)."""
    bits = np.asarray(masks, dtype=np.uint32)[:, None] >> np.arange(NUM_CLASSES, dtype=np.uint32)
    return (bits & 1).astype(np.float32)


def to_configilm(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Multi-hot rows ``[N, 19]`` with columns moved from canonical to alphabetical order (as ConfigILM)."""
    out = np.empty_like(rows)
    out[:, list(TO_ALPHABETICAL)] = rows
    return out


def from_configilm(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Multi-hot rows ``[N, 19]`` with columns moved from alphabetical (as ConfigILM) to canonical order."""
    return rows[:, list(TO_ALPHABETICAL)]
