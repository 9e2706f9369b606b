"""Combination of gradients against the published loop, closed forms and a search; pairwise losses against loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from eoforge.errors import UsageError
from eoforge.methods.rs_jcif.gradients import RULES, coefficients, dot_products, joint_loss
from eoforge.methods.rs_jcif.pairwise import MemoryBank, soft_pairwise_to
from kernels.soft_pairwise import label_similarity_reference, soft_pairwise


def drawn(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,), (2, 3, 3, 3)]
    first, second = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))
    return first, second


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients]).double()


def published_pcgrad(gradients: list[Tensor]) -> Tensor:
    """Algorithm 1 of Yu et al. 2020, task by task on copies."""
    projected = []
    for i, own in enumerate(gradients):
        result = own.clone()
        for j, other in enumerate(gradients):
            if i != j and (product := result @ other) < 0:
                result -= product / (other @ other) * other
        projected.append(result)
    return torch.stack(projected).sum(dim=0)


@pytest.mark.parametrize("seed", range(8))
def test_pcgrad_is_the_published_loop(seed: int) -> None:
    first, second = drawn(seed)
    if seed % 2:  # gradients in conflict
        second = [b - 2 * a for a, b in zip(first, second, strict=True)]
    a, b = coefficients(dot_products(first, second), "pcgrad")
    expected = published_pcgrad([flat(first), flat(second)])
    assert torch.allclose(a * flat(first) + b * flat(second), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_mgda_is_the_shortest_point_between(seed: int) -> None:
    first, second = drawn(seed)
    first = [(1 + 3 * (seed % 3)) * g for g in first]
    a, b = coefficients(dot_products(first, second), "mgda")
    assert float(a + b) == pytest.approx(1)
    lengths = [(float((t * flat(first) + (1 - t) * flat(second)).norm()), t) for t in np.linspace(0, 1, 2001)]
    assert float(a) == pytest.approx(min(lengths)[1], abs=1e-3)


@given(
    st.floats(-1, 1), st.floats(0.01, 100), st.floats(0.01, 100)
)  # the cosine between two gradients and their lengths
def test_properties_of_the_rules(cosine: float, first: float, second: float) -> None:
    dots = torch.tensor([first**2, cosine * first * second, second**2], dtype=torch.float64)
    d11, d12, d22 = dots.tolist()
    a, b = (float(v) for v in coefficients(dots, "pcgrad"))
    slack = 1e-9 * (d11 + d22)
    assert a * d11 + b * d12 >= -slack  # a small step worsens neither loss
    assert a * d12 + b * d22 >= -slack
    assert (a, b) == (1, 1) or cosine < 0
    a, b = (float(v) for v in coefficients(dots, "mgda"))
    assert 0 <= a <= 1
    assert a * a * d11 + 2 * a * b * d12 + b * b * d22 <= min(d11, d22) + slack
    assert [float(v) for v in coefficients(dots, "fixed", 0.3)] == pytest.approx([1, 0.3])
    assert [float(v) for v in coefficients(dots, "sum", 0.3)] == [1, 1]


def test_a_gradient_of_zero_conflicts_with_nothing() -> None:
    dots = torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64)
    for rule in RULES:
        assert all(math.isfinite(float(v)) for v in coefficients(dots, rule))
    assert [float(v) for v in coefficients(dots, "pcgrad")] == [1, 1]
    with pytest.raises(UsageError, match="pcgrad, mgda, sum, fixed"):
        coefficients(dots, "average")  # type: ignore[arg-type]  # wrong on purpose


class TwoNetworks(nn.Module):
    """Two networks and two tasks whose losses depend on both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.networks = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)) for name in ("one", "other")}
        )
        self.first, self.second = nn.Linear(4, 1), nn.Linear(4, 1)

    @property
    def shared(self) -> dict[str, list[nn.Parameter]]:
        return {name: list(network.parameters()) for name, network in self.networks.items()}

    @property
    def private(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        return list(self.first.parameters()), list(self.second.parameters())

    def losses(self, x: Tensor) -> tuple[Tensor, Tensor]:
        one, other = self.networks["one"](x), self.networks["other"](9 * x)
        first = self.first(one).square().mean() + 50 * self.first(other).square().mean()
        return first, (self.second(one) - 3).square().mean() + (self.second(other) + self.second(one)).square().mean()


@pytest.mark.parametrize("rule", RULES)
def test_gradients_follow_the_rule_on_shared_weights_and_are_plain_on_private_ones(rule) -> None:
    network, x = TwoNetworks(), torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    (one, two), weight = network.private, 0.25 if rule == "fixed" else 1.0
    loss, figures = joint_loss(*network.losses(x), network.shared, network.private, rule, 0.25)
    (loss / 2).backward()  # the scale of gradient accumulation
    (joint_loss(*network.losses(x), network.shared, network.private, rule, 0.25)[0] / 2).backward()
    first, second = network.losses(x)
    for name, tensors in network.shared.items():
        g1 = torch.autograd.grad(first, tensors, retain_graph=True)
        g2 = torch.autograd.grad(second, tensors, retain_graph=True)
        a, b = coefficients(dot_products(g1, g2), rule, 0.25)  # of this network alone
        for p, f, s in zip(tensors, g1, g2, strict=True):
            assert torch.allclose(p.grad, (a * f + b * s).float(), rtol=1e-4, atol=1e-5)
        assert float(figures[f"gradient_a_{name}"]) == pytest.approx(float(a), rel=1e-4)
        assert float(figures[f"gradient_cosine_{name}"]) == pytest.approx(
            float(torch.cosine_similarity(flat(g1), flat(g2), dim=0)), abs=1e-4
        )
    for p, g in zip(one, torch.autograd.grad(first, one), strict=True):
        assert torch.allclose(p.grad, g, rtol=1e-4)
    for p, g in zip(two, torch.autograd.grad(second, two, retain_graph=True), strict=True):
        assert torch.allclose(p.grad, weight * g, rtol=1e-4)
    assert float(loss.detach()) == pytest.approx(float((first + weight * second).detach()))


def test_the_plain_sum_is_what_backward_of_the_sum_gives() -> None:
    network, x = TwoNetworks(), torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
    joint_loss(*network.losses(x), network.shared, network.private, "sum")[0].backward()
    combined = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    sum(network.losses(x)).backward()
    assert all(
        torch.allclose(d, p.grad, rtol=1e-4, atol=1e-5) for d, p in zip(combined, network.parameters(), strict=True)
    )


@pytest.mark.parametrize("form", ["corrected", "published", "cosine"])
def test_the_kernel_is_the_same_loss_with_targets_from_labels(form) -> None:
    generator = torch.Generator().manual_seed(5)
    codes, held = (torch.randn(n, 16, generator=generator).tanh() for n in (6, 9))
    masks, held_masks = (torch.randint(0, 64, (n,), generator=generator) for n in (6, 9))
    inside, beyond = (label_similarity_reference(masks, m) for m in (masks, held_masks))
    assert torch.allclose(soft_pairwise(codes, masks, form=form), soft_pairwise_to(codes, codes, inside, form))
    with_bank = soft_pairwise(codes, masks, held, held_masks, form=form)
    assert torch.allclose(with_bank, soft_pairwise_to(codes, held, beyond, form))


@pytest.mark.parametrize("form", ["corrected", "published", "cosine"])
def test_soft_pairwise_against_a_loop_over_pairs(form) -> None:
    rng = np.random.default_rng(4)
    u, v = rng.uniform(-1, 1, (5, 16)), rng.uniform(-1, 1, (7, 16))
    s = rng.choice([0.0, 0.3, 0.5, 0.8, 1.0], (5, 7))
    total = 0.0
    for i, j in itertools.product(range(5), range(7)):
        t = float(u[i] @ v[j])
        if form == "cosine":
            total += (t / np.linalg.norm(u[i]) / np.linalg.norm(v[j]) - s[i, j]) ** 2
        elif s[i, j] in (0.0, 1.0):
            total += math.log(1 + math.exp(0.5 * t)) - s[i, j] * 0.5 * t
        else:
            total += 0.1 * ((t if form == "corrected" else 0.5 * t) + 16 - 2 * s[i, j] * 16) ** 2
    found = soft_pairwise_to(*(torch.tensor(x, dtype=torch.float32) for x in (u, v, s)), form)
    assert float(found) == pytest.approx(total / 35, rel=1e-4)


def test_only_the_corrected_form_can_reach_its_targets() -> None:
    code = torch.where(torch.rand(32, generator=torch.Generator().manual_seed(0)) > 0.5, 1.0, -1.0)
    half = code.clone()
    half[:8] *= -1  # a quarter of the bits differ: <u, v> = K / 2, which is the target of s = 0.75
    pair = code[None], half[None], torch.tensor([[0.75]])
    assert float(soft_pairwise_to(*pair, "corrected")) == pytest.approx(0)
    assert float(soft_pairwise_to(*pair, "published")) > 1


def test_soft_pairwise_refuses_what_does_not_fit() -> None:
    u = torch.zeros(3, 8)
    with pytest.raises(UsageError, match=r"expected \[B, K\], \[N, K\] and \[B, N\]"):
        soft_pairwise_to(u, u, torch.zeros(3, 2))
    with pytest.raises(UsageError, match="forms corrected, published, cosine"):
        soft_pairwise_to(u, u, torch.zeros(3, 3), "hinge")  # type: ignore[arg-type]  # wrong on purpose


def test_the_memory_bank_keeps_the_last_rows() -> None:
    bank = MemoryBank(5, 4, torch.tensor(0))
    assert len(bank.rows()[0]) == 0
    for step in range(4):
        bank.put(torch.full((2, 4), float(step)), torch.tensor([step, step]))
    codes, keys = bank.rows()
    assert sorted(keys.tolist()) == [1, 2, 2, 3, 3]
    assert torch.equal(codes[:, 0], keys.float())
    again = MemoryBank(5, 4, torch.tensor(0))
    again.load_state_dict(bank.state_dict())
    assert torch.equal(again.rows()[1], keys)
    bank.put(torch.arange(7.0)[:, None].expand(7, 4), torch.arange(7))
    assert sorted(bank.rows()[1].tolist()) == [2, 3, 4, 5, 6]
