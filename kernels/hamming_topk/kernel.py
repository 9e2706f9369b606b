# No `from __future__ import annotations` here: the interpreter does not recognise `tl.constexpr` spelled as a string.
"""Triton kernels of exact Hamming search: group minima, counting select, rescan, counting select, order.

Letters: Q queries, N codes, K bits, groups of GROUP contiguous codes, UNITS a code (int32 words; bytes if K % 32 != 0).
"""

import triton
import triton.language as tl


@triton.jit
def popcount(v):
    """Set bits of uint32 lanes; LLVM recognises the pattern and emits one ``popc`` (a test reads the PTX)."""
    v = v - ((v >> 1) & 0x55555555)
    v = (v & 0x33333333) + ((v >> 2) & 0x33333333)
    v = (v + (v >> 4)) & 0x0F0F0F0F
    return (v * 0x01010101) >> 24


@triton.jit
def is_allowed(allow_ptr, row, mask, FILTERED: tl.constexpr):
    """``mask``, and where a bitmap filters, only rows whose bit is set."""
    if FILTERED:
        byte = tl.load(allow_ptr + (row >> 3), mask=mask, other=0).to(tl.int32)
        mask = mask & (((byte >> (row & 7).to(tl.int32)) & 1) != 0)
    return mask


@triton.jit
def load_units(codes_ptr, row, mask, UNITS: tl.constexpr, UNITS_P2: tl.constexpr):
    """uint32 [rows, UNITS_P2]: the codes of ``row``, padded with zeros."""
    unit = tl.arange(0, UNITS_P2)
    pointers = codes_ptr + row[:, None] * UNITS + unit[None, :]
    return tl.load(pointers, mask=mask[:, None] & (unit < UNITS)[None, :], other=0).to(tl.uint32)


@triton.jit
def load_query(queries_ptr, query, UNITS: tl.constexpr, UNITS_P2: tl.constexpr):
    """uint32 [1, UNITS_P2]: one query, padded with zeros (so the padding adds no distance)."""
    unit = tl.arange(0, UNITS_P2)
    return tl.load(queries_ptr + query * UNITS + unit, mask=unit < UNITS, other=0).to(tl.uint32)[None, :]


