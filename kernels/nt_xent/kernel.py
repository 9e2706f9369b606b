# No `from __future__ import annotations` here: the interpreter does not recognise `tl.constexpr` spelled as a string.
"""Triton kernels: contrast over 2B features, and nearest neighbours, tile by tile; no matrix of pairs is stored.

Letters: N rows (2B for the contrast), D features, tiles of BLOCK_M rows x BLOCK_N other rows, BLOCK_D features a
product step, BLOCK_F features of the result a program.
"""

import triton
import triton.language as tl

EPS: tl.constexpr = tl.constexpr(1e-12)  # least length, as torch.nn.functional.normalize has it


@triton.jit
def weighted_sum(weights, values, total):
    """``total + weights @ values`` to float32 accuracy, weights float32 [M, N], values [N, F] as stored.

    bfloat16 has float32's range, so weights split into a bfloat16 and its rest need two products; the other types take
    three on the tensor cores' tf32.
    """
    if values.dtype == tl.bfloat16:
        high = weights.to(tl.bfloat16)
        low = (weights - high.to(tl.float32)).to(tl.bfloat16)
        return tl.dot(low, values, tl.dot(high, values, total))
    return tl.dot(weights, values.to(tl.float32), total, input_precision="tf32x3")


@triton.jit
def product_tile(x_ptr, y_ptr, row, other, n_rows, n_others, D: tl.constexpr, BLOCK_M: tl.constexpr,
                 BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr = "tf32x3"):  # fmt: skip
    """float32 [BLOCK_M, BLOCK_N]: products of rows of x and y as stored (exact factors, float32 sums)."""
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        a = tl.load(x_ptr + row[:, None] * D + d[None, :], mask=(row < n_rows)[:, None] & (d < D)[None, :], other=0.0)
        b = tl.load(
            y_ptr + other[None, :] * D + d[:, None], mask=(other < n_others)[None, :] & (d < D)[:, None], other=0.0
        )
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=["n_rows"])
def inverse_norm_kernel(x_ptr, inverse_ptr, n_rows, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
    """inverse[i] = 1 / max(|x_i|, eps)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = row < n_rows
    squares = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x = tl.load(x_ptr + row[:, None] * D + d[None, :], mask=inside[:, None] & (d < D)[None, :], other=0.0)
        squares += x.to(tl.float32) * x.to(tl.float32)
    norm = tl.sqrt(tl.sum(squares, axis=1))
    tl.store(inverse_ptr + row, 1.0 / tl.maximum(norm, EPS), mask=inside)


@triton.jit(do_not_specialize=["n_rows", "scale"])
def nt_xent_kernel(
    x_ptr, inverse_ptr, lse_ptr, loss_ptr, n_rows, scale,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """lse[i] = log sum_{j != i} exp(s_ij), its maximum carried along; loss[i] = lse[i] - s_i,partner; s = scale cos."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = row < n_rows
    pairs = n_rows // 2
    partner = tl.where(row < pairs, row + pairs, row - pairs)
    mine = tl.load(inverse_ptr + row, mask=inside, other=0.0) * scale
    # The first tile holds columns 0 and 1, one of which is another row: the maximum is finite from then on.
    greatest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    positive = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, n_rows, BLOCK_N):
        other = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        theirs = tl.load(inverse_ptr + other, mask=other < n_rows, other=0.0)
        s = product_tile(x_ptr, x_ptr, row, other, n_rows, n_rows, D, BLOCK_M, BLOCK_N, BLOCK_D)
        s = s * mine[:, None] * theirs[None, :]
        positive += tl.sum(tl.where(other[None, :] == partner[:, None], s, 0.0), axis=1)
        s = tl.where((other[None, :] != row[:, None]) & (other < n_rows)[None, :], s, float("-inf"))
        higher = tl.maximum(greatest, tl.max(s, axis=1))
        total = total * tl.exp(greatest - higher) + tl.sum(tl.exp(s - higher[:, None]), axis=1)
        greatest = higher
    lse = greatest + tl.log(total)
    tl.store(lse_ptr + row, lse, mask=inside)
    tl.store(loss_ptr + row, lse - positive, mask=inside)


