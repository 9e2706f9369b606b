# No `from __future__ import annotations` here: the interpreter does not recognise `tl.constexpr` spelled as a string.
"""Triton kernels: decoder input from visible tokens, and its gradient."""

import torch
import triton
import triton.language as tl

from kernels._runtime import wrap_triton

BLOCK_T = 16
BLOCK_D = 128


@triton.jit(do_not_specialize=["n_out", "n_in", "keep", "prefix"])
def unshuffle_kernel(
    x_ptr, ranks_ptr, mask_token_ptr, pos_ptr, out_ptr, n_out, n_in, keep, prefix, DIM: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[b, t] = (visible ? x[b, place of t] : mask_token) + pos[t], for BLOCK_T tokens and BLOCK_D features."""
    sample = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    feature = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = token < n_out
    patch = inside & (token >= prefix)
    rank = tl.load(ranks_ptr + sample * (n_out - prefix) + token - prefix, mask=patch, other=0).to(tl.int32)
    visible = inside & ((token < prefix) | (rank < keep))
    source = tl.where(token < prefix, token, rank + prefix)
    wide = (feature < DIM)[None, :]
    x = tl.load(
        x_ptr + (sample * n_in + source)[:, None] * DIM + feature[None, :], mask=visible[:, None] & wide, other=0.0
    ).to(tl.float32)
    filler = tl.load(mask_token_ptr + feature, mask=feature < DIM, other=0.0).to(tl.float32)
    pos = tl.load(pos_ptr + token[:, None] * DIM + feature[None, :], mask=inside[:, None] & wide, other=0.0)
    out = tl.where(visible[:, None], x, filler[None, :]) + pos.to(tl.float32)
    pointers = out_ptr + (sample * n_out + token)[:, None] * DIM + feature[None, :]
    tl.store(pointers, out.to(out_ptr.dtype.element_ty), mask=inside[:, None] & wide)


@triton.jit(do_not_specialize=["n_out", "n_in", "keep", "prefix"])
def unshuffle_backward_kernel(
    grad_ptr, ranks_ptr, grad_x_ptr, partial_ptr, n_out, n_in, keep, prefix, DIM: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """grad_x[b, place of t] = grad[b, t] for visible t; partial[b] = sum of grad[b, t] over masked t."""
    sample = tl.program_id(0).to(tl.int64)
    feature = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    wide = (feature < DIM)[None, :]
    total = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, n_out, BLOCK_T):
        token = start + tl.arange(0, BLOCK_T)
        inside = token < n_out
        patch = inside & (token >= prefix)
        rank = tl.load(ranks_ptr + sample * (n_out - prefix) + token - prefix, mask=patch, other=0).to(tl.int32)
        visible = inside & ((token < prefix) | (rank < keep))
        place = tl.where(token < prefix, token, rank + prefix)
        pointers = grad_ptr + (sample * n_out + token)[:, None] * DIM + feature[None, :]
        grad = tl.load(pointers, mask=inside[:, None] & wide, other=0.0).to(tl.float32)
        target = grad_x_ptr + (sample * n_in + place)[:, None] * DIM + feature[None, :]
        tl.store(target, grad.to(grad_x_ptr.dtype.element_ty), mask=visible[:, None] & wide)
        total += tl.sum(tl.where(visible[:, None], 0.0, grad), axis=0)
    tl.store(partial_ptr + sample * DIM + feature, total, mask=feature < DIM)


def launch_unshuffle(
    x: torch.Tensor, ranks: torch.Tensor, mask_token: torch.Tensor, pos: torch.Tensor, out: torch.Tensor, prefix: int
) -> None:
    """Fills ``out`` [B, prefix + L, D]; all tensors contiguous."""
    batch, n_out, dim = out.shape
    if out.numel() == 0:
        return
    grid = (batch, triton.cdiv(n_out, BLOCK_T), triton.cdiv(dim, BLOCK_D))
    with torch.cuda.device_of(x):
        wrap_triton(unshuffle_kernel)[grid](
            x, ranks, mask_token, pos, out, n_out, x.shape[1], x.shape[1] - prefix, prefix,
            DIM=dim, BLOCK_T=BLOCK_T, BLOCK_D=BLOCK_D, num_warps=4,
        )  # fmt: skip


def launch_unshuffle_backward(
    grad: torch.Tensor, ranks: torch.Tensor, grad_x: torch.Tensor, partial: torch.Tensor, prefix: int
) -> None:
    """Fills ``grad_x`` [B, prefix + keep, D] and ``partial`` float32 [B, D]."""
    batch, n_out, dim = grad.shape
    if grad.numel() == 0:
        return
    with torch.cuda.device_of(grad):
        wrap_triton(unshuffle_backward_kernel)[(batch, triton.cdiv(dim, BLOCK_D))](
            grad, ranks, grad_x, partial, n_out, grad_x.shape[1], grad_x.shape[1] - prefix, prefix,
            DIM=dim, BLOCK_T=BLOCK_T, BLOCK_D=BLOCK_D, num_warps=4,
        )  # fmt: skip
