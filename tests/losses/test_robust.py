"""Robust losses against slow loops, and the properties that make them robust."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from eoforge.errors import UsageError
from eoforge.losses import robust
from eoforge.losses.robust import IGNORE

B, L = 6, 4
LOSSES = {
    "plain": robust.task_loss,
    "smoothed": lambda kind, x, y: robust.smoothed(kind, x, y, 0.2),
    "focal": lambda kind, x, y: robust.focal(kind, x, y, 2.0),
    "gce": lambda kind, x, y: robust.generalised_cross_entropy(kind, x, y, 0.7),
    "sce": lambda kind, x, y: robust.symmetric_cross_entropy(kind, x, y, 0.5, 1.5),
}
PER_LABEL = {
    "plain": lambda p: -math.log(p),
    "focal": lambda p: -((1 - p) ** 2) * math.log(p),
    "gce": lambda p: (1 - p**0.7) / 0.7,
    "sce": lambda p: -0.5 * math.log(p) + 1.5 * 4 * (1 - p),
}


@pytest.fixture
def logits():
    return torch.randn(B, L, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def multi():
    return (torch.rand(B, L, generator=torch.Generator().manual_seed(1)) < 0.5).float()


@pytest.mark.parametrize("name", PER_LABEL)
def test_against_a_loop(name, logits, multi):
    found = LOSSES[name]("multi", logits, multi)
    for b in range(B):
        p = [torch.sigmoid(x).item() for x in logits[b]]
        terms = [PER_LABEL[name](q if y else 1 - q) for q, y in zip(p, multi[b].tolist(), strict=True)]
        assert found[b] == pytest.approx(sum(terms) / L, rel=1e-4)
    single = torch.tensor([0, 1, 2, 3, 0, 1])
    found = LOSSES[name]("single", logits, single)
    for b in range(B):
        assert found[b] == pytest.approx(PER_LABEL[name](logits[b].softmax(0)[single[b]].item()), rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_are_averaged_over_those_with_a_class(name):
    logits = torch.randn(2, L, 3, 3)
    labels = torch.randint(L, (2, 3, 3))
    labels[0, 0] = IGNORE
    found = LOSSES[name]("pixels", logits, labels)
    flat = logits.permute(0, 2, 3, 1)
    for b in range(2):
        keep = labels[b] != IGNORE
        assert found[b] == pytest.approx(LOSSES[name]("single", flat[b][keep], labels[b][keep]).mean().item(), rel=1e-4)
    empty = torch.full((2, 3, 3), IGNORE)
    assert LOSSES[name]("pixels", logits, empty).tolist() == [0, 0]


def test_smoothing_moves_labels_towards_the_uniform(logits, multi):
    single = torch.tensor([0, 1, 2, 3, 0, 1])
    expected = functional.cross_entropy(logits, single, label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(robust.smoothed("single", logits, single, 0.2), expected)
    soft = functional.binary_cross_entropy_with_logits(logits, multi * 0.8 + 0.1, reduction="none").mean(1)
    torch.testing.assert_close(robust.smoothed("multi", logits, multi, 0.2), soft)


@pytest.mark.parametrize("kind", ["multi", "single"])
def test_bounded_losses_stay_bounded_where_the_plain_loss_grows(kind):
    wrong = torch.tensor([[30.0, -30.0, -30.0, -30.0]])
    labels = torch.tensor([[0.0, 1.0, 1.0, 1.0]]) if kind == "multi" else torch.tensor([1])
    assert robust.task_loss(kind, wrong, labels) > 20
    assert robust.generalised_cross_entropy(kind, wrong, labels, 0.7) <= 1 / 0.7 + 1e-6


def test_vector_targets_take_the_squared_error(logits, multi):
    torch.testing.assert_close(robust.task_loss("vector", logits, multi), (logits - multi).square().mean(1))
    with pytest.raises(UsageError, match="multi, single, pixels or vector; got 'map'"):
        robust.task_loss("map", logits, multi)


def test_agreement_and_divergence_of_predictions(logits):
    p = robust.probabilities("single", logits)
    torch.testing.assert_close(robust.agreement("single", p, p), p.square().sum(1))
    torch.testing.assert_close(robust.jensen_shannon("single", p, p), torch.zeros(B))
    q = robust.probabilities("multi", logits)
    assert (robust.jensen_shannon("multi", q, q.flip(0)) >= 0).all()
    torch.testing.assert_close(
        robust.jensen_shannon("multi", q, q.flip(0)), robust.jensen_shannon("multi", q.flip(0), q)
    )


def test_agreement_of_binary_predictions_is_the_chance_of_equal_draws(logits):
    first, second = robust.probabilities("multi", logits), robust.probabilities("multi", logits.flip(0))
    found = robust.agreement("multi", first, second)
    for b in range(B):
        pairs = zip(first[b].tolist(), second[b].tolist(), strict=True)
        assert found[b] == pytest.approx(sum(p * t + (1 - p) * (1 - t) for p, t in pairs) / L, rel=1e-5)
