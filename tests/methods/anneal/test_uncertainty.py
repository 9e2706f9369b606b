"""MGUE and BCGUE on cases by hand, and the loss terms against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eoforge.methods.anneal.loss import balance, contrastive, pair_distances, quantisation
from eoforge.methods.anneal.uncertainty import bcgue, metric_threshold, mgue, otsu


def test_mgue_threshold_of_separable_pairs_is_the_middle_of_the_gap() -> None:
    distance = np.array([0.9, 0.1, 0.3, 0.7])
    similar = np.array([False, True, True, False])
    assert metric_threshold(distance, similar, np.empty(0)) == pytest.approx(0.5)


def balanced_error(threshold: float, distance: np.ndarray, similar: np.ndarray) -> float:
    said = distance <= threshold
    return float((~said[similar]).mean() + said[~similar].mean())


@pytest.mark.parametrize("seed", range(20))
def test_mgue_threshold_has_the_least_balanced_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    similar = rng.random(30) < 0.2
    similar[:2] = True, False
    distance = rng.random(30) + np.where(similar, 0.0, 0.4)
    best = min(balanced_error(t, distance, similar) for t in [*distance, -1.0, 9.0])
    found = metric_threshold(distance, similar, np.empty(0))
    assert balanced_error(found, distance, similar) == pytest.approx(best)


def test_mgue_threshold_counts_classes_equally() -> None:
    # One similar pair at 0.5 among dissimilar ones: the plain error is least where all are called dissimilar (1 of 5
    # wrong), the balanced one between 0.5 and 0.6 (one of four dissimilar pairs is called similar).
    distance = np.array([0.4, 0.5, 0.6, 0.7, 0.8])
    similar = np.array([False, True, False, False, False])
    assert metric_threshold(distance, similar, np.empty(0)) == pytest.approx(0.55)


def test_equal_distances_are_not_separated() -> None:
    threshold = metric_threshold(np.array([0.5, 0.5, 1.0]), np.array([True, False, False]), np.empty(0))
    assert threshold == pytest.approx(0.75)


@pytest.mark.parametrize("label", [True, False])
def test_with_one_class_the_pool_is_split_by_otsu(label: bool) -> None:
    pool = np.concatenate([np.full(50, 0.2), np.full(10, 1.0)])
    threshold = metric_threshold(np.array([0.1, 0.9]), np.array([label, label]), pool)
    assert threshold == otsu(pool)
    assert threshold == pytest.approx(0.6, abs=0.01)


def test_mgue_is_highest_at_the_threshold() -> None:
    assert mgue(np.array([0.5, 0.6, 1.5]), 0.5).tolist() == pytest.approx([1.0, 1 / 1.1, 0.5])


def test_bcgue_is_highest_at_one_half() -> None:
    assert bcgue(np.array([0.0, 0.25, 0.5, 0.9, 1.0])).tolist() == pytest.approx([0.0, 0.5, 1.0, 0.2, 0.0])


def test_contrastive_against_a_loop() -> None:
    distance, similar = torch.tensor([0.2, 0.2, 0.9, 1.4]), torch.tensor([True, False, False, False])
    expected = [0.2**2, (1 - 0.2) ** 2, (1 - 0.9) ** 2, 0.0]
    assert contrastive(distance, similar, 1.0).tolist() == pytest.approx(expected)


def test_the_distance_of_equal_embeddings_has_a_finite_gradient() -> None:
    same = torch.ones(1, 4, requires_grad=True)
    pair_distances(same, same.detach()).sum().backward()
    assert same.grad is not None
    assert bool(torch.isfinite(same.grad).all())


def test_balance_gives_both_classes_half_of_the_weight() -> None:
    similar = torch.tensor([True, False, False, False])
    weight = balance(similar)
    assert weight.mean() == pytest.approx(1.0)
    assert weight[similar].sum() == pytest.approx(float(weight[~similar].sum()))
    assert balance(torch.tensor([True, True])).tolist() == [1.0, 1.0]


def test_quantisation_is_zero_at_the_corners_alone() -> None:
    corner = torch.tensor([[0.5, -0.5, -0.5, 0.5]])
    assert quantisation(corner) == 0
    assert quantisation(torch.tensor([[1.0, 0.0, 0.0, 0.0]])) == pytest.approx((1.0 + 3 * 1.0) / 4)
