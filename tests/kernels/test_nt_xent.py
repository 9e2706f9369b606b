"""nt_xent, nearest_neighbours and neighbour_similarity against slow loops and autograd of the references."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels._runtime import INTERPRETED
from kernels.nt_xent import (
    NORM_BLOCK,
    SEARCH_BLOCK,
    _neighbour_similarity,
    _nt_xent,
    nearest_neighbours,
    neighbour_similarity,
    neighbour_similarity_reference,
    nt_xent,
    nt_xent_reference,
    tiles,
)
from kernels.nt_xent.kernel import (
    inverse_norm_kernel,
    neighbour_backward_kernel,
    neighbour_kernel,
    nt_xent_backward_kernel,
    nt_xent_kernel,
)
from tests.kernels.aot import POINTERS, TARGETS, assert_fits, compile_kernel


def draw(rows: int, dim: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 1009 + dim)
    common = torch.randn((rows, dim), generator=generator)
    pair = [common + torch.randn((rows, dim), generator=generator) for _ in range(2)]
    return [x.to(device, dtype).requires_grad_() for x in pair]


def slow_contrast(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    z = torch.cat([first, second]).detach().cpu().double().numpy()
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    total, pairs = 0.0, len(first)
    for i in range(2 * pairs):
        others = [math.exp(float(z[i] @ z[j]) / temperature) for j in range(2 * pairs) if j != i]
        total -= float(z[i] @ z[(i + pairs) % (2 * pairs)]) / temperature - math.log(sum(others))
    return total / max(2 * pairs, 1)


# 40 pairs are 80 rows: more than one tile of rows and of columns, neither full.
@pytest.mark.parametrize(
    ("pairs", "dim", "temperature"), [(0, 8, 0.5), (1, 5, 0.5), (3, 17, 0.07), (40, 70, 0.07)], ids=str
)
@pytest.mark.usefixtures("poisoned")
def test_contrast(pairs: int, dim: int, temperature: float, device: str, launches: Counter[str]) -> None:
    first, second = draw(pairs, dim, device)
    loss = nt_xent(first, second, temperature)
    assert float(loss.detach()) == pytest.approx(slow_contrast(first, second, temperature), rel=2e-5, abs=2e-6)
    want = torch.autograd.grad(3 * nt_xent_reference(torch.cat([first, second]), temperature), (first, second))
    got = torch.autograd.grad(3 * loss, (first, second))
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6)
    if INTERPRETED and pairs:
        assert launches == {"inverse_norm_kernel": 1, "nt_xent_kernel": 1, "nt_xent_backward_kernel": 1}


@given(st.integers(1, 6), st.integers(1, 20), st.sampled_from([0.07, 0.5, 2.0]))
@settings(max_examples=3 if INTERPRETED else 25, deadline=None)
def test_any_contrast(pairs: int, dim: int, temperature: float) -> None:
    first, second = draw(pairs, dim)
    slow = slow_contrast(first, second, temperature)
    assert float(nt_xent(first, second, temperature).detach()) == pytest.approx(slow, rel=2e-5, abs=2e-6)


def test_contrast_is_finite_where_exponentials_overflow(device: str) -> None:
    first, second = draw(5, 8, device)
    loss = nt_xent(first, second, 0.005)  # exp(1 / 0.005) overflows float32
    loss.backward()
    assert first.grad is not None
    assert loss.isfinite()
    assert first.grad.isfinite().all()
    zero = torch.zeros((2, 4), device=device, requires_grad=True)
    nt_xent(zero, zero, 0.07).backward()
    assert zero.grad is not None
    assert not zero.grad.any()


@pytest.mark.plain_only
def test_autocast_changes_nothing() -> None:
    first, second = draw(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(first, second, 0.07) - neighbour_similarity(first)
    outside = nt_xent(first, second, 0.07) - neighbour_similarity(first)
    assert torch.equal(inside, outside)
    torch.testing.assert_close(*(torch.autograd.grad(x, (first, second)) for x in (inside, outside)), rtol=0, atol=0)


def slow_neighbours(x: np.ndarray) -> list[int]:
    squares = [[float(((a - b) ** 2).sum()) if i != j else math.inf for j, b in enumerate(x)] for i, a in enumerate(x)]
    return [row.index(min(row)) for row in squares]


@pytest.mark.parametrize(("rows", "dim"), [(2, 3), (7, 16), (70, 33)], ids=str)
@pytest.mark.usefixtures("poisoned")
def test_neighbours(rows: int, dim: int, device: str, launches: Counter[str]) -> None:
    # Few whole numbers: many equal distances, none of which float32 rounds.
    x = torch.randint(-2, 3, (rows, dim), generator=torch.Generator().manual_seed(rows)).float()
    x[-1] = x[0]
    nearest = slow_neighbours(x.double().numpy())
    x = x.to(device).requires_grad_()
    assert nearest_neighbours(x).tolist() == nearest
    similarity = neighbour_similarity(x)
    want = neighbour_similarity_reference(x, torch.tensor(nearest, device=device))
    torch.testing.assert_close(similarity, want, rtol=1e-5, atol=1e-6)
    got, right = (torch.autograd.grad(2 * loss, x)[0] for loss in (similarity, want))
    torch.testing.assert_close(got, right, rtol=2e-5, atol=2e-6)
    if INTERPRETED:
        assert launches == {"neighbour_kernel": 2, "neighbour_backward_kernel": 1}


def test_neighbours_are_nearest_by_distance_with_the_lowest_index_on_ties(device: str) -> None:
    assert nearest_neighbours(torch.tensor([[0.0], [1.0], [2.0], [1.0]], device=device)).tolist() == [1, 3, 1, 1]
    # By distance, not by angle; and small distances between long rows are not lost.
    assert nearest_neighbours(torch.tensor([[1.0, 0.0], [9.0, 0.0], [0.5, 0.6]], device=device))[0] == 2
    far = torch.tensor([[4096.0, 0.0], [4096.0, 0.02], [4096.0, 0.01]], device=device)
    assert nearest_neighbours(far).tolist() == [2, 2, 0]


def test_refusals_name_what_came() -> None:
    with pytest.raises(ValueError, match=r"second.*\[2, 3\]; got \[3, 3\]"):
        nt_xent(torch.ones(2, 3), torch.ones(3, 3), 0.1)
    with pytest.raises(ValueError, match="more than 0; got 0"):
        nt_xent(torch.ones(2, 3), torch.ones(2, 3), 0.0)
    with pytest.raises(TypeError, match="got float64"):
        nt_xent(torch.ones(2, 3).double(), torch.ones(2, 3).double(), 0.1)
    with pytest.raises(ValueError, match="at least 2 rows; got 1"):
        neighbour_similarity(torch.ones(1, 3))


@pytest.mark.plain_only
def test_opcheck_and_compile() -> None:
    first, second = draw(4, 6)
    torch.library.opcheck(_nt_xent, (torch.cat([first, second]).detach().requires_grad_(), 2.0))
    torch.library.opcheck(_neighbour_similarity, (first,))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return nt_xent(a, b, 0.1) - neighbour_similarity(a)

    want = nt_xent(first, second, 0.1) - neighbour_similarity(first)
    compiled = loss(first, second)
    torch.testing.assert_close(compiled, want)
    pairs = [torch.autograd.grad(x, (first, second)) for x in (compiled, want)]
    torch.testing.assert_close(*pairs)


@pytest.mark.plain_only
@pytest.mark.parametrize("sm", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_compiles_ahead_of_time(sm: int, dtype: torch.dtype) -> None:
    types = dict.fromkeys(("x_ptr", "out_ptr"), POINTERS[dtype])
    types |= dict.fromkeys(("inverse_ptr", "lse_ptr", "loss_ptr", "grad_ptr", "cosine_ptr"), "*fp32")
    types |= {"neighbour_ptr": "*i32", "n_rows": "i32", "scale": "fp32"}
    shape = {"D": 768, **tiles(768, dtype)}
    warps = shape.pop("num_warps")
    narrow, short = ({k: v for k, v in shape.items() if k != left} for left in ("BLOCK_F", "BLOCK_D"))
    for kernel, constants in (
        (nt_xent_kernel, narrow),
        (nt_xent_backward_kernel, shape),
        (neighbour_backward_kernel, short),
    ):
        assert_fits(compile_kernel(kernel, sm, types, constants, num_warps=warps, num_stages=2), sm)
    assert_fits(compile_kernel(inverse_norm_kernel, sm, types, {"D": 768, **NORM_BLOCK}), sm)
    assert_fits(compile_kernel(neighbour_kernel, sm, types, {"D": 768, **SEARCH_BLOCK}), sm)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gpu_error_is_at_most_twice_pytorchs_and_stores_no_matrix(dtype: torch.dtype) -> None:
    first, second = draw(300, 200, "cuda", dtype)
    exact = [x.detach().float().requires_grad_() for x in (first, second)]
    want = nt_xent_reference(torch.cat(exact), 0.07)
    right = torch.autograd.grad(want, exact)
    z = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    logits = (z @ z.T / 0.07).fill_diagonal_(float("-inf"))
    partner = (torch.arange(600, device="cuda") + 300) % 600
    plain = torch.nn.functional.cross_entropy(logits, partner)
    eager = torch.autograd.grad(plain, (first, second))
    loss = nt_xent(first, second, 0.07)
    got = torch.autograd.grad(loss, (first, second))
    assert abs(float(loss - want)) <= 2 * abs(float(plain - want)) + 1e-5
    for ours, theirs, true in zip(got, eager, right, strict=True):
        assert (ours.float() - true).abs().max() <= 2 * (theirs.float() - true).abs().max() + 1e-6
    big = [x.detach().requires_grad_() for x in draw(8192, 64, "cuda", dtype)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    (nt_xent(*big, 0.07) + neighbour_similarity(big[0])).backward()
    used = torch.cuda.max_memory_allocated() - before
    assert used < 16384 * 16384  # a byte for every pair is more than all of it


@pytest.mark.gpu
def test_gpu_replays_in_a_graph() -> None:
    first, second = (x.detach() for x in draw(100, 48, "cuda"))
    nt_xent(first, second, 0.1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, nearest = nt_xent(first, second, 0.1), nearest_neighbours(first)
    first.copy_(draw(100, 48, "cuda")[1].detach())
    graph.replay()
    torch.testing.assert_close(loss, nt_xent_reference(torch.cat([first, second]), 0.1), rtol=1e-4, atol=1e-5)
    assert nearest.tolist() == slow_neighbours(first.double().cpu().numpy())