@triton.jit(do_not_specialize=["n_queries", "n_codes", "n_groups"])
def scan_few_kernel(
    queries_ptr, codes_ptr, allow_ptr, minima_ptr, n_queries, n_codes, n_groups,
    NONE: tl.constexpr, UNITS: tl.constexpr, UNITS_P2: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
    QUERIES: tl.constexpr, FILTERED: tl.constexpr,
):  # fmt: skip
    """Least distance of every group, by popcount: codes are read once and stay in registers for QUERIES queries."""
    block = tl.program_id(0).to(tl.int64)
    row = block * BLOCK + tl.arange(0, BLOCK)
    inside = row < n_codes
    codes = load_units(codes_ptr, row, inside, UNITS, UNITS_P2)
    live = is_allowed(allow_ptr, row, inside, FILTERED)
    group = block * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
    for i in tl.static_range(QUERIES):
        query = tl.program_id(1).to(tl.int64) * QUERIES + i
        bits = load_query(queries_ptr, tl.minimum(query, n_queries - 1), UNITS, UNITS_P2)
        distance = tl.sum(popcount(codes ^ bits).to(tl.int32), axis=1)
        distance = tl.where(live, distance, NONE)
        least = tl.min(tl.reshape(distance, (BLOCK // GROUP, GROUP)), axis=1)
        pointers = minima_ptr + query * n_groups + group
        tl.store(pointers, least.to(minima_ptr.dtype.element_ty), mask=(group < n_groups) & (query < n_queries))


@triton.jit(do_not_specialize=["n_values"])
def expand_kernel(queries_ptr, signs_ptr, n_values, BYTES: tl.constexpr, K_P2: tl.constexpr, BLOCK: tl.constexpr):
    """Queries as int8 -1 / +1 [Q, K_P2], zero beyond K, for the tensor cores."""
    flat = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = (flat % K_P2).to(tl.int32)
    real = (column < BYTES * 8) & (flat < n_values)
    byte = tl.load(queries_ptr + (flat // K_P2) * BYTES + column // 8, mask=real, other=0).to(tl.int32)
    sign = tl.where(real, ((byte >> (column % 8)) & 1) * 2 - 1, 0)
    tl.store(signs_ptr + flat, sign.to(tl.int8), mask=flat < n_values)


@triton.jit(do_not_specialize=["n_queries", "n_codes", "n_groups"])
def scan_many_kernel(
    signs_ptr, codes_ptr, allow_ptr, minima_ptr, n_queries, n_codes, n_groups,
    BYTES: tl.constexpr, K_P2: tl.constexpr, GROUP: tl.constexpr, QUERIES: tl.constexpr, FILTERED: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Least distance of one group to every query on the tensor cores: d = (K - <a, b>) / 2 for signs a, b."""
    K: tl.constexpr = BYTES * 8
    group = tl.program_id(0).to(tl.int64)
    row = group * GROUP + tl.arange(0, GROUP)
    live = is_allowed(allow_ptr, row, row < n_codes, FILTERED)
    # Rows past the end repeat the last code instead of being masked: a repeated code changes no minimum.
    row = tl.minimum(row, n_codes - 1)
    column = tl.arange(0, K_P2)
    byte = tl.load(codes_ptr + row[:, None] * BYTES + (column // 8)[None, :], mask=(column < K)[None, :], other=0)
    sign = ((byte.to(tl.int32) >> (column % 8)[None, :]) & 1) * 2 - 1
    codes = tl.trans(tl.where((column < K)[None, :], sign, 0).to(tl.int8))
    for start in tl.range(0, n_queries, QUERIES, num_stages=STAGES):
        query = (start + tl.arange(0, QUERIES)).to(tl.int64)
        clamped = tl.minimum(query, n_queries - 1)
        signs = tl.load(signs_ptr + clamped[:, None] * K_P2 + column[None, :])
        dot = tl.dot(signs, codes, out_dtype=tl.int32)
        if FILTERED:
            dot = tl.where(live[None, :], dot, -K - 2)  # becomes distance K + 1: no code
        least = (K - tl.max(dot, axis=1)) >> 1
        tl.store(minima_ptr + query * n_groups + group, least.to(minima_ptr.dtype.element_ty), mask=query < n_queries)


@triton.jit
def count_chunk(values_ptr, query, chunk, n_values, BINS: tl.constexpr, CHUNK: tl.constexpr):
    """How often a chunk of a row holds each value; lanes past the end count in the last bin."""
    slot = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = slot < n_values
    value = tl.load(values_ptr + query * n_values + slot, mask=inside, other=0).to(tl.int32)
    return tl.histogram(tl.where(inside, value, BINS - 1), BINS)


@triton.jit(do_not_specialize=["n_values", "n_chunks"])
def histogram_kernel(values_ptr, counts_ptr, n_values, n_chunks, BINS: tl.constexpr, CHUNK: tl.constexpr):
    """counts[q, c, v] = how often chunk c of row q holds value v."""
    query = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    counts = count_chunk(values_ptr, query, chunk, n_values, BINS, CHUNK)
    tl.store(counts_ptr + (query * n_chunks + chunk) * BINS + tl.arange(0, BINS), counts)


@triton.jit(do_not_specialize=["n_values", "n_chunks", "k"])
def collect_kernel(
    values_ptr, counts_ptr, slots_ptr, n_values, n_chunks, k, BINS: tl.constexpr, CHUNK: tl.constexpr,
    COUNTED: tl.constexpr,
):  # fmt: skip
    """Writes the slots of the k least (value, slot) of row q in slot order; every program finds its own start.

    All values below the threshold, then the first ties in slot order: no atomics, so the order never varies. Unless
    COUNTED, every program counts all chunks of its row itself, which saves a launch where there are few.
    """
    query = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    bin_ = tl.arange(0, BINS)
    total = tl.zeros((BINS,), tl.int32)
    before = tl.zeros((BINS,), tl.int32)
    for i in range(n_chunks):
        if COUNTED:
            counts = tl.load(counts_ptr + (query * n_chunks + i) * BINS + bin_)
        else:
            counts = count_chunk(values_ptr, query, i, n_values, BINS, CHUNK)
        total += counts
        before += tl.where(i < chunk, counts, 0)
    threshold = tl.sum((tl.cumsum(total, axis=0) < k).to(tl.int32), axis=0)
    ties_wanted = k - tl.sum(tl.where(bin_ < threshold, total, 0), axis=0)
    ties_before = tl.sum(tl.where(bin_ == threshold, before, 0), axis=0)
    below_before = tl.sum(tl.where(bin_ < threshold, before, 0), axis=0)

    slot = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = slot < n_values
    value = tl.load(values_ptr + query * n_values + slot, mask=inside, other=0).to(tl.int32)
    tie = inside & (value == threshold)
    tie_rank = ties_before + tl.cumsum(tie.to(tl.int32), axis=0) - 1
    chosen = (inside & (value < threshold)) | (tie & (tie_rank < ties_wanted))
    first = below_before + tl.minimum(ties_before, ties_wanted)
    position = first + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
    tl.store(slots_ptr + query * k + position, slot, mask=chosen)


@triton.jit(do_not_specialize=["n_codes", "n_selected"])
def rescan_kernel(
    queries_ptr, codes_ptr, allow_ptr, groups_ptr, distances_ptr, n_codes, n_selected,
    NONE: tl.constexpr, UNITS: tl.constexpr, UNITS_P2: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
    FILTERED: tl.constexpr,
):  # fmt: skip
    """Distance of every code of the selected groups, in index order."""
    query = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = slot < n_selected * GROUP
    group = tl.load(groups_ptr + query * n_selected + slot // GROUP, mask=inside, other=0).to(tl.int64)
    row = group * GROUP + slot % GROUP
    live = is_allowed(allow_ptr, row, inside & (row < n_codes), FILTERED)
    codes = load_units(codes_ptr, row, live, UNITS, UNITS_P2)
    bits = load_query(queries_ptr, query, UNITS, UNITS_P2)
    distance = tl.where(live, tl.sum(popcount(codes ^ bits).to(tl.int32), axis=1), NONE)
    pointers = distances_ptr + query * n_selected * GROUP + slot
    tl.store(pointers, distance.to(distances_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n_selected", "k"])
def order_kernel(
    distances_ptr, groups_ptr, slots_ptr, out_distances_ptr, out_rows_ptr, n_selected, k,
    NONE: tl.constexpr, GROUP: tl.constexpr, K_P2: tl.constexpr,
):  # fmt: skip
    """Sorts the k chosen of one query by (distance, position); positions are in index order already."""
    query = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, K_P2)
    inside = i < k
    slot = tl.load(slots_ptr + query * k + i, mask=inside, other=0)
    base = distances_ptr + query * n_selected * GROUP
    distance = tl.load(base + slot, mask=inside, other=0).to(tl.int32)
    key = tl.sort(tl.where(inside, distance * K_P2 + i, 0x7FFFFFFF))
    distance = key // K_P2
    slot = tl.load(slots_ptr + query * k + key % K_P2, mask=inside, other=0)
    group = tl.load(groups_ptr + query * n_selected + slot // GROUP, mask=inside, other=0).to(tl.int64)
    found = distance < NONE
    tl.store(out_distances_ptr + query * k + i, tl.where(found, distance, 0x7FFFFFFF), mask=inside)
    tl.store(out_rows_ptr + query * k + i, tl.where(found, group * GROUP + slot % GROUP, -1), mask=inside)
