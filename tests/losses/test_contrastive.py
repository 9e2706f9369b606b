"""Contrastive losses against slow loops in float64 and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eoforge.errors import UsageError
from eoforge.losses.contrastive import intra_modal_similarity, modal_discrepancy, nt_xent


def draw(rows: int, columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, columns, generator=generator) for _ in range(2))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def slow_nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    z = torch.cat([first, second]).double().numpy()
    total, pairs = 0.0, len(first)
    for i in range(2 * pairs):
        others = [math.exp(cosine(z[i], z[j]) / temperature) for j in range(2 * pairs) if j != i]
        total -= math.log(math.exp(cosine(z[i], z[(i + pairs) % (2 * pairs)]) / temperature) / sum(others))
    return total / (2 * pairs)


def slow_similarity(features: torch.Tensor) -> float:
    e = features.double().numpy()
    total = 0.0
    for i in range(len(e)):
        distances = [math.inf if j == i else float(np.linalg.norm(e[i] - e[j])) for j in range(len(e))]
        total += cosine(e[i], e[distances.index(min(distances))])
    return total / len(e)


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 999), st.sampled_from([0.07, 0.1, 0.5, 2.0]))
@settings(max_examples=40, deadline=None)
def test_nt_xent_equals_the_loop(rows: int, columns: int, seed: int, temperature: float) -> None:
    first, second = draw(rows, columns, seed)
    assert float(nt_xent(first, second, temperature)) == pytest.approx(
        slow_nt_xent(first, second, temperature), rel=1e-4, abs=1e-5
    )


def test_nt_xent_closed_forms() -> None:
    same = torch.ones(5, 3)
    assert float(nt_xent(same, same, 0.1)) == pytest.approx(math.log(9), rel=1e-6)  # 2B - 1 equal others
    orthogonal = torch.eye(4)
    expected = -1 / 0.5 + math.log(math.exp(1 / 0.5) + 6)  # the partner at cosine 1, six others at 0
    assert float(nt_xent(orthogonal, orthogonal, 0.5)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_nt_xent_stays_finite_where_exponentials_overflow(dtype: torch.dtype) -> None:
    first, second = (x.to(dtype) for x in draw(16, 8, 0))
    first.requires_grad_()
    loss = nt_xent(first, second, 0.005)  # exp(1 / 0.005) overflows float32 and fp16
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(first.grad).all()


def test_nt_xent_gradient() -> None:
    first, second = (x.double().requires_grad_() for x in draw(4, 3, 1))
    loss = nt_xent(first, second, 0.3)
    loss.backward()
    step, direction = 1e-3, torch.randn(4, 3, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        up, down = (float(nt_xent(first + s * direction, second, 0.3)) for s in (step, -step))
    assert float((first.grad * direction).sum()) == pytest.approx((up - down) / (2 * step), rel=1e-2)


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_modal_discrepancy_equals_the_loop(rows: int, columns: int, seed: int) -> None:
    first, second = draw(rows, columns, seed)
    pairs = zip(first.double().numpy(), second.double().numpy(), strict=True)
    slow = sum(math.log(1 + math.exp(cosine(a, b))) for a, b in pairs) / rows
    assert float(modal_discrepancy(first, second)) == pytest.approx(slow, rel=1e-5)


def test_modal_discrepancy_closed_forms() -> None:
    x = draw(6, 4, 3)[0]
    assert float(modal_discrepancy(x, 2 * x)) == pytest.approx(math.log(1 + math.e), rel=1e-6)
    assert float(modal_discrepancy(x, -x)) == pytest.approx(math.log(1 + 1 / math.e), rel=1e-5)


@given(st.integers(2, 9), st.integers(1, 12), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_intra_modal_similarity_equals_the_loop(rows: int, columns: int, seed: int) -> None:
    first, second = draw(rows, columns, seed)
    slow = (slow_similarity(first) + slow_similarity(second)) / 2
    assert float(intra_modal_similarity(first, second)) == pytest.approx(slow, rel=1e-4, abs=1e-6)


def test_intra_modal_similarity_raises_the_cosine_of_neighbours_when_it_is_maximised() -> None:
    first, second = (x.requires_grad_() for x in draw(8, 4, 4))
    before = intra_modal_similarity(first, second)
    before.backward()
    assert (first.grad != 0).any()
    with torch.no_grad():
        assert intra_modal_similarity(first + 0.1 * first.grad, second + 0.1 * second.grad) > before


def test_malformed_input_is_refused() -> None:
    with pytest.raises(UsageError, match="one shape"):
        nt_xent(torch.ones(2, 3), torch.ones(3, 3), 0.1)
    with pytest.raises(UsageError, match="positive"):
        nt_xent(torch.ones(2, 3), torch.ones(2, 3), 0.0)
    with pytest.raises(UsageError, match="at least 2"):
        intra_modal_similarity(torch.ones(1, 3), torch.ones(1, 3))
