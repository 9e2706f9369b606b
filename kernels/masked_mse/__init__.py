"""Mean square error over masked patches, the target read in place from native grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels._runtime import FLOATS, cdiv, require_device, require_dtype, require_shape, through_kernel, wrap_triton
from kernels.masked_mse.kernel import masked_mse_kernel, scale_kernel
from kernels.masked_mse.reference import EPS, masked_mse_reference, masked_target
from kernels.patch_gather.sources import ChannelTable, check_sources, kernel_shape, three_pointers

__all__ = ["masked_mse", "masked_mse_reference", "masked_mse_value_and_grad", "masked_target"]

SCALE_BLOCK = 2048


def masked_mse(
    pred: Tensor,
    sources: Sequence[Tensor],
    ids: Tensor,
    table: ChannelTable,
    *,
    size: int,
    patch: int,
    flip: Tensor | None = None,
    pixel_major: bool = False,
    norm_pix: bool = False,
) -> Tensor:
    """Loss of predicted patches: mean over masked tokens of the mean square error of a token (MAE, CSMAE).

    The target of ``pred[b, m]`` is token ``ids[b, m]`` as :func:`kernels.patch_gather.patch_gather` would gather it
    (under ``norm_pix`` standardised by its own mean and unbiased variance), never stored. Differentiable in ``pred``.

    Args:
        pred: ``[B, M, C * patch * patch]``, predictions of masked tokens only; float32, bfloat16 or float16.
        sources: Images on their native grids, see ``patch_gather``.
        ids: uint8 ``[B, M]``, the masked tokens (``Mask.masked``).
        table: Which channel comes from where, and its normalisation.
        size: Side of the images after upsampling, in pixels.
        patch: Side of a patch in pixels.
        flip: uint8 ``[B]``: bit 0 left-right, bit 1 top-bottom.
        pixel_major: Order (p, q, c) within a token instead of (c, p, q).
        norm_pix: Standardise every target patch.

    Returns:
        float32 scalar; 0 if nothing is masked (the published formula would divide by zero).

    Raises:
        TypeError: A dtype is wrong.
        ValueError: Shapes, sizes or devices do not fit, or ``norm_pix`` on patches of one element.
    """
    _check(pred, sources, ids, table, flip, size, patch, norm_pix)
    loss, _ = _masked_mse(
        pred, list(sources), ids, table.where, table.norm, flip, size, patch, pixel_major, norm_pix, 1.0
    )
    return loss


def masked_mse_value_and_grad(
    pred: Tensor,
    sources: Sequence[Tensor],
    ids: Tensor,
    table: ChannelTable,
    *,
    size: int,
    patch: int,
    flip: Tensor | None = None,
    pixel_major: bool = False,
    norm_pix: bool = False,
) -> tuple[Tensor, Tensor]:
    """The loss and its gradient in one pass, for a caller that knows its upstream gradient is 1.

    Feed the gradient with ``pred.backward(grad)``: it saves the pass over memory that autograd's scaling needs. In
    float16 the unscaled gradient of a large batch underflows; use :func:`masked_mse` there.

    Args and errors are those of :func:`masked_mse`.

    Returns:
        ``(loss float32 scalar, gradient [B, M, C * patch * patch] in the dtype of pred)``; neither carries a graph.
    """
    _check(pred, sources, ids, table, flip, size, patch, norm_pix)
    scale = 2.0 / max(pred.numel(), 1)
    loss, grad = _masked_mse(
        pred.detach(), list(sources), ids, table.where, table.norm, flip, size, patch, pixel_major, norm_pix, scale
    )
    return loss, grad


def _check(
    pred: Tensor, sources: Sequence[Tensor], ids: Tensor, table: ChannelTable, flip: Tensor | None, size: int,
    patch: int, norm_pix: bool,
) -> None:  # fmt: skip
    check_sources("masked_mse", sources, ids, table, flip, size, patch)
    elements = table.where.shape[0] * patch * patch
    require_dtype("masked_mse(pred)", pred, FLOATS)
    require_shape("masked_mse(pred)", pred, (*ids.shape, elements), "[B, M, C p p]")
    require_device("masked_mse(pred)", pred, "ids", ids)
    if norm_pix and elements < 2:
        raise ValueError("masked_mse(norm_pix): expected patches of two or more elements; got 1 (no variance)")


@torch.library.triton_op("eoforge::masked_mse", mutates_args={})
def _masked_mse(
    pred: Tensor,
    sources: list[Tensor],
    ids: Tensor,
    where: Tensor,
    norm: Tensor,
    flip: Tensor | None,
    size: int,
    patch: int,
    pixel_major: bool,
    norm_pix: bool,
    residual_scale: float,
) -> tuple[Tensor, Tensor]:
    """The loss, and ``(pred - target) * residual_scale`` in the dtype of ``pred``."""
    if not through_kernel(pred):
        target = masked_target(sources, ids, where, norm, flip, size, patch, pixel_major, norm_pix)
        return masked_mse_reference(pred, target), ((pred.float() - target) * residual_scale).to(pred.dtype)
    residual = torch.empty(pred.shape, dtype=pred.dtype, device=pred.device)
    if pred.numel() == 0:
        return torch.zeros((), device=pred.device), residual
    sums = torch.empty(ids.shape, dtype=torch.float32, device=pred.device)
    ids = ids if ids.stride(1) == 1 else ids.contiguous()
    shape = kernel_shape(sources, where.shape[0], size, patch, flip is not None)
    with torch.cuda.device_of(pred):  # type: ignore[no-untyped-call]  # torch leaves its __init__ untyped
        wrap_triton(masked_mse_kernel)[tuple(ids.shape)](
            pred.contiguous(), *three_pointers(sources), where.contiguous(), norm.contiguous(),
            ids if flip is None else flip, ids, sums, residual, ids.shape[1], ids.stride(0), residual_scale,
            **shape, PIXEL_MAJOR=pixel_major, NORM_PIX=norm_pix, EPS=EPS,
        )  # fmt: skip
    # One partial sum per token, added by PyTorch in a fixed order: no atomics, so runs are identical.
    return sums.sum() / pred.numel(), residual


@_masked_mse.register_fake
def _(pred: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return pred.new_empty((), dtype=torch.float32), torch.empty(pred.shape, dtype=pred.dtype, device=pred.device)


@torch.library.triton_op("eoforge::masked_mse_backward", mutates_args={})
def _masked_mse_backward(residual: Tensor, grad: Tensor) -> Tensor:
    """``2 (pred - target) grad / (tokens * elements)`` from the saved residual."""
    n_elements = residual.numel()
    factor = 2.0 / max(n_elements, 1)
    if not through_kernel(residual):
        return (residual.float() * (grad * factor)).to(residual.dtype)
    out = torch.empty(residual.shape, dtype=residual.dtype, device=residual.device)
    if n_elements:
        with torch.cuda.device_of(residual):  # type: ignore[no-untyped-call]  # torch leaves its __init__ untyped
            wrap_triton(scale_kernel)[(cdiv(n_elements, SCALE_BLOCK),)](
                residual, grad, out, n_elements, factor, BLOCK=SCALE_BLOCK, num_warps=4
            )
    return out


@_masked_mse_backward.register_fake
def _(residual: Tensor, grad: Tensor) -> Tensor:
    return torch.empty_like(residual)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.factor, ctx.n_sources = 1.0 / inputs[-1], len(inputs[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    (residual,) = ctx.saved_tensors
    return _masked_mse_backward(residual, grad * ctx.factor), [None] * ctx.n_sources, *[None] * 9


_masked_mse.register_autograd(_backward, setup_context=_setup_context)
