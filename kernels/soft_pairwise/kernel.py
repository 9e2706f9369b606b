# No `from __future__ import annotations` here: the interpreter does not recognise `tl.constexpr` spelled as a string.
"""Triton kernel: soft pairwise similarity loss and its gradient, tile by tile; no matrix of pairs is stored.

Letters: B rows that learn, N rows that they are compared with (the batch or a memory bank), K bits.
"""

import triton
import triton.language as tl

from kernels.nt_xent.kernel import product_tile, weighted_sum

CORRECTED: tl.constexpr = tl.constexpr(0)
PUBLISHED: tl.constexpr = tl.constexpr(1)
COSINE: tl.constexpr = tl.constexpr(2)
LABELS: tl.constexpr = tl.constexpr(32)


@triton.jit
def load_labels(masks_ptr, row, n_rows):
    """Label masks as zeros and ones, int32 [rows, 32]."""
    mask = tl.load(masks_ptr + row, mask=row < n_rows, other=0).to(tl.int32)
    return (mask[:, None] >> tl.arange(0, LABELS)[None, :]) & 1


@triton.jit(do_not_specialize=["n_rows", "n_others", "span", "alpha", "gamma"])
def soft_pairwise_kernel(
    codes_ptr, masks_ptr, inverse_ptr, others_ptr, other_masks_ptr, other_inverse_ptr, loss_ptr, grad_ptr,
    n_rows, n_others, span, alpha, gamma,
    K: tl.constexpr, FORM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_F: tl.constexpr,
):  # fmt: skip
    """loss[p, i] = sum_j f_ij and grad[p, i] = sum_j df_ij / du_i over the others of part p (span tiles of BLOCK_N).

    The third axis of the grid cuts the gradient's bits; the inverse lengths are read by the cosine form only.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    part = tl.program_id(1)
    bit = tl.program_id(2) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = row < n_rows
    labels = load_labels(masks_ptr, row, n_rows)
    size = tl.sum(labels, axis=1)
    labels = labels.to(tl.float16)
    loss = tl.zeros((BLOCK_M,), tl.float32)
    total = tl.zeros((BLOCK_M, BLOCK_F), tl.float32)
    if FORM == COSINE:
        mine = tl.load(inverse_ptr + row, mask=inside, other=0.0)
        along = tl.zeros((BLOCK_M,), tl.float32)
    first = part * span * BLOCK_N
    for start in range(first, tl.minimum(first + span * BLOCK_N, n_others), BLOCK_N):
        other = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        there = other < n_others
        other_labels = load_labels(other_masks_ptr, other, n_others)
        # Zeros and ones are exact, so the product counts the labels in common exactly.
        common = tl.dot(labels, tl.trans(other_labels.to(tl.float16)))
        sizes = (size[:, None] * tl.sum(other_labels, axis=1)[None, :]).to(tl.float32)
        similarity = common / tl.sqrt(tl.maximum(sizes, 1.0))
        product = product_tile(codes_ptr, others_ptr, row, other, n_rows, n_others, K, BLOCK_M, BLOCK_N, BLOCK_D)
        if FORM == COSINE:
            theirs = tl.load(other_inverse_ptr + other, mask=there, other=0.0)
            cosine = product * mine[:, None] * theirs[None, :]
            error = cosine - similarity
            value = error * error
            slope = 2.0 * error
        else:
            theta = alpha * product
            decay = tl.exp(-tl.abs(theta))
            hard = tl.log(1.0 + decay) + tl.maximum(theta, 0.0) - similarity * theta
            hard_slope = alpha * (tl.where(theta > 0, 1.0, decay) / (1.0 + decay) - similarity)
            reached = product if FORM == CORRECTED else theta
            error = reached + K - 2.0 * K * similarity
            soft_slope = 2.0 * gamma * error * (1.0 if FORM == CORRECTED else alpha)
            # With at most 32 labels no similarity lies in (0, 0.01) or (0.99, 1): hard pairs share nothing, or all.
            is_hard = (common < 0.5) | (similarity > 0.995)
            value = tl.where(is_hard, hard, gamma * error * error)
            slope = tl.where(is_hard, hard_slope, soft_slope)
        counts = inside[:, None] & there[None, :]
        loss += tl.sum(tl.where(counts, value, 0.0), axis=1)
        slope = tl.where(counts, slope, 0.0)
        if FORM == COSINE:
            along += tl.sum(slope * cosine, axis=1)
            slope = slope * theirs[None, :]
        v = tl.load(others_ptr + other[:, None] * K + bit[None, :], mask=there[:, None] & (bit < K)[None, :], other=0.0)
        total = weighted_sum(slope, v, total)
    real = inside[:, None] & (bit < K)[None, :]
    if FORM == COSINE:
        u = tl.load(codes_ptr + row[:, None] * K + bit[None, :], mask=real, other=0.0).to(tl.float32)
        total = mine[:, None] * (total - along[:, None] * mine[:, None] * u)
    place = part.to(tl.int64) * n_rows + row
    tl.store(loss_ptr + place, loss, mask=inside & (tl.program_id(2) == 0))
    tl.store(grad_ptr + place[:, None] * K + bit[None, :], total, mask=real)
