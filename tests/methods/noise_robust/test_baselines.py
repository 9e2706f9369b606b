"""Baselines: what each remembers, selects or compares."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eoforge.losses import robust
from eoforge.methods.noise_robust.collaborative import CoTeaching, JoCoR, Rcml, kept_share, mean_discrepancy
from eoforge.methods.noise_robust.objective import EarlyLearning, SelfAdaptive, View

B, D, L = 8, 6, 3
ROWS = torch.arange(B)


@pytest.fixture
def views():
    torch.manual_seed(0)
    return [View(torch.randn(B, D), nn.Linear(D, L)) for _ in range(2)]


@pytest.fixture
def labels():
    return (torch.rand(B, L, generator=torch.Generator().manual_seed(2)) < 0.5).float()


def test_early_learning_averages_predictions_and_pulls_towards_them(views, labels):
    objective = EarlyLearning("multi", 20, L, weight=1.0, momentum=0.75)
    p = robust.probabilities("multi", views[0].logits).detach()
    objective([views[0]], labels, ROWS + 5, 0)
    torch.testing.assert_close(objective.memory.values[5 : 5 + B], p)
    assert objective.memory.values[:5].isnan().all()
    terms = objective([View(views[0].features * 2, views[0].classify)], labels, ROWS + 5, 1)
    second = robust.probabilities("multi", views[0].classify(views[0].features * 2)).detach()
    torch.testing.assert_close(objective.memory.values[5 : 5 + B], 0.75 * p + 0.25 * second)
    expected = (1 - (second * (t := 0.75 * p + 0.25 * second) + (1 - second) * (1 - t)).mean(1)).log().mean()
    assert terms["regulariser"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_self_adaptive_labels_are_given_first_and_move_later(views, labels):
    objective = SelfAdaptive("multi", B, L, momentum=0.9, start_epochs=1)
    plain = robust.task_loss("multi", views[0].logits, labels).mean()
    torch.testing.assert_close(objective([views[0]], labels, ROWS, 0)["loss"], plain)
    objective([views[0]], labels, ROWS, 1)
    p = robust.probabilities("multi", views[0].logits)
    torch.testing.assert_close(objective.memory.values, 0.9 * labels + 0.1 * p.detach())


def test_co_teaching_takes_the_samples_that_the_other_network_finds_easy(views, labels):
    first, second = (robust.task_loss("multi", v.logits, labels) for v in views)
    found = CoTeaching("multi", 0.5, ramp_epochs=1)(views, labels, ROWS, 1)["loss"]
    easy_1, easy_2 = first.argsort()[: B // 2], second.argsort()[: B // 2]
    torch.testing.assert_close(found, first[easy_2].mean() + second[easy_1].mean())
    start = CoTeaching("multi", 0.5, ramp_epochs=1)(views, labels, ROWS, 0)["loss"]
    torch.testing.assert_close(start, first.mean() + second.mean())


def test_jocor_selects_by_the_joint_loss(views, labels):
    p, q = (robust.probabilities("multi", v.logits) for v in views)
    joint = 0.5 * sum(robust.task_loss("multi", v.logits, labels) for v in views)
    joint = joint + 0.5 * robust.jensen_shannon("multi", p, q)
    found = JoCoR("multi", 0.25, ramp_epochs=0)(views, labels, ROWS, 3)["loss"]
    torch.testing.assert_close(found, joint.sort().values[:6].mean())


def test_rcml_doubts_a_missing_and_an_extra_label(views):
    objective = Rcml("multi", 0.5)
    logits = torch.tensor([[4.0, -4.0, -4.0]]).repeat(3, 1)
    labels = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 0]])  # right; missing and extra; extra
    right, both, extra = objective._error(logits, labels, robust.task_loss("multi", logits, labels))
    assert right < extra < both
    terms = objective(views, (torch.rand(B, L) < 0.5).float(), ROWS, 4)
    assert terms["discrepancy"] >= 0
    assert torch.isfinite(terms["loss"])


def test_discrepancy_is_zero_for_equal_samples_and_grows_with_distance():
    x = torch.randn(30, 4)
    assert mean_discrepancy(x, x, 10.0) == pytest.approx(0, abs=1e-6)
    assert mean_discrepancy(x, x + 1, 10.0) < mean_discrepancy(x, x + 3, 10.0)


def test_the_kept_share_falls_over_the_first_epochs():
    assert [kept_share(0.4, epoch, 4) for epoch in (0, 2, 4, 9)] == pytest.approx([1.0, 0.8, 0.6, 0.6])


@pytest.mark.parametrize(
    "make",
    [
        lambda: SelfAdaptive("single", B, L, start_epochs=1),
        lambda: EarlyLearning("single", B, L),
        lambda: CoTeaching("single", 0.5),
        lambda: JoCoR("single", 0.5),
        lambda: Rcml("single", 0.5),
    ],
)
def test_single_labels_train_too(make, views):
    features = nn.Parameter(views[0].features)
    objective = make()
    chosen = [View(features, views[0].classify), views[1]][: objective.networks]
    for epoch in (0, 1):
        objective(chosen, torch.arange(B) % L, ROWS, epoch)["loss"].backward()
    assert features.grad.abs().sum() > 0
