"""Label noise of scenes: rates, truth, determinism, and what must never happen."""

from __future__ import annotations

import numpy as np
import pytest

from eoforge.data.labels import CLASSES, INDEX
from eoforge.data.noise.scene import KINDS, Noise, clc_neighbours, inject, realised
from eoforge.errors import UsageError

PATCHES = 400


@pytest.fixture(scope="module")
def clean():
    rng = np.random.default_rng(3)
    labels = rng.random((PATCHES, len(CLASSES))) < 0.15
    labels[np.arange(PATCHES), rng.integers(len(CLASSES), size=PATCHES)] = True
    return labels


def _inject(clean, kind, rate, seed=0):
    scores = np.where(clean, 0.9, 0.1) if kind == "instance" else None
    return inject(clean, Noise(kind, rate, seed), scores_NL=scores)


@pytest.mark.parametrize("kind", ["class_change", "pairwise", "instance"])
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.6])
def test_a_changed_label_is_one_removal_and_one_addition(clean, kind, rate):
    found = realised(clean, _inject(clean, kind, rate))
    assert found.removed == found.added
    slack = 0.06 if kind == "pairwise" else 0.003  # a class whose whole group is present has no neighbour to change to
    assert rate - slack <= found.removed <= rate


@pytest.mark.parametrize(
    ("kind", "removed", "added"), [("subtractive", 0.3, 0), ("additive", 0, 0.3), ("mixed", 0.15, 0.15)]
)
def test_removals_and_additions_have_their_rates(clean, kind, removed, added):
    found = realised(clean, _inject(clean, kind, 0.3))
    assert removed - 0.12 <= found.removed <= removed  # the last label of a patch is kept
    assert found.added == pytest.approx(added, abs=0.002)


def test_mixed_flip_touches_the_given_share_of_patches_and_classes(clean):
    noisy = inject(clean, Noise("mixed_flip", 0.4, images=0.25))
    wrong = (clean != noisy).sum(axis=1)
    assert (wrong > 0).sum() == PATCHES // 4
    assert set(wrong[wrong > 0]) <= {7, 6}  # floor(0.4 x 19), one less where the last label is given back
    assert realised(clean, noisy).added > realised(clean, noisy).removed  # labels are sparse


@pytest.mark.parametrize("kind", KINDS)
def test_no_patch_loses_its_last_label_and_every_draw_depends_on_the_seed_alone(clean, kind):
    noisy = _inject(clean, kind, 0.9)
    assert noisy.any(axis=1).all()
    np.testing.assert_array_equal(noisy, _inject(clean, kind, 0.9))
    assert (noisy != _inject(clean, kind, 0.9, seed=1)).any()
    assert (_inject(clean, kind, 0.0) == clean).all()


def test_the_realised_rate_counts_every_positive_of_every_patch(clean):
    """The released injector indexes by the last patch of an earlier loop: its noise gathers in one patch."""
    wrong = (clean != _inject(clean, "class_change", 0.3)).any(axis=1)
    assert wrong[: PATCHES // 2].mean() == pytest.approx(wrong[PATCHES // 2 :].mean(), abs=0.1)


def test_pairwise_noise_stays_in_the_corine_group(clean):
    noisy = _inject(clean, "pairwise", 0.5)
    group = clc_neighbours() > 0
    for image in np.flatnonzero((clean != noisy).any(axis=1)):
        removed, added = np.flatnonzero(clean[image] & ~noisy[image]), np.flatnonzero(noisy[image] & ~clean[image])
        assert all(group[old][added].any() for old in removed)
    assert clc_neighbours()[INDEX["Inland waters"], INDEX["Marine waters"]] == 1


def test_instance_noise_prefers_what_a_classifier_confuses():
    clean = np.zeros((2000, 4), dtype=bool)
    clean[:, 0] = True
    scores = np.tile([0.5, 0.8, 0.1, 0.1], (2000, 1))
    noisy = inject(clean, Noise("instance", 0.5), scores_NL=scores)
    assert noisy[:, 1].sum() > 3 * noisy[:, 2].sum() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda clean: Noise("random", 0.1), "noise kind must be one of class_change, .*; got 'random'"),
        (lambda clean: Noise("additive", 1.5), "rate must be between 0 and 1; got 1.5"),
        (lambda clean: Noise("additive", 0.5, seed=-1), "seed must not be negative"),
        (lambda clean: inject(clean, Noise("instance", 0.1)), "needs the scores of a classifier"),
        (lambda clean: inject(clean[:, :4], Noise("pairwise", 0.1)), r"transition matrix must be \[4, 4\]"),
        (lambda clean: inject(clean, Noise("instance", 0.1), scores_NL=clean * 2.0), "values in 0..1"),
    ],
)
def test_bad_settings_are_named(clean, call, message):
    with pytest.raises(UsageError, match=message):
        call(clean)
