"""random_mask: the same permutations from the kernel and from Philox in plain PyTorch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels._runtime import INTERPRETED
from kernels.random_mask import _random_mask, mask_state, random_mask, random_mask_reference
from kernels.random_mask.kernel import random_mask_kernel, shape_of
from kernels.random_mask.reference import philox
from tests.kernels.aot import TARGETS, assert_fits, compile_kernel

MODES: list[Any] = ["identical", "disjoint", "independent"]


def assert_is_a_mask(mask: Any, tokens: int) -> None:
    """Ids are a permutation, ranks its inverse, bits the visible set."""
    ids, ranks = mask.ids.cpu().numpy(), mask.ranks.cpu().numpy()
    np.testing.assert_array_equal(np.sort(ids, axis=1), np.tile(np.arange(tokens), (len(ids), 1)))
    np.testing.assert_array_equal(
        np.take_along_axis(ranks, ids.astype(int), 1), np.tile(np.arange(tokens), (len(ids), 1))
    )
    bits = np.unpackbits(mask.bits.cpu().numpy(), axis=1, bitorder="little")
    np.testing.assert_array_equal(bits[:, :tokens], ranks < mask.keep)
    assert not bits[:, tokens:].any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("batch", "tokens", "keep"), [(0, 8, 4), (1, 1, 1), (3, 64, 32), (5, 29, 0)])
@pytest.mark.usefixtures("poisoned")
def test_equals_the_reference(
    mode: Any, batch: int, tokens: int, keep: int, device: str, launches: Counter[str]
) -> None:
    state = mask_state(2**40 + 17, 5, device)
    a, b = random_mask(state, batch, tokens, keep, mode=mode)
    want = random_mask_reference(state.cpu(), batch, tokens, keep, b.keep, mode)
    for got, expected in zip([*a[:3], *b[:3]], want, strict=True):
        torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=0)
    for mask in (a, b):
        assert_is_a_mask(mask, tokens)
    assert launches["random_mask_kernel"] == (1 if INTERPRETED and batch else 0)


def test_a_row_of_more_than_128_tokens(device: str) -> None:
    mask, _ = random_mask(mask_state(9, 2, device), 1, 144, 70)
    want = random_mask_reference(mask_state(9, 2), 1, 144, 70, 70, "identical")
    for got, expected in zip(mask[:3], want, strict=False):
        torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=0)


@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    step=st.integers(0, 2**31 - 1),
    tokens=st.integers(1, 16 if INTERPRETED else 256),
    mode=st.sampled_from(MODES),
    data=st.data(),
)
@settings(max_examples=4 if INTERPRETED else 60, deadline=None)
def test_any_seed_gives_masks(seed: int, step: int, tokens: int, mode: Any, data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, tokens))
    state = mask_state(seed, step)
    a, b = random_mask(state, 3, tokens, keep, mode=mode)
    assert_is_a_mask(a, tokens)
    assert_is_a_mask(b, tokens)
    torch.testing.assert_close(a.ids, random_mask_reference(state, 3, tokens, keep, b.keep, mode)[0], rtol=0, atol=0)


def test_disjoint_masks_share_no_token_and_cover_all(device: str) -> None:
    a, b = random_mask(mask_state(1, 0, device), 6, 24, 9, mode="disjoint")
    assert b.keep == 15
    assert ((a.bits ^ b.bits) == 255).all()


def test_masks_do_not_depend_on_the_batch_and_differ_by_step(device: str) -> None:
    few, _ = random_mask(mask_state(3, 0, device), 2, 16, 8)
    many, other = random_mask(mask_state(3, 0, device), 9, 16, 8, mode="independent")
    assert torch.equal(many.ids[:2], few.ids)
    assert not torch.equal(many.ids, other.ids)
    assert not torch.equal(few.ids, random_mask(mask_state(3, 1, device), 2, 16, 8)[0].ids)


def test_identical_masks_may_keep_different_numbers(device: str) -> None:
    a, b = random_mask(mask_state(3, 0, device), 2, 16, 4, keep_b=12)
    assert torch.equal(a.ids, b.ids)
    assert_is_a_mask(b, 16)


def test_philox_is_the_published_generator() -> None:
    """NumPy's Philox is 4x64, so the known-answer vectors of Random123 stand in (philox4x32-10)."""
    zero = torch.zeros((), dtype=torch.int64)
    assert philox(zero, (zero, zero, zero, zero)).item() == 0x6627E8D5
    full = zero + 0xFFFFFFFF
    assert philox(zero - 1, (full, full, full, full)).item() == 0x408F276D


def test_every_token_is_kept_equally_often() -> None:
    bits = random_mask_reference(mask_state(11), 4000, 16, 4, 4, "identical")[1] < 4
    share = bits.float().mean(0)
    assert (share - 0.25).abs().max() < 5 * (0.25 * 0.75 / 4000) ** 0.5


def test_refusals_name_what_came() -> None:
    state = mask_state(0)
    with pytest.raises(ValueError, match="1 to 256; got 257"):
        random_mask(state, 1, 257, 3)
    with pytest.raises(ValueError, match="0 to 8 \\(tokens\\); got 9"):
        random_mask(state, 1, 8, 9)
    with pytest.raises(ValueError, match=r"keep \+ keep_b <= 8; got 5 \+ 4"):
        random_mask(state, 1, 8, 5, mode="disjoint", keep_b=4)
    with pytest.raises(ValueError, match="got 'other'"):
        random_mask(state, 1, 8, 5, mode="other")  # type: ignore[arg-type]  # the refusal is what is tested
    with pytest.raises(TypeError, match="expected dtype int64"):
        random_mask(state.float(), 1, 8, 5)


@pytest.mark.plain_only
@pytest.mark.parametrize("mode", MODES)
def test_opcheck_and_compile(mode: Any) -> None:
    state = mask_state(4)
    torch.library.opcheck(_random_mask, (state, 3, 20, 7, 7, mode))
    compiled = torch.compile(lambda s: random_mask(s, 3, 20, 7, mode=mode)[1].ids, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(state), random_mask(state, 3, 20, 7, mode=mode)[1].ids)


@pytest.mark.plain_only
@pytest.mark.parametrize("sm", TARGETS)
@pytest.mark.parametrize("tokens", [16, 64, 225])
def test_compiles_ahead_of_time(sm: int, tokens: int) -> None:
    types = dict.fromkeys(random_mask_kernel.arg_names[1:7], "*u8") | {"state_ptr": "*i64", "n_samples": "i32"}
    shape = shape_of(tokens)
    warps = shape.pop("num_warps")
    for mode in range(3):
        constants = {"TOKENS": tokens, "KEEP_A": tokens // 2, "KEEP_B": tokens // 2, "MODE": mode, **shape}
        assert_fits(compile_kernel(random_mask_kernel, sm, types, constants, num_warps=warps), sm)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_gpu_draws_the_cpu_masks_and_new_ones_per_replay(mode: Any) -> None:
    state = mask_state(2**50 + 3, 0, "cuda")
    random_mask(state, 1024, 225, 56, mode=mode)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        a, b = random_mask(state, 1024, 225, 56, mode=mode)
        state[1] += 1
    for step in range(3):
        graph.replay()
        want = random_mask(mask_state(2**50 + 3, step), 1024, 225, 56, mode=mode)
        for got, expected in zip([*a[:3], *b[:3]], [*want[0][:3], *want[1][:3]], strict=True):
            assert torch.equal(got.cpu(), expected)
