# No `from __future__ import annotations` here: the interpreter does not recognise `tl.constexpr` spelled as a string.
"""Triton kernels: loss over masked patches with the target read in place, and the scaling of its gradient."""

import triton
import triton.language as tl

from kernels.patch_gather.kernel import element_index, load_patch


@triton.jit(do_not_specialize=["n_tokens", "ids_stride", "residual_scale"])
def masked_mse_kernel(
    pred_ptr, s0_ptr, s1_ptr, s2_ptr, where_ptr, norm_ptr, flip_ptr, ids_ptr, sums_ptr, residual_ptr,
    n_tokens, ids_stride, residual_scale,
    C0: tl.constexpr, N0: tl.constexpr, C1: tl.constexpr, N1: tl.constexpr, C2: tl.constexpr, N2: tl.constexpr,
    SIZE: tl.constexpr, PATCH: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    FLIPPED: tl.constexpr, PIXEL_MAJOR: tl.constexpr, NORM_PIX: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """sums[b, m] = sum of (pred - target)^2 of one token; residual = (pred - target) * residual_scale."""
    sample = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1)
    token = tl.load(ids_ptr + sample * ids_stride + slot).to(tl.int32)
    target, real = load_patch(
        s0_ptr, s1_ptr, s2_ptr, where_ptr, norm_ptr, flip_ptr, sample, token,
        C0, N0, C1, N1, C2, N2, SIZE, PATCH, CHANNELS, BLOCK_C, BLOCK_P, FLIPPED,
    )  # fmt: skip
    N: tl.constexpr = CHANNELS * PATCH * PATCH
    if NORM_PIX:
        # Two passes over registers: the mean first, so that the variance of large reflectances loses no digits.
        mean = tl.sum(tl.sum(tl.where(real, target, 0.0), axis=1), axis=0) / N
        target = tl.where(real, target - mean, 0.0)
        variance = tl.sum(tl.sum(target * target, axis=1), axis=0) / (N - 1)
        target = target / tl.sqrt(variance + EPS)
    element = element_index(BLOCK_C, BLOCK_P, CHANNELS, PATCH, PIXEL_MAJOR)
    base = (sample * n_tokens + slot) * N
    pred = tl.load(pred_ptr + base + element, mask=real, other=0.0).to(tl.float32)
    difference = tl.where(real, pred - target, 0.0)
    tl.store(sums_ptr + sample * n_tokens + slot, tl.sum(tl.sum(difference * difference, axis=1), axis=0))
    residual = (difference * residual_scale).to(residual_ptr.dtype.element_ty)
    tl.store(residual_ptr + base + element, residual, mask=real)


@triton.jit(do_not_specialize=["n_elements", "factor"])
def scale_kernel(residual_ptr, grad_ptr, out_ptr, n_elements, factor, BLOCK: tl.constexpr):
    """out = residual * (grad * factor), the upstream gradient read on the device."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < n_elements
    scale = tl.load(grad_ptr).to(tl.float32) * factor
    residual = tl.load(residual_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + offset, (residual * scale).to(out_ptr.dtype.element_ty), mask=inside)
