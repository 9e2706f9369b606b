"""unshuffle against concatenate + gather, forward and every gradient."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels._runtime import INTERPRETED
from kernels.random_mask import mask_state, random_mask
from kernels.unshuffle import _unshuffle, unshuffle, unshuffle_reference
from kernels.unshuffle.kernel import BLOCK_D, BLOCK_T, unshuffle_backward_kernel, unshuffle_kernel
from tests.kernels.aot import POINTERS, TARGETS, assert_fits, compile_kernel

SHAPES = [(1, 1, 1, 8, 0), (2, 16, 5, 24, 1), (3, 49, 0, 130, 1), (2, 17, 17, 16, 2), (0, 4, 2, 8, 1)]
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int]


def inputs(batch: int, tokens: int, keep: int, dim: int, prefix: int, device: str, dtype: torch.dtype) -> Inputs:
    generator = torch.Generator().manual_seed(batch * 31 + tokens)
    shapes = [(batch, prefix + keep, dim), (dim,), (prefix + tokens, dim)]
    x, mask_token, pos = (torch.randn(s, generator=generator).to(device, dtype) for s in shapes)
    mask, _ = random_mask(mask_state(7), batch, tokens, keep)
    return x, mask.ranks.to(device), mask_token, pos, prefix


def gradients(function: object, args: Inputs, grad: torch.Tensor) -> list[torch.Tensor]:
    x, ranks, mask_token, pos, prefix = args
    leaves = [t.detach().clone().requires_grad_() for t in (x, mask_token, pos)]
    out = function(leaves[0], ranks, leaves[1], leaves[2], prefix)  # type: ignore[operator]  # any callable of this form
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("poisoned")
def test_forward_and_gradients(shape: tuple[int, ...], device: str, launches: Counter[str]) -> None:
    args = inputs(*shape, device, torch.float32)
    grad = torch.randn((shape[0], shape[4] + shape[1], shape[3]), generator=torch.Generator().manual_seed(5)).to(device)
    launches.clear()
    got = gradients(unshuffle, args, grad)
    for one, other in zip(got, gradients(unshuffle_reference, args, grad), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6 * max(shape[1], 1))
    if INTERPRETED and shape[0]:
        assert launches == {"unshuffle_kernel": 1, "unshuffle_backward_kernel": 1}


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 140), st.integers(0, 2), st.data())
@settings(max_examples=5 if INTERPRETED else 60, deadline=None)
def test_any_shape(batch: int, tokens: int, dim: int, prefix: int, data: st.DataObject) -> None:
    args = inputs(batch, tokens, data.draw(st.integers(0, tokens)), dim, prefix, "cpu", torch.float32)
    torch.testing.assert_close(unshuffle(*args), unshuffle_reference(*args), rtol=0, atol=0)


def test_non_contiguous_inputs(device: str) -> None:
    x, ranks, mask_token, pos, prefix = inputs(4, 12, 6, 16, 1, device, torch.float32)
    strided = (x.transpose(0, 1).contiguous().transpose(0, 1), ranks.t().contiguous().t(), mask_token, pos)
    torch.testing.assert_close(unshuffle(*strided, prefix), unshuffle_reference(x, ranks, mask_token, pos, prefix))


def test_refusals_name_what_came() -> None:
    x, ranks, mask_token, pos, _ = inputs(2, 8, 4, 16, 0, "cpu", torch.float32)
    with pytest.raises(TypeError, match="unshuffle\\(ranks\\): expected dtype uint8; got int64"):
        unshuffle(x, ranks.long(), mask_token, pos)
    with pytest.raises(ValueError, match=r"\[prefix \+ L, D\] = \[9, 16\]; got \[8, 16\]"):
        unshuffle(x, ranks, mask_token, pos, prefix=1)
    with pytest.raises(ValueError, match=r"keep in 0\.\.3; got keep = 4"):
        unshuffle(x, ranks[:, :3], mask_token, pos[:3])


@pytest.mark.plain_only
def test_opcheck_and_compile_and_autocast() -> None:
    x, ranks, mask_token, pos, prefix = inputs(2, 9, 4, 16, 1, "cpu", torch.float32)
    leaves = (x.requires_grad_(), ranks, mask_token.requires_grad_(), pos.requires_grad_(), prefix)
    torch.library.opcheck(_unshuffle, leaves)
    compiled = torch.compile(unshuffle, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*leaves), unshuffle_reference(*leaves))
    with torch.autocast("cpu", torch.bfloat16):
        assert unshuffle(x.bfloat16(), *leaves[1:]).dtype == torch.bfloat16


@pytest.mark.plain_only
@pytest.mark.parametrize("sm", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_compiles_ahead_of_time(sm: int, dtype: torch.dtype) -> None:
    values = ("x_ptr", "out_ptr", "grad_ptr", "grad_x_ptr", "mask_token_ptr", "pos_ptr")
    types = dict.fromkeys(values, POINTERS[dtype]) | {"ranks_ptr": "*u8", "partial_ptr": "*fp32"}
    types |= dict.fromkeys(("n_out", "n_in", "keep", "prefix"), "i32")
    if dtype != torch.float32:  # parameters stay float32 under autocast
        types |= {"mask_token_ptr": "*fp32", "pos_ptr": "*fp32"}
    for kernel in (unshuffle_kernel, unshuffle_backward_kernel):
        constants = {"DIM": 512, "BLOCK_T": BLOCK_T, "BLOCK_D": BLOCK_D}
        assert_fits(compile_kernel(kernel, sm, types, constants), sm)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gpu_error_is_at_most_twice_pytorchs(dtype: torch.dtype) -> None:
    args = inputs(16, 225, 56, 512, 1, "cuda", dtype)
    grad = torch.randn((16, 226, 512), device="cuda", generator=torch.Generator("cuda").manual_seed(1)).to(dtype)
    exact = [t.float() if t.is_floating_point() else t for t in args[:4]]
    want = gradients(unshuffle_reference, (*exact, 1), grad.float())  # type: ignore[arg-type]  # four tensors and the 1
    theirs = gradients(unshuffle_reference, args, grad)
    for got, reference, eager in zip(gradients(unshuffle, args, grad), want, theirs, strict=True):
        bound = 2 * (eager.float() - reference).abs().max() + 1e-5
        assert (got.float() - reference).abs().max() <= bound
