"""Packing of codes by the definition of the codes table; lengths and logits of the hash head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eoforge.errors import UsageError
from eoforge.hashing.head import HashHead
from eoforge.hashing.packing import pack, pack_torch


@given(st.integers(0, 6), st.integers(1, 64), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_packing_follows_the_definition_in_numpy_and_torch(rows: int, size: int, seed: int) -> None:
    logits = np.random.Generator(np.random.Philox(key=seed)).normal(size=(rows, 8 * size)).astype(np.float32)
    logits[np.abs(logits) < 0.3] = 0
    expected = np.zeros((rows, size), dtype=np.uint8)
    for row in range(rows):
        for k in range(8 * size):
            if logits[row, k] > 0:
                expected[row, k // 8] |= 1 << (k % 8)
    assert np.array_equal(pack(logits), expected)
    assert np.array_equal(pack_torch(torch.from_numpy(logits)).numpy(), expected)
    assert np.array_equal(np.unpackbits(expected, axis=-1, bitorder="little"), logits > 0)


def test_zero_nan_and_negative_give_zero_bits() -> None:
    logits = torch.tensor([[0.0, -0.0, float("nan"), -1.0, 1e-38, float("inf"), 5.0, -5.0]])
    assert pack_torch(logits).tolist() == [[0b0111_0000]]
    assert pack(logits.numpy()).tolist() == [[0b0111_0000]]


def test_bits_that_fill_no_byte_are_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 8"):
        pack_torch(torch.zeros(1, 12))
    with pytest.raises(UsageError, match="multiple of 8"):
        pack(np.zeros((1, 0)))


@pytest.mark.parametrize("bits", [16, 128, 512])
def test_head_gives_k_logits_of_both_signs(bits: int) -> None:
    torch.manual_seed(0)
    logits = HashHead(10, bits, hidden=6)(torch.randn(4, 10))
    assert logits.shape == (4, bits)
    assert 0 < (logits > 0).float().mean() < 1


@pytest.mark.parametrize("bits", [8, 20, 520])
def test_head_refuses_other_lengths(bits: int) -> None:
    with pytest.raises(UsageError, match=str(bits)):
        HashHead(10, bits)
