"""Label noise of pixel maps agrees with that of the scene labels."""

from __future__ import annotations

import numpy as np
import pytest

from eoforge.data.labels import IGNORE_INDEX, NUM_CLASSES
from eoforge.data.noise.maps import relabelled, shifted
from eoforge.data.noise.scene import KINDS, Noise, inject
from eoforge.errors import UsageError


@pytest.fixture(scope="module")
def maps():
    """Maps of blocks: two to four classes and some pixels without a class."""
    rng = np.random.default_rng(0)
    maps = np.stack([rng.choice(NUM_CLASSES, 4)[rng.integers(4, size=(6, 6))] for _ in range(60)]).astype(np.uint8)
    maps = maps.repeat(4, axis=1).repeat(4, axis=2)
    maps[:, :2, :2] = IGNORE_INDEX
    return maps


def _classes(map_HW):
    return np.isin(np.arange(NUM_CLASSES), map_HW)


@pytest.mark.parametrize("kind", KINDS)
def test_the_classes_of_a_noisy_map_are_its_noisy_scene_labels(maps, kind):
    clean = np.stack([_classes(one) for one in maps])
    noisy = inject(clean, Noise(kind, 0.5), scores_NL=np.where(clean, 0.8, 0.2) if kind == "instance" else None)
    changed = 0
    for map_HW, before, after in zip(maps, clean, noisy, strict=True):
        result = relabelled(map_HW, before, after)
        np.testing.assert_array_equal(_classes(result), after)
        np.testing.assert_array_equal(result == IGNORE_INDEX, map_HW == IGNORE_INDEX)
        changed += (result != map_HW).any()
    assert changed > 10


def test_a_changed_class_keeps_its_pixels():
    map_HW = np.array([[0, 0, 1], [2, 2, 1]], dtype=np.uint8)
    before, after = np.isin(np.arange(4), [0, 1, 2]), np.isin(np.arange(4), [0, 3, 2])
    np.testing.assert_array_equal(relabelled(map_HW, before, after), [[0, 0, 3], [2, 2, 3]])


def test_a_map_without_classes_stays_as_it_is():
    map_HW = np.full((3, 3), IGNORE_INDEX, dtype=np.uint8)
    none, one = np.zeros(4, bool), np.array([True, False, False, False])
    np.testing.assert_array_equal(relabelled(map_HW, none, one), map_HW)


def test_a_shift_moves_pixels_and_repeats_the_border():
    map_HW = np.arange(9, dtype=np.uint8).reshape(3, 3)
    np.testing.assert_array_equal(shifted(map_HW, 1, 0), [[0, 1, 2], [0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(shifted(map_HW, 0, -1), [[1, 2, 2], [4, 5, 5], [7, 8, 8]])
    with pytest.raises(UsageError, match="smaller than the map, 3 x 3 pixels; got 3, 0"):
        shifted(map_HW, 3, 0)
