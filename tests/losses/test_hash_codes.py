"""Hash regularisers against slow loops and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eoforge.errors import UsageError
from eoforge.losses.hash_codes import bit_balance, quantisation


def draw(rows: int, bits: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, bits, generator=generator).tanh() for _ in range(2))


shapes = given(st.integers(1, 7), st.integers(1, 17), st.integers(0, 999), st.sampled_from(["sum", "mean"]))


@shapes
@settings(max_examples=30, deadline=None)
def test_quantisation_equals_the_loop(rows: int, bits: int, seed: int, reduction: str) -> None:
    first, second = draw(rows, bits, seed)
    a, b = first.double().numpy(), second.double().numpy()
    slow = 0.0
    for i in range(rows):
        for k in range(bits):
            sign = 1.0 if (a[i, k] + b[i, k]) / 2 > 0 else -1.0
            slow += (sign - a[i, k]) ** 2 + (sign - b[i, k]) ** 2
    slow /= 2 * rows * bits if reduction == "mean" else 1
    assert float(quantisation(first, second, reduction)) == pytest.approx(slow, rel=1e-5)


@shapes
@settings(max_examples=30, deadline=None)
def test_balance_equals_the_loop(rows: int, bits: int, seed: int, reduction: str) -> None:
    outputs = draw(rows, bits, seed)[0]
    h = outputs.double().numpy()
    for over, lines, inner in (("bits", h, bits), ("samples", h.T, rows)):
        slow = sum(float(np.sum(line)) ** 2 for line in lines)
        slow /= inner**2 * len(lines) if reduction == "mean" else 1
        assert float(bit_balance(outputs, over, reduction)) == pytest.approx(slow, rel=1e-4, abs=1e-6)


def test_closed_forms() -> None:
    codes = torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.0, -1.0]])
    assert float(quantisation(codes, codes)) == 0
    assert float(quantisation(torch.zeros(3, 4), torch.zeros(3, 4))) == 2 * 3 * 4
    assert float(bit_balance(codes, "bits")) == 0
    assert float(bit_balance(codes, "samples")) == 2 * 9


def test_the_target_of_an_exact_zero_is_the_bit_zero() -> None:
    outputs = torch.zeros(1, 1, requires_grad=True)
    quantisation(outputs, torch.zeros(1, 1)).backward()
    assert outputs.grad.item() > 0  # descent goes down, to -1


def test_no_gradient_passes_the_sign_and_both_sensors_move_to_one_code() -> None:
    first = torch.tensor([[0.9]], requires_grad=True)
    second = torch.tensor([[-0.1]], requires_grad=True)
    quantisation(first, second).backward()
    assert first.grad.item() == pytest.approx(-2 * (1 - 0.9))
    assert second.grad.item() == pytest.approx(-2 * (1 + 0.1))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="'bits' or 'samples'"):
        bit_balance(torch.zeros(1, 1), "rows")
    with pytest.raises(UsageError, match="'sum' or 'mean'"):
        bit_balance(torch.zeros(1, 1), "bits", "median")
    with pytest.raises(UsageError, match="one shape"):
        quantisation(torch.zeros(1, 2), torch.zeros(2, 1))
