# No `from __future__ import annotations` here: the interpreter does not recognise `tl.constexpr` spelled as a string.
"""Triton kernels: tanh codes, packed bits and the sums of three regularisers in one pass; and their gradient.

Letters: S sensors (one or two), B samples, K bits, K_P2 the next power of two, ROWS samples a tile.
"""

import triton
import triton.language as tl

REDUCE_TILE: tl.constexpr = tl.constexpr(8192)  # partial sums that the last program loads at once, 32 a thread


@triton.jit
def tanh_and_slope(x):
    """tanh(x) and 1 - tanh(x)^2 by one exponential; a series near 0, where the quotient loses digits."""
    decay = tl.exp2(tl.abs(x) * -2.8853900817779268)  # exp(-2 |x|) lies in (0, 1]: nothing overflows
    far = (1.0 - decay) / (1.0 + decay)
    square = x * x
    near = x * (1.0 + square * (-1.0 / 3 + square * (2.0 / 15 + square * (-17.0 / 315))))
    h = tl.where(square < 0.04, near, tl.where(x < 0, -far, far))
    return h, 4.0 * decay / ((1.0 + decay) * (1.0 + decay))


@triton.jit
def store_sensor(x, codes_ptr, packed_ptr, row, column, real, K: tl.constexpr, K_P2: tl.constexpr, ROWS: tl.constexpr):
    """Writes tanh(x) and the packed signs of one tile; returns tanh(x), 0 beyond the end."""
    h, _ = tanh_and_slope(x)
    tl.store(codes_ptr + row[:, None] * K + column[None, :], h.to(codes_ptr.dtype.element_ty), mask=real)
    bit = tl.reshape((x > 0).to(tl.int32), (ROWS, K_P2 // 8, 8)) << tl.arange(0, 8)[None, None, :]
    byte = tl.arange(0, K_P2 // 8)
    # A whole row is inside or not, so its first column says it for the bytes too.
    inside = tl.max(real.to(tl.int32), axis=1) > 0
    pointers = packed_ptr + row[:, None] * (K // 8) + byte[None, :]
    tl.store(pointers, tl.sum(bit, axis=2).to(tl.uint8), mask=inside[:, None] & (byte < K // 8)[None, :])
    return h


@triton.jit(do_not_specialize=["n_rows", "quantisation_scale", "bits_scale", "samples_scale"])
def hash_head_kernel(
    first_ptr, second_ptr, codes_a_ptr, codes_b_ptr, packed_ptr, partial_ptr, ticket_ptr, sums_ptr, terms_ptr,
    n_rows, quantisation_scale, bits_scale, samples_scale,
    K: tl.constexpr, K_P2: tl.constexpr, ROWS: tl.constexpr, SENSORS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Persistent programs; each leaves its partial sums, and the last to finish adds them up in program order.

    partial float32 [P, S * K_P2 + 2]; sums float32 [S, K]: outputs summed over samples; terms float32 [3].
    """
    program, n_programs = tl.program_id(0), tl.num_programs(0)
    column = tl.arange(0, K_P2)
    per_bit_a = tl.zeros((ROWS, K_P2), tl.float32)
    per_bit_b = tl.zeros((ROWS, K_P2), tl.float32)
    errors = tl.zeros((ROWS, K_P2), tl.float32)
    per_sample = tl.zeros((ROWS,), tl.float32)
    for tile in tl.range(program, tl.cdiv(n_rows, ROWS), n_programs, num_stages=STAGES):
        row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        real = (row < n_rows)[:, None] & (column < K)[None, :]
        offset = row[:, None] * K + column[None, :]
        a = tl.load(first_ptr + offset, mask=real, other=0.0).to(tl.float32)
        positive = a > 0
        if SENSORS == 2:
            b = tl.load(second_ptr + offset, mask=real, other=0.0).to(tl.float32)
            positive = a > -b
        target = tl.where(positive, 1.0, -1.0)
        h = store_sensor(a, codes_a_ptr, packed_ptr, row, column, real, K, K_P2, ROWS)
        errors += tl.where(real, (target - h) * (target - h), 0.0)
        line = tl.sum(h, axis=1)
        per_sample += line * line
        per_bit_a += h
        if SENSORS == 2:
            packed_b_ptr = packed_ptr + n_rows.to(tl.int64) * (K // 8)
            h = store_sensor(b, codes_b_ptr, packed_b_ptr, row, column, real, K, K_P2, ROWS)
            errors += tl.where(real, (target - h) * (target - h), 0.0)
            line = tl.sum(h, axis=1)
            per_sample += line * line
            per_bit_b += h

    WIDTH: tl.constexpr = SENSORS * K_P2 + 2
    mine = partial_ptr + program * WIDTH
    tl.store(mine + column, tl.sum(per_bit_a, axis=0))
    if SENSORS == 2:
        tl.store(mine + K_P2 + column, tl.sum(per_bit_b, axis=0))
    tl.store(mine + SENSORS * K_P2, tl.sum(tl.sum(errors, axis=1), axis=0))
    tl.store(mine + SENSORS * K_P2 + 1, tl.sum(per_sample, axis=0))
    tl.debug_barrier()  # all threads of the program have written before one of them draws the ticket
    if tl.atomic_add(ticket_ptr, 1, sem="acq_rel") == n_programs - 1:
        # Every load of partial sums waits for the L2 cache, so few great ones: a small batch is bound by this.
        REDUCE_BLOCK: tl.constexpr = max(min(REDUCE_TILE // K_P2, 256), 1)
        squares = 0.0
        for sensor in tl.static_range(SENSORS):
            total = tl.zeros((K_P2,), tl.float32)
            for start in range(0, n_programs, REDUCE_BLOCK):
                other = start + tl.arange(0, REDUCE_BLOCK)
                pointers = partial_ptr + other[:, None] * WIDTH + sensor * K_P2 + column[None, :]
                # .cg: past the L1 cache, which other programs' writes do not reach.
                part = tl.load(pointers, mask=(other < n_programs)[:, None], other=0.0, cache_modifier=".cg")
                total += tl.sum(part, axis=0)
            tl.store(sums_ptr + sensor * K + column, total, mask=column < K)
            squares += tl.sum(total * total, axis=0)
        error = tl.zeros((REDUCE_BLOCK,), tl.float32)
        lines = tl.zeros((REDUCE_BLOCK,), tl.float32)
        for start in range(0, n_programs, REDUCE_BLOCK):
            other = start + tl.arange(0, REDUCE_BLOCK)
            pointers = partial_ptr + other * WIDTH + SENSORS * K_P2
            error += tl.load(pointers, mask=other < n_programs, other=0.0, cache_modifier=".cg")
            lines += tl.load(pointers + 1, mask=other < n_programs, other=0.0, cache_modifier=".cg")
        tl.store(terms_ptr, tl.sum(error, axis=0) * quantisation_scale)
        tl.store(terms_ptr + 1, tl.sum(lines, axis=0) * bits_scale)
        tl.store(terms_ptr + 2, squares * samples_scale)


@triton.jit
def store_gradient(
    x, target, grad_ptr, sums_ptr, out_ptr, offset, column, real, w_quantisation, w_bits, w_samples,
    K: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of one sensor's tile of logits."""
    h, slope = tanh_and_slope(x)
    total = tl.load(sums_ptr + column, mask=column < K, other=0.0)
    grad = w_quantisation * (h - target) + w_bits * tl.sum(h, axis=1)[:, None] + w_samples * total[None, :]
    if GIVEN:
        grad += tl.load(grad_ptr + offset, mask=real, other=0.0).to(tl.float32)
    tl.store(out_ptr + offset, (grad * slope).to(out_ptr.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["n_rows", "quantisation_scale", "bits_scale", "samples_scale"])
def hash_head_backward_kernel(
    first_ptr, second_ptr, grad_a_ptr, grad_b_ptr, grad_terms_ptr, sums_ptr, out_a_ptr, out_b_ptr,
    n_rows, quantisation_scale, bits_scale, samples_scale,
    K: tl.constexpr, K_P2: tl.constexpr, ROWS: tl.constexpr, SENSORS: tl.constexpr,
    GIVEN_A: tl.constexpr, GIVEN_B: tl.constexpr,
):  # fmt: skip
    """out = (grad + 2 w_q (h - target) + 2 w_b sum_k h + 2 w_s sum_i h) (1 - h^2), everything from the logits."""
    column = tl.arange(0, K_P2)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = (row < n_rows)[:, None] & (column < K)[None, :]
    offset = row[:, None] * K + column[None, :]
    w_quantisation = 2.0 * quantisation_scale * tl.load(grad_terms_ptr)
    w_bits = 2.0 * bits_scale * tl.load(grad_terms_ptr + 1)
    w_samples = 2.0 * samples_scale * tl.load(grad_terms_ptr + 2)
    a = tl.load(first_ptr + offset, mask=real, other=0.0).to(tl.float32)
    positive = a > 0
    if SENSORS == 2:
        b = tl.load(second_ptr + offset, mask=real, other=0.0).to(tl.float32)
        positive = a > -b
    target = tl.where(positive, 1.0, -1.0)
    store_gradient(
        a, target, grad_a_ptr, sums_ptr, out_a_ptr, offset, column, real, w_quantisation, w_bits, w_samples, K, GIVEN_A
    )
    if SENSORS == 2:
        store_gradient(
            b, target, grad_b_ptr, sums_ptr + K, out_b_ptr, offset, column, real, w_quantisation, w_bits, w_samples,
            K, GIVEN_B,
        )  # fmt: skip
