"""Decoder input from visible tokens, mask token and positions, with gradients and without int64 index tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels._runtime import FLOATS, require_device, require_dtype, require_shape, through_kernel
from kernels.unshuffle.kernel import launch_unshuffle, launch_unshuffle_backward
from kernels.unshuffle.reference import unshuffle_reference

__all__ = ["unshuffle", "unshuffle_reference"]


def unshuffle(x: Tensor, ranks: Tensor, mask_token: Tensor, pos: Tensor, prefix: int = 0) -> Tensor:
    """Visible tokens at their positions and mask tokens elsewhere, plus the position embedding.

    ``out[b, p + t] = (ranks[b, t] < keep ? x[b, p + ranks[b, t]] : mask_token) + pos[p + t]`` with ``p = prefix``;
    the first ``prefix`` tokens (CLS) keep their places. Sums are in float32, results in the dtype of ``x``. It is
    differentiable in ``x``, ``mask_token`` and ``pos``.

    Args:
        x: ``[B, prefix + keep, D]``, floating.
        ranks: uint8 ``[B, L]``, inverse permutations (``Mask.ranks`` of :func:`kernels.random_mask.random_mask`).
        mask_token: ``[D]``, floating.
        pos: ``[prefix + L, D]``, floating.
        prefix: Leading tokens that are not patches.

    Returns:
        ``[B, prefix + L, D]``.

    Raises:
        TypeError: A dtype is wrong.
        ValueError: Shapes or devices do not fit.
    """
    require_dtype("unshuffle(x)", x, FLOATS)
    require_dtype("unshuffle(ranks)", ranks, (torch.uint8,))
    require_dtype("unshuffle(mask_token)", mask_token, FLOATS)
    require_dtype("unshuffle(pos)", pos, FLOATS)
    require_shape("unshuffle(x)", x, (None, None, None), "[B, prefix + keep, D]")
    require_shape("unshuffle(ranks)", ranks, (x.shape[0], None), "[B, L]")
    require_shape("unshuffle(mask_token)", mask_token, (x.shape[2],), "[D]")
    require_shape("unshuffle(pos)", pos, (prefix + ranks.shape[1], x.shape[2]), "[prefix + L, D]")
    keep = x.shape[1] - prefix
    if not 0 <= keep <= ranks.shape[1]:
        raise ValueError(f"unshuffle(x): expected prefix + keep tokens, keep in 0..{ranks.shape[1]}; got keep = {keep}")
    for name, other in (("ranks", ranks), ("mask_token", mask_token), ("pos", pos)):
        require_device(f"unshuffle({name})", other, "x", x)
    out: Tensor = _unshuffle(x, ranks, mask_token, pos, prefix)
    return out


@torch.library.triton_op("eoforge::unshuffle", mutates_args={})
def _unshuffle(x: Tensor, ranks: Tensor, mask_token: Tensor, pos: Tensor, prefix: int) -> Tensor:
    if not through_kernel(x):
        return unshuffle_reference(x, ranks, mask_token, pos, prefix)
    out = torch.empty((x.shape[0], prefix + ranks.shape[1], x.shape[2]), dtype=x.dtype, device=x.device)
    launch_unshuffle(x.contiguous(), ranks.contiguous(), mask_token.contiguous(), pos.contiguous(), out, prefix)
    return out


@_unshuffle.register_fake
def _(x: Tensor, ranks: Tensor, mask_token: Tensor, pos: Tensor, prefix: int) -> Tensor:
    return x.new_empty((x.shape[0], prefix + ranks.shape[1], x.shape[2]))


@torch.library.triton_op("eoforge::unshuffle_backward", mutates_args={})
def _unshuffle_backward(grad: Tensor, ranks: Tensor, n_in: int, prefix: int) -> tuple[Tensor, Tensor]:
    """Gradients of ``x`` [B, n_in, D] and of the mask token, float32 [D]."""
    batch, _, dim = grad.shape
    if not through_kernel(grad):
        visible = ranks < n_in - prefix
        places = torch.where(visible, ranks.long() + prefix, n_in).unsqueeze(-1).expand(-1, -1, dim)
        grad_x = grad.new_zeros((batch, n_in + 1, dim)).scatter(1, places, grad[:, prefix:])[:, :n_in]
        grad_x = torch.cat([grad[:, :prefix], grad_x[:, prefix:]], dim=1)
        return grad_x, (grad[:, prefix:].float() * ~visible.unsqueeze(-1)).sum((0, 1))
    grad_x = torch.empty((batch, n_in, dim), dtype=grad.dtype, device=grad.device)
    partial = torch.empty((batch, dim), dtype=torch.float32, device=grad.device)
    launch_unshuffle_backward(grad.contiguous(), ranks.contiguous(), grad_x, partial, prefix)
    return grad_x, partial.sum(0)


@_unshuffle_backward.register_fake
def _(grad: Tensor, ranks: Tensor, n_in: int, prefix: int) -> tuple[Tensor, Tensor]:
    dim = grad.shape[2]
    return grad.new_empty((grad.shape[0], n_in, dim)), grad.new_empty(dim, dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ranks, mask_token, pos, prefix = inputs
    ctx.save_for_backward(ranks)
    ctx.n_in, ctx.prefix, ctx.mask_dtype, ctx.pos_dtype = x.shape[1], prefix, mask_token.dtype, pos.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (ranks,) = ctx.saved_tensors
    grad_x = grad_mask = grad_pos = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
        grad_x, grad_mask = _unshuffle_backward(grad, ranks, ctx.n_in, ctx.prefix)
        grad_mask = grad_mask.to(ctx.mask_dtype)
    if ctx.needs_input_grad[3]:
        grad_pos = grad.sum(0, dtype=torch.float32).to(ctx.pos_dtype)
    return grad_x, None, grad_mask, grad_pos, None


_unshuffle.register_autograd(_backward, setup_context=_setup_context)
