# No `from __future__ import annotations` here: the interpreter does not recognise `tl.constexpr` spelled as a string.
"""Triton kernel: soft pairwise similarity loss and its gradient, tile by tile; no matrix of pairs is stored.

Letters: B rows that learn, N rows that they are compared with (the batch or a memory bank), K bits.
"""

import triton
import triton.language as tl

from kernels.hamming_topk.kernel import popcount
from kernels.nt_xent.kernel import product_tile

CORRECTED: tl.constexpr = tl.constexpr(0)
PUBLISHED: tl.constexpr = tl.constexpr(1)
COSINE: tl.constexpr = tl.constexpr(2)
LABELS: tl.constexpr = tl.constexpr(32)


@triton.jit
def load_labels(masks_ptr, row, n_rows):
    """Label masks as zeros and ones, float16 [rows, 32], and 1 / sqrt(number of labels), 1 for a row without any."""
    mask = tl.load(masks_ptr + row, mask=row < n_rows, other=0).to(tl.uint32)
    labels = ((mask[:, None] >> tl.arange(0, LABELS)[None, :].to(tl.uint32)) & 1).to(tl.float16)
    return labels, tl.rsqrt(tl.maximum(popcount(mask).to(tl.float32), 1.0))


@triton.jit
def log_of_one_plus(x):
    """log(1 + x) for x in [0, 1] within 3e-8 (Abramowitz and Stegun 4.1.44): eight products and no special function."""
    p = 0.0360884937 - 0.0064535442 * x
    p = -0.0953293897 + p * x
    p = 0.1676540711 + p * x
    p = -0.2407338084 + p * x
    p = 0.3317990258 + p * x
    p = -0.4998741238 + p * x
    return (0.9999964239 + p * x) * x


@triton.jit(do_not_specialize=["n_rows", "n_others", "span", "alpha", "gamma"])
def soft_pairwise_kernel(
    codes_ptr, masks_ptr, inverse_ptr, others_ptr, other_masks_ptr, other_inverse_ptr, loss_ptr, grad_ptr,
    n_rows, n_others, span, alpha, gamma,
    K: tl.constexpr, FORM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_F: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """loss[p, i] = sum_j f_ij and grad[p, i] = sum_j df_ij / du_i over the others of part p (span tiles of BLOCK_N).

    The third axis of the grid cuts the gradient's bits; the inverse lengths are read by the cosine form only. Where a
    code is no wider than a tile, rows stay on the chip and one load of the others serves both products.

    Others past the end have no code, so no slope of theirs counts; only their value must be left out of the loss.
    """
    WHOLE: tl.constexpr = (K <= BLOCK_D) and (K <= BLOCK_F)
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    part = tl.program_id(1)
    bit = tl.program_id(2) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = row < n_rows
    real = inside[:, None] & (bit < K)[None, :]
    labels, scale = load_labels(masks_ptr, row, n_rows)
    loss = tl.zeros((BLOCK_M,), tl.float32)
    total = tl.zeros((BLOCK_M, BLOCK_F), tl.float32)
    if WHOLE:
        u = tl.load(codes_ptr + row[:, None] * K + bit[None, :], mask=real, other=0.0)
    if FORM == COSINE:
        mine = tl.load(inverse_ptr + row, mask=inside, other=0.0)
        along = tl.zeros((BLOCK_M,), tl.float32)
    first = part * span * BLOCK_N
    for start in range(first, tl.minimum(first + span * BLOCK_N, n_others), BLOCK_N):
        other = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        there = other < n_others
        real_v = there[:, None] & (bit < K)[None, :]
        if WHOLE:
            v = tl.load(others_ptr + other[:, None] * K + bit[None, :], mask=real_v, other=0.0)
            product = tl.dot(u, tl.trans(v), input_precision=PRECISION)
        else:
            product = product_tile(
                codes_ptr, others_ptr, row, other, n_rows, n_others, K, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION
            )
        other_labels, other_scale = load_labels(other_masks_ptr, other, n_others)
        # Zeros and ones are exact, so the product counts the labels in common exactly.
        common = tl.dot(labels, tl.trans(other_labels))
        similarity = common * scale[:, None] * other_scale[None, :]
        if FORM == COSINE:
            theirs = tl.load(other_inverse_ptr + other, mask=there, other=0.0)
            cosine = product * mine[:, None] * theirs[None, :]
            error = cosine - similarity
            value = error * error
            along += tl.sum(2.0 * error * cosine, axis=1)
            slope = 2.0 * error * theirs[None, :]
        else:
            theta = alpha * product
            decay = tl.exp(-tl.abs(theta))
            hard = log_of_one_plus(decay) + tl.maximum(theta, 0.0) - similarity * theta
            hard_slope = alpha * (tl.where(theta > 0, 1.0, decay) / (1.0 + decay) - similarity)
            reached = product if FORM == CORRECTED else theta
            error = reached + K - 2.0 * K * similarity
            soft_slope = 2.0 * gamma * (1.0 if FORM == CORRECTED else alpha) * error
            # With at most 32 labels no similarity lies in (0, 0.01) or (0.99, 1): hard pairs share nothing, or all.
            is_hard = (common < 0.5) | (similarity > 0.995)
            value = tl.where(is_hard, hard, gamma * error * error)
            slope = tl.where(is_hard, hard_slope, soft_slope)
        loss += tl.sum(tl.where(there[None, :], value, 0.0), axis=1)
        if not WHOLE:
            v = tl.load(others_ptr + other[:, None] * K + bit[None, :], mask=real_v, other=0.0)
        # A slope in bf16 is rounded as PyTorch's backward pass rounds it; sums over others are in float32.
        weights = slope.to(tl.bfloat16) if v.dtype == tl.bfloat16 else slope
        values = v if v.dtype == tl.bfloat16 else v.to(tl.float32)
        total = tl.dot(weights, values, total, input_precision=PRECISION)
    if FORM == COSINE:
        mine_u = tl.load(codes_ptr + row[:, None] * K + bit[None, :], mask=real, other=0.0).to(tl.float32)
        total = mine[:, None] * (total - along[:, None] * mine[:, None] * mine_u)
    place = part.to(tl.int64) * n_rows + row
    tl.store(loss_ptr + place, loss, mask=inside & (tl.program_id(2) == 0))
    tl.store(grad_ptr + place[:, None] * K + bit[None, :], total, mask=real)
