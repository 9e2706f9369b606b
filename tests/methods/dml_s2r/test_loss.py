"""Losses of DML-S2R against slow loops and closed forms, and the order of mined triplets."""

from __future__ import annotations

import math

import pytest
import torch

from eoforge.methods.dml_s2r import loss

NAN = float("nan")


def drawn(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def test_pair_loss_is_the_mean_over_ordered_pairs() -> None:
    values, difference = drawn(5), drawn(25, 1).view(5, 5)
    total = sum(float(values[i] - values[j] - difference[i, j]) ** 2 for i in range(5) for j in range(5) if i != j)
    assert float(loss.pair_loss(difference, values)) == pytest.approx(total / 20, rel=1e-5)
    assert float(loss.pair_loss(values[:, None] - values[None], values)) == 0
    assert float(loss.pair_loss(drawn(1).view(1, 1), drawn(1))) == 0


def test_known_labels_replace_predicted_distances() -> None:
    values = torch.tensor([1.0, NAN, 4.0, NAN])
    difference = drawn(16).view(4, 4)
    delta = loss.target_distance(difference, values)
    assert float(delta[0, 2]) == float(delta[2, 0]) == 3
    assert float(delta[0, 0]) == 0
    for i, j in ((0, 1), (1, 2), (1, 3), (3, 0)):
        assert float(delta[i, j]) == abs(float(difference[i, j]))


@pytest.mark.parametrize("seed", range(5))
def test_triplets_respect_the_order_of_target_distances(seed: int) -> None:
    values = drawn(20, seed)
    delta = loss.target_distance(torch.full((20, 20), NAN), values)
    positives, negatives = loss.mine(delta, 4)
    for anchor in range(20):
        near = (values[positives[anchor]] - values[anchor]).abs()
        far = (values[negatives[anchor]] - values[anchor]).abs()
        assert near.max() <= far.min()
        rest = sorted((values - values[anchor]).abs().tolist())[1:]
        assert sorted(near.tolist()) == pytest.approx(rest[:4])
        assert sorted(far.tolist()) == pytest.approx(rest[-4:])
        chosen = {*positives[anchor].tolist(), *negatives[anchor].tolist()}
        assert anchor not in chosen
        assert len(chosen) == 8


def test_a_small_batch_has_fewer_triplets_and_never_one_input_twice() -> None:
    positives, negatives = loss.mine(torch.rand(4, 4), 4)
    assert positives.shape == negatives.shape == (4, 1)
    assert not (positives == negatives).any()


def test_triplet_loss_is_the_mean_over_triplets() -> None:
    features, delta = drawn(24).view(6, 4), drawn(36, 1).view(6, 6).abs()
    positives, negatives = loss.mine(delta, 2)
    unit = features / features.norm(dim=1, keepdim=True)
    total, triplets = 0.0, 0
    for a in range(6):
        for p in positives[a]:
            for n in negatives[a]:
                gap = float(((unit[a] - unit[p]) ** 2).sum() - ((unit[a] - unit[n]) ** 2).sum())
                total, triplets = total + max(0.0, gap + 0.2), triplets + 1
    found = loss.triplet_loss(loss.square_distance(features), positives, negatives, 0.2)
    assert float(found) == pytest.approx(total / triplets, rel=1e-4)


def test_log_ratio_loss_is_zero_where_distances_are_proportional() -> None:
    delta = drawn(36).view(6, 6).abs() + 0.1
    positives, negatives = loss.mine(delta, 2)
    assert float(loss.log_ratio_loss(3 * delta, delta, positives, negatives)) == pytest.approx(0, abs=1e-8)
    one = loss.log_ratio_loss(
        torch.tensor([[0, 1.0, 4.0]] * 3),
        torch.tensor([[0, 1.0, 2.0]] * 3),
        torch.ones(3, 1).long(),
        torch.full((3, 1), 2),
    )
    assert float(one) == pytest.approx((math.log(1 / 4) - math.log(1 / 2)) ** 2, rel=1e-4)


def test_pseudo_values_come_from_the_nearest_labelled_inputs() -> None:
    values = torch.tensor([1.0, NAN, 4.0, -2.0, NAN])
    difference, distance = drawn(25).view(5, 5), drawn(25, 1).view(5, 5).abs()
    found = loss.pseudo_values(difference, distance, values, 2)
    assert found[[0, 2, 3]].tolist() == [1, 4, -2]
    for i in (1, 4):
        near = sorted((0, 2, 3), key=lambda one, i=i: float(distance[i, one]))[:2]
        expected = sum(float(values[one] + difference[i, one]) for one in near) / 2
        assert float(found[i]) == pytest.approx(expected, rel=1e-5)


def test_pseudo_pairs_are_those_of_unlabelled_inputs() -> None:
    difference, values, known = drawn(16).view(4, 4), drawn(4, 1), torch.tensor([True, False, True, False])
    total = sum(float(values[i] - values[j] - difference[i, j]) ** 2 for i in (1, 3) for j in range(4))
    assert float(loss.pseudo_pair_loss(difference, values, known)) == pytest.approx(total / 8, rel=1e-5)
    assert float(loss.pseudo_pair_loss(difference, values, torch.ones(4, dtype=torch.bool))) == 0
    assert float(loss.pseudo_pair_loss(difference, torch.full((4,), NAN), torch.zeros(4, dtype=torch.bool))) == 0
