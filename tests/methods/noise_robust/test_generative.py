"""Gradient routing of GRID and RS-IRL-SVAE, arrow by arrow, and the quirks of the released code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from eoforge.errors import UsageError
from eoforge.losses.robust import IGNORE, label_losses, task_loss
from eoforge.methods.noise_robust.generative import Grid, RsIrlSvae
from eoforge.methods.noise_robust.objective import View
from eoforge.methods.noise_robust.selection import importance, loss_gap, loss_sum, noisy_set
from eoforge.methods.noise_robust.settings import NoiseSettings, build_objective
from eoforge.nn.generative import GenerativeBranch

B, D, L, LATENT = 12, 10, 5, 4
RATE = 0.25


class _World(nn.Module):
    """Backbone, task head, branch and a batch, scene labels or pixel maps."""

    def __init__(self, spatial: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.spatial = spatial
        self.backbone = nn.Conv2d(3, D, 1) if spatial else nn.Linear(3, D)
        self.head = nn.Conv2d(D, L, 1) if spatial else nn.Linear(D, L)
        self.branch = GenerativeBranch(D, L, LATENT, spatial=spatial)
        self.images = torch.randn(B, 3, 4, 4) if spatial else torch.randn(B, 3)
        self.labels = torch.randint(L, (B, 4, 4)) if spatial else (torch.rand(B, L) < 0.4).float()
        if spatial:
            self.labels[:, 0, 0] = IGNORE
        self.target = "pixels" if spatial else "multi"
        self.rows = torch.arange(B)

    def step(self, objective, epoch=0):
        """Gradients of one batch by part, with a fixed draw of eps."""
        self.zero_grad()
        torch.manual_seed(7)
        view = View(self.backbone(self.images), self.head)
        terms = objective([view], self.labels, self.rows, epoch)
        terms["loss"].backward()
        return terms, {name: _gradients(getattr(self, name)) for name in ("backbone", "head", "branch")}

    def expected(self, loss_of):
        """Gradients of ``loss_of(features, l_d, l_g, rec, kl)`` by plain autograd, where nothing is detached."""
        self.zero_grad()
        torch.manual_seed(7)
        features = self.backbone(self.images)
        eps = self.branch.noise(features)
        latent = self.branch.encode(features)
        l_d = task_loss(self.target, self.head(features), self.labels)
        l_g = task_loss(self.target, self.branch.head(latent.sample(eps)), self.labels)
        rec = self.branch.reconstruction(features, latent.sample(eps))
        loss_of(l_d, l_g, rec, self.branch.divergence(latent)).backward()
        return {name: _gradients(getattr(self, name)) for name in ("backbone", "head", "branch")}


def _gradients(module):
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


def _equal(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("spatial", [False, True])
def test_grid_each_part_learns_from_its_own_losses(spatial):
    world = _World(spatial)
    _, found = world.step(Grid(world.branch, world.target, B, RATE))
    kept = {}

    def wrong(l_d, l_g):
        return noisy_set(loss_gap(l_d, l_g), RATE)

    def theta(l_d, l_g, rec, kl):
        mask = wrong(l_d, l_g)
        kept["wrong"] = int(mask.sum())
        return torch.where(mask, l_g, l_d).mean()

    _equal(found["head"], world.expected(lambda l_d, l_g, rec, kl: l_d.mean())["head"])
    _equal(found["branch"], world.expected(lambda l_d, l_g, rec, kl: (l_g + rec + kl).mean())["branch"])
    _equal(found["backbone"], world.expected(theta)["backbone"])
    assert kept["wrong"] == 3


def test_grid_without_wrong_labels_trains_the_backbone_as_the_plain_loss_does():
    world = _World()
    _, found = world.step(Grid(world.branch, world.target, B, 0.0))
    _equal(found["backbone"], world.expected(lambda l_d, l_g, rec, kl: l_d.mean())["backbone"])


def test_reconstruction_and_divergence_never_reach_the_backbone():
    """With every label in W the backbone sees l_g alone, although its features feed REC and KL too."""
    world = _World()
    _, found = world.step(Grid(world.branch, world.target, B, 1.0))
    _equal(found["backbone"], world.expected(lambda l_d, l_g, rec, kl: l_g.mean())["backbone"])


def test_svae_weights_the_task_and_keeps_its_bound_from_the_backbone():
    world = _World()
    objective = RsIrlSvae(world.branch, world.target, B, kind="joint")
    terms, found = world.step(objective)

    def weighted(l_d, l_g, rec, kl):
        both = (l_d + l_g).detach()
        weights = 1 - (both - both.min()) / (both.max() - both.min())
        return (weights * l_d).sum() / weights.sum()

    expected = world.expected(weighted)
    _equal(found["backbone"], expected["backbone"])
    _equal(found["head"], expected["head"])
    _equal(found["branch"], world.expected(lambda l_d, l_g, rec, kl: (l_g + rec + kl).mean())["branch"])
    assert terms["smallest_weight"] == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda w: Grid(w.branch, w.target, B, 0.5, start_epochs=2),
        lambda w: RsIrlSvae(w.branch, w.target, B, start_epochs=2),
    ],
)
def test_in_the_first_epochs_every_label_counts_as_right(make):
    world = _World()
    plain = world.expected(lambda l_d, l_g, rec, kl: l_d.mean())["backbone"]
    objective = make(world)
    _equal(world.step(objective, epoch=1)[1]["backbone"], plain)
    later = world.step(objective, epoch=2)[1]["backbone"]
    assert any(not torch.allclose(later[name], plain[name]) for name in plain)


def _elements(world):
    """Losses of both heads for every label, from a fixed draw of eps."""
    torch.manual_seed(7)
    features = world.backbone(world.images)
    z = world.branch.encode(features).sample(world.branch.noise(features))
    return [label_losses(world.target, logits, world.labels) for logits in (world.head(features), world.branch.head(z))]


@pytest.mark.parametrize("joint", [False, True])
def test_grid_routes_single_labels_of_a_scene(joint):
    """W holds floor(lambda P) of the P given labels, and as many of the others; one patch may be on both sides."""
    world = _World()
    objective = Grid(world.branch, world.target, B, RATE, unit="label", joint=joint)
    _, found = world.step(objective)
    world.zero_grad()
    l_d, l_g = _elements(world)
    given = world.labels > 0.5
    count = int(RATE * int(given.sum()))
    wrong = torch.zeros_like(given)
    for part in (given, ~given):
        suspicion = (loss_sum if joint else loss_gap)(l_d[part], l_g[part])
        wrong[part] = suspicion >= suspicion.topk(count).values[-1]
    torch.where(wrong, l_g, l_d).mean().backward()
    _equal(found["backbone"], _gradients(world.backbone))
    assert 0 < wrong.sum() == 2 * count
    assert bool((wrong.any(dim=1) & ~wrong.all(dim=1)).any())
    _equal(found["head"], world.expected(lambda l_d, l_g, rec, kl: l_d.mean())["head"])
    _equal(found["branch"], world.expected(lambda l_d, l_g, rec, kl: (l_g + rec + kl).mean())["branch"])


def test_grid_routes_single_pixels_of_a_map():
    world = _World(spatial=True)
    _, found = world.step(Grid(world.branch, world.target, B, RATE, unit="label"))
    world.zero_grad()
    l_d, l_g = _elements(world)
    valid = world.labels != IGNORE
    wrong = torch.zeros_like(valid)
    wrong[valid] = noisy_set(loss_gap(l_d[valid], l_g[valid]), RATE)
    (torch.where(wrong, l_g, l_d).flatten(1).sum(dim=1) / valid.flatten(1).sum(dim=1)).mean().backward()
    _equal(found["backbone"], _gradients(world.backbone))
    assert wrong.sum() == int(RATE * int(valid.sum()))


def test_svae_weights_single_labels_within_those_given_and_those_not():
    world = _World()
    _, found = world.step(RsIrlSvae(world.branch, world.target, B, "joint_power", 3.0, unit="label"))
    world.zero_grad()
    l_d, l_g = _elements(world)
    weights = torch.zeros_like(l_d)
    for part in (world.labels > 0.5, world.labels <= 0.5):
        weights[part] = importance("joint_power", l_d[part], l_g[part], 3.0)
    ((weights * l_d).sum() / weights.sum()).backward()
    _equal(found["backbone"], _gradients(world.backbone))
    _equal(found["head"], _gradients(world.head))
    assert weights[world.labels > 0.5].mean() == pytest.approx(1)


def test_the_weight_of_the_divergence_reaches_the_branch_alone():
    world = _World()
    _, found = world.step(Grid(world.branch, world.target, B, RATE, divergence_weight=0.01))
    expected = world.expected(lambda l_d, l_g, rec, kl: (l_g + rec + 0.01 * kl).mean())
    _equal(found["branch"], expected["branch"])


def test_rates_of_classes_are_estimated_from_their_given_labels():
    world = _World()
    objective = Grid(world.branch, world.target, 200, None, unit="label")
    rng = np.random.default_rng(0)
    objective.given = torch.zeros(200, L, dtype=torch.bool)
    objective.given[:, 1] = True
    objective.given[:100, 2] = True
    values = rng.normal(-0.5, 0.1, (200, L))
    values[:60, 1] += 1.2
    values[:20, 2] += 1.2
    values[100:, 2] += 1.2  # labels of class 2 that are not given
    objective.suspicion.values = torch.tensor(values)
    assert objective.rates(0).tolist() == pytest.approx([0, 0.3, 0.2, 0, 0], abs=0.02)
    _, found = world.step(objective)
    assert found


def test_units_that_do_not_fit_are_named():
    for target, changes, message in (
        ("single", {"unit": "label"}, "needs patches with several labels; those of single targets have one"),
        ("pixels", {"unit": "label", "adaptive": True}, "the rate of single pixels cannot be estimated"),
        ("multi", {"unit": "label", "whole_bound": True}, "whole_bound=true needs unit=sample"),
    ):
        with pytest.raises(UsageError, match=message):
            build_objective("grid", NoiseSettings(**changes), target, features=D, outputs=L, samples=B)


def test_every_sample_has_its_own_eps():
    """The released code draws one vector for the batch."""
    branch = GenerativeBranch(D, L, LATENT)
    eps = branch.noise(torch.zeros(B, D))
    assert eps.shape == (B, LATENT)
    assert len(eps.unique(dim=0)) == B


def test_a_large_rho_does_not_overflow():
    """The released ``log(1 + exp(rho))`` is infinite for rho above 88."""
    branch = GenerativeBranch(2, L, 1)
    nn.init.constant_(branch.encoder.weight, 100.0)
    latent = branch.encode(torch.ones(1, 2))
    assert torch.isfinite(latent.std).all()
    assert latent.std > 190
    assert torch.isfinite(branch.divergence(latent)).all()


def test_divergence_is_that_of_torch_distributions():
    branch = GenerativeBranch(D, L, LATENT)
    latent = branch.encode(torch.randn(B, D))
    normal = torch.distributions.Normal(latent.mean, latent.std)
    reference = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(branch.divergence(latent), reference, rtol=1e-5, atol=1e-5)


def test_gaps_are_kept_per_sample_and_the_rate_is_estimated_once_an_epoch():
    world = _World()
    objective = Grid(world.branch, world.target, 200, None, start_epochs=1)
    assert objective.rates(0).tolist() == [0.0]
    world.rows = torch.arange(B) + 50
    world.step(objective)
    values = objective.suspicion.values.numpy()
    assert np.isfinite(values[50 : 50 + B]).all()
    assert np.isnan(np.delete(values, np.arange(50, 50 + B))).all()
    rng = np.random.default_rng(0)
    objective.suspicion.values = torch.tensor(np.r_[rng.normal(-0.5, 0.1, 150), rng.normal(0.6, 0.1, 50)])
    assert objective.rates(1).tolist() == pytest.approx([0.25], abs=0.02)
    objective.suspicion.values = torch.zeros(200)
    assert objective.rates(1).tolist() == pytest.approx([0.25], abs=0.02)  # an epoch has one rate, also after a resume
    copy = Grid(world.branch, world.target, 200, None)
    copy.load_state_dict(objective.state_dict())
    assert copy.rates(1).tolist() == objective.rates(1).tolist()
    assert objective.rates(2).tolist() == [0.0]


def test_the_branch_is_small_beside_its_backbone():
    """1,024 features: about 0.4 M parameters, below 10 % of a network of 7 M."""
    count = sum(p.numel() for p in GenerativeBranch(1024, 19, 128).parameters())
    assert count == (1024 + 1) * 256 + (128 + 1) * 1024 + (128 + 1) * 19
    assert math.isclose(count / 7e6, 0.057, abs_tol=0.002)