@triton.jit(do_not_specialize=["n_rows", "scale"])
def nt_xent_backward_kernel(
    x_ptr, inverse_ptr, lse_ptr, grad_ptr, out_ptr, n_rows, scale,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Gradient of the mean loss: similarities are computed again, and weigh the other rows.

    With G_ij = P_ij + P_ji - 2 [j = partner of i], z unit rows and w = grad scale / N:
    out_i = w / |x_i| (sum_j G_ij z_j - (sum_j G_ij cos_ij) z_i).
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    feature = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = row < n_rows
    wide = feature < D
    pairs = n_rows // 2
    partner = tl.where(row < pairs, row + pairs, row - pairs)
    mine = tl.load(inverse_ptr + row, mask=inside, other=0.0)
    lse_mine = tl.load(lse_ptr + row, mask=inside, other=0.0)
    total = tl.zeros((BLOCK_M, BLOCK_F), tl.float32)
    along = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, n_rows, BLOCK_N):
        other = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        there = other < n_rows
        theirs = tl.load(inverse_ptr + other, mask=there, other=0.0)
        lse_theirs = tl.load(lse_ptr + other, mask=there, other=0.0)
        product = product_tile(x_ptr, x_ptr, row, other, n_rows, n_rows, D, BLOCK_M, BLOCK_N, BLOCK_D)
        cosine = product * mine[:, None] * theirs[None, :]
        counts = (other[None, :] != row[:, None]) & there[None, :] & inside[:, None]
        s = tl.where(counts, cosine * scale, float("-inf"))
        weight = tl.exp(s - lse_mine[:, None]) + tl.exp(s - lse_theirs[None, :])
        weight -= tl.where((other[None, :] == partner[:, None]) & inside[:, None], 2.0, 0.0)
        along += tl.sum(weight * cosine, axis=1)
        x = tl.load(x_ptr + other[:, None] * D + feature[None, :], mask=there[:, None] & wide[None, :], other=0.0)
        total = weighted_sum(weight * theirs[None, :], x, total)
    offset = row[:, None] * D + feature[None, :]
    real = inside[:, None] & wide[None, :]
    x = tl.load(x_ptr + offset, mask=real, other=0.0).to(tl.float32)
    factor = tl.load(grad_ptr).to(tl.float32) * scale / n_rows
    grad = factor * mine[:, None] * (total - along[:, None] * mine[:, None] * x)
    tl.store(out_ptr + offset, grad.to(out_ptr.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["n_rows"])
def neighbour_kernel(
    x_ptr, neighbour_ptr, cosine_ptr, inverse_ptr, n_rows,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The nearest other row by Euclidean distance, the lowest on ties; the cosine to it; 1 / |x|.

    Distances are sums of squared differences: products would lose small distances between long rows to cancellation.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = row < n_rows
    least = tl.full((BLOCK_M,), float("inf"), tl.float32)
    nearest = tl.where(row == 0, 1, 0)
    for start in range(0, n_rows, BLOCK_N):
        other = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        there = other < n_rows
        distance = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for d in range(D):
            a = tl.load(x_ptr + row * D + d, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(x_ptr + other * D + d, mask=there, other=0.0).to(tl.float32)
            difference = a[:, None] - b[None, :]
            distance += difference * difference
        distance = tl.where((other[None, :] != row[:, None]) & there[None, :], distance, float("inf"))
        here = tl.min(distance, axis=1)
        column = tl.min(tl.where(distance == here[:, None], other[None, :].to(tl.int32), 0x7FFFFFFF), axis=1)
        nearest = tl.where(here < least, column, nearest)  # an equal one further on has a higher index
        least = tl.minimum(here, least)
    product = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    squares = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    squares_near = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        real = inside[:, None] & (d < D)[None, :]
        a = tl.load(x_ptr + row[:, None] * D + d[None, :], mask=real, other=0.0).to(tl.float32)
        b = tl.load(x_ptr + nearest.to(tl.int64)[:, None] * D + d[None, :], mask=real, other=0.0).to(tl.float32)
        product += a * b
        squares += a * a
        squares_near += b * b
    mine = 1.0 / tl.maximum(tl.sqrt(tl.sum(squares, axis=1)), EPS)
    theirs = 1.0 / tl.maximum(tl.sqrt(tl.sum(squares_near, axis=1)), EPS)
    tl.store(neighbour_ptr + row, nearest, mask=inside)
    tl.store(cosine_ptr + row, tl.sum(product, axis=1) * mine * theirs, mask=inside)
    tl.store(inverse_ptr + row, mine, mask=inside)


@triton.jit(do_not_specialize=["n_rows"])
def neighbour_backward_kernel(
    x_ptr, neighbour_ptr, cosine_ptr, inverse_ptr, grad_ptr, out_ptr, n_rows,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Gradient of the mean cosine: each row gathers from its neighbour and from those whose neighbour it is.

    Rows gather instead of scattering, so a row that many share is summed in one order.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    feature = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = row < n_rows
    wide = feature < D
    real = inside[:, None] & wide[None, :]
    nearest = tl.load(neighbour_ptr + row, mask=inside, other=0).to(tl.int64)
    mine = tl.load(inverse_ptr + row, mask=inside, other=0.0)
    along = tl.load(cosine_ptr + row, mask=inside, other=0.0)
    near = tl.load(x_ptr + nearest[:, None] * D + feature[None, :], mask=real, other=0.0).to(tl.float32)
    total = near * tl.load(inverse_ptr + nearest, mask=inside, other=0.0)[:, None]
    for start in range(0, n_rows, BLOCK_N):
        other = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        there = other < n_rows
        theirs = tl.load(neighbour_ptr + other, mask=there, other=-1)
        hit = theirs[None, :] == row[:, None].to(tl.int32)
        if tl.sum(tl.sum(hit.to(tl.int32), axis=1), axis=0) > 0:
            along += tl.sum(tl.where(hit, tl.load(cosine_ptr + other, mask=there, other=0.0)[None, :], 0.0), axis=1)
            weight = tl.where(hit, tl.load(inverse_ptr + other, mask=there, other=0.0)[None, :], 0.0)
            fans = tl.load(
                x_ptr + other[:, None] * D + feature[None, :], mask=there[:, None] & wide[None, :], other=0.0
            )
            total = weighted_sum(weight, fans, total)
    offset = row[:, None] * D + feature[None, :]
    x = tl.load(x_ptr + offset, mask=real, other=0.0).to(tl.float32)
    factor = tl.load(grad_ptr).to(tl.float32) / n_rows
    grad = factor * mine[:, None] * (total - along[:, None] * mine[:, None] * x)
    tl.store(out_ptr + offset, grad.to(out_ptr.dtype.element_ty), mask=real)
