"""The noisy set, importance weights and the estimated rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eoforge.methods.noise_robust.selection import estimated_rate, importance, loss_gap, minmax, noisy_set


def test_the_noisy_set_holds_the_largest_gaps():
    l_d, l_g = torch.tensor([1.0, 5.0, 3.0, 2.0]), torch.tensor([0.0, 1.0, 4.0, 2.0])
    gap = loss_gap(l_d, l_g)
    torch.testing.assert_close(gap, torch.tensor([0.0, 0.75, -0.5, -0.25]))
    assert noisy_set(gap, 0.5).tolist() == [True, True, False, False]
    assert noisy_set(gap, 0.49).sum() == 1  # floor
    assert noisy_set(gap, 0.0).sum() == 0
    assert noisy_set(torch.randn(10), 0.3).sum() == 3  # 0.3 x 10 is 3, whatever the binary fraction


def test_equal_losses_have_no_gap():
    assert minmax(torch.full((3,), 2.0)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["gap", "joint", "power", "joint_power"])
def test_importance_has_mean_one_no_gradient_and_is_lowest_for_the_suspicious(kind):
    l_d = torch.tensor([0.1, 0.2, 3.0, 0.3], requires_grad=True)
    weights = importance(kind, l_d, torch.tensor([0.2, 0.3, 0.15, 0.2]))
    assert weights.mean() == pytest.approx(1)
    assert not weights.requires_grad
    assert weights.argmin() == 2


def test_importance_formulas():
    l_d, l_g = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    assert importance("gap", l_d, l_g).tolist() == [2.0, 0.0]
    middle = importance("gap", torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(middle, torch.tensor([0.5, 0.5, 0.25]) * 3 / 1.25)
    power = importance("power", torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.0, 1.0, 0.0]), kappa=2.0)
    torch.testing.assert_close(power, torch.tensor([0.25, 0.25, 0.0625]) * 3 / 0.5625)
    joint = importance("joint_power", torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.0, 1.0, 0.5]), kappa=2.0)
    torch.testing.assert_close(joint, torch.tensor([1.0, 0.0, 0.25]) * 3 / 1.25)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_the_rate_of_a_clear_mixture_is_found(share):
    rng = np.random.default_rng(2)
    wrong = int(2000 * share)
    gaps = np.concatenate([rng.normal(-0.3, 0.15, 2000 - wrong), rng.normal(0.5, 0.15, wrong)])
    assert estimated_rate(gaps) == pytest.approx(share, abs=0.03)


def test_one_heap_of_gaps_is_no_noise():
    rng = np.random.default_rng(2)
    assert estimated_rate(rng.normal(0, 0.2, 2000)) == 0.0
    assert estimated_rate(np.zeros(100)) == 0.0
    assert estimated_rate(np.full(10, np.nan)) == 0.0
