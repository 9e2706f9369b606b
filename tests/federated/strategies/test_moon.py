"""MOON: the contrast in closed form, when it acts, and which way it pulls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from eoforge.federated.strategies.moon import contrast
from eoforge.federated.strategies.objective import Local
from eoforge.federated.strategies.registry import make_strategy
from eoforge.nn.classifier import Classifier
from tests.federated.training.federations import BatchNormNetwork, GaussianData, NetworkFederation


def test_moon_contrast_in_closed_form() -> None:
    z, near, far = (torch.tensor([v]) for v in ([1.0, 0.0], [2.0, 0.0], [0.0, 3.0]))
    a, b = 1.0 / 0.5, 0.0
    expected = -np.log(np.exp(a) / (np.exp(a) + np.exp(b)))
    assert float(contrast(z, near, far, 0.5)) == pytest.approx(expected, rel=1e-6)
    assert float(contrast(z, near, near, 0.5)) == pytest.approx(np.log(2), rel=1e-6)


def test_moon_is_fedavg_in_its_first_round_and_not_afterwards() -> None:
    moon, silent = NetworkFederation("moon", mu=5.0), NetworkFederation("moon", mu=0.0)
    for together in (True, False):
        moon.round()
        silent.round()
        same = np.array_equal(moon.state.tensors["model/head.weight"], silent.state.tensors["model/head.weight"])
        assert same is together


def test_moon_pulls_towards_the_global_and_away_from_the_previous_model() -> None:
    z = torch.randn(8, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    towards, away = (torch.randn(8, 5, generator=torch.Generator().manual_seed(s)) for s in (2, 3))
    before = functional.cosine_similarity(z, towards) - functional.cosine_similarity(z, away)
    contrast(z, towards, away, 0.5).backward()
    moved = (z - 0.1 * z.grad).detach()  # type: ignore[operator]
    after = functional.cosine_similarity(moved, towards) - functional.cosine_similarity(moved, away)
    assert bool((after > before).all())


def test_the_projection_lets_the_encoder_learn_as_fast_as_without_it() -> None:
    """With PyTorch's initial weights the encoder got a quarter of the gradient, and MOON fell far behind FedAvg."""

    def gradient(projection: int) -> float:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Classifier("tiny_bn", 10, 20, 16, projection, 16, 19).train()
            images, labels = torch.randn(16, 10, 20, 20), (torch.rand(16, 19) > 0.8).float()
        functional.binary_cross_entropy_with_logits(network(images), labels).backward()
        return float(
            torch.stack([p.grad.square().sum() for p in network.encoder.parameters() if p.grad is not None])
            .sum()
            .sqrt()
        )

    assert gradient(256) > 0.7 * gradient(0)


def test_the_other_two_models_judge_every_patch_alone() -> None:
    """In training mode their batch normalisation would depend on the rest of the batch, and change with it."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, moved = BatchNormNetwork(4).train(), BatchNormNetwork(4).state_dict()
        x, z = 3 + 2 * torch.randn(6, 3), torch.randn(6, 4)
    anchor = {n: t.clone() for n, t in model.state_dict().items() if t.is_floating_point()}
    previous = {f"previous/{n}": t + 0.3 for n, t in moved.items() if n in anchor}
    objective = make_strategy("moon").objective(Local(model, anchor, {}, previous, GaussianData(0)))
    together = objective.penalty(x, z)
    alone = torch.stack([objective.penalty(x[i : i + 1], z[i : i + 1]) for i in range(6)]).mean()
    assert float(together) == pytest.approx(float(alone), rel=1e-5)
    assert float(objective.penalty(x, z)) == float(together)
    assert model.training
