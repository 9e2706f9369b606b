"""Probability of wrong labels: calibrated where the classifier is, and right about the rates."""

from __future__ import annotations

import numpy as np
import pytest

from eoforge.data.noise.errors import label_errors


@pytest.fixture(scope="module")
def world():
    """A classifier that is calibrated by construction, and labels of which 20 % are missed and 4 % invented."""
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.3, 1.2, size=(8000, 3))
    truth = rng.random(probabilities.shape) < probabilities
    given = np.where(truth, rng.random(truth.shape) >= 0.2, rng.random(truth.shape) < 0.04)
    return probabilities, truth, given


def test_the_rates_of_each_class_are_found(world):
    probabilities, _, given = world
    found = label_errors(probabilities, given)
    np.testing.assert_allclose(found.missed, 0.2, atol=0.04)
    np.testing.assert_allclose(found.invented, 0.04, atol=0.02)


def test_of_the_labels_called_wrong_with_a_probability_that_share_is_wrong(world):
    probabilities, truth, given = world
    wrong = label_errors(probabilities, given).wrong
    for low, high in ((0.1, 0.3), (0.3, 0.6), (0.6, 0.95)):
        chosen = (wrong >= low) & (wrong < high)
        assert (truth != given)[chosen].mean() == pytest.approx(wrong[chosen].mean(), abs=0.06)


def test_clean_labels_are_not_accused():
    rng = np.random.default_rng(1)
    probabilities = rng.choice([0.02, 0.98], size=(4000, 2))
    truth = rng.random(probabilities.shape) < probabilities
    sure = np.where(truth, 0.98, 0.02)  # the classifier agrees with every label
    assert label_errors(sure, truth).wrong.max() < 0.05
