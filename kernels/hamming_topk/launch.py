"""Launches of a Hamming search: a plan, which is a pure function of the sizes, and its execution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels._runtime import cdiv, next_power_of_2, wrap_triton
from kernels.hamming_topk.kernel import (
    collect_kernel,
    expand_kernel,
    histogram_kernel,
    order_kernel,
    rescan_kernel,
    scan_few_kernel,
    scan_many_kernel,
)

FEW_QUERIES = 16
"""Number of queries below which the popcount scan is used, from the rates of popcount and int8 dot; not measured."""
WORKSPACE = 256 * 2**20
"""Limit of the workspace in bytes; more queries are searched in slabs."""
TILE_UNITS = 8192
"""Units in registers of a program: 32 per thread with 8 warps."""
RECOUNTS = 1024
"""Number of counts of a chunk up to which each program of the select counts by itself: about eight per
multiprocessor of an H100. Calculated, not measured; a query over 1.1 M codes has five launches instead of seven."""
BYTE_BITS = 253
"""Largest K for which a distance, the value "no code" (K + 1) and the bin after it fit in one byte."""


@dataclass(frozen=True)
class Plan:
    """Plan of one search.

    Attributes:
        many: Tensor-core scan instead of popcounts.
        group: Contiguous codes a group.
        block: Codes a program of the popcount kernels holds.
        queries: Queries a tile.
        chunk: Values a program of the counting select handles.
        slab: Queries done at once.
    """

    many: bool
    group: int
    block: int
    queries: int
    chunk: int
    slab: int


def make_plan(n_queries: int, n_codes: int, k: int, n_bytes: int, unit_bytes: int) -> Plan:
    """The plan of a search; the number of groups, and k groups, are both small compared with the archive."""
    many = n_queries >= FEW_QUERIES
    widest = max(TILE_UNITS // next_power_of_2(n_bytes // unit_bytes), 32)
    block = min(1024, widest)
    if many:
        group = 256 if n_bytes <= 16 else 128  # wider tiles spill (sm_80 and sm_90, compiled ahead of time)
        queries = 64
    else:
        group = min(max(next_power_of_2(n_codes // 65536), 32), block)
        queries = min(next_power_of_2(n_queries), 8)
    n_groups = cdiv(n_codes, group)
    chunk = 2048
    candidates = min(k, n_groups) * group
    bins = next_power_of_2(n_bytes * 8 + 3)
    value_bytes = 1 if n_bytes * 8 <= BYTE_BITS else 2
    each = (n_groups + candidates) * value_bytes + 4 * bins * (cdiv(n_groups, chunk) + cdiv(candidates, chunk))
    return Plan(many, group, block, queries, chunk, min(max(WORKSPACE // each, 1), n_queries))


def dot_stages(n_bytes: int) -> int:
    """Software pipeline depth of the tensor-core scan; shared memory holds two tiles only at K = 512."""
    return 3 if n_bytes <= 32 else 2


def launch(
    queries: Tensor, codes: Tensor, allow: Tensor | None, distances: Tensor, rows: Tensor, plan: Plan | None = None
) -> None:
    """Fills ``distances`` and ``rows`` [Q, k'].

    Args:
        queries: uint8 [Q, K/8], contiguous.
        codes: uint8 [N, K/8], contiguous, N > 0.
        allow: uint8 [ceil(N/8)] bitmap, or None.
        distances: int32 [Q, k'], k' <= N.
        rows: int64 [Q, k'].
        plan: Another cut than ``make_plan`` would choose (tests use small ones).
    """
    n_bytes = codes.shape[1]
    words = n_bytes % 4 == 0 and codes.storage_offset() % 4 == 0 and queries.storage_offset() % 4 == 0
    unit_bytes = 4 if words else 1
    plan = plan or make_plan(queries.shape[0], codes.shape[0], rows.shape[1], n_bytes, unit_bytes)
    with torch.cuda.device_of(codes):  # type: ignore[no-untyped-call]  # torch leaves its __init__ untyped
        for start in range(0, queries.shape[0], plan.slab):
            part = slice(start, start + plan.slab)
            _search_slab(queries[part], codes, allow, distances[part], rows[part], plan, unit_bytes)


def _search_slab(
    queries: Tensor, codes: Tensor, allow: Tensor | None, distances: Tensor, rows: Tensor, plan: Plan, unit_bytes: int
) -> None:
    (n_queries, n_bytes), n_codes, k = queries.shape, codes.shape[0], rows.shape[1]
    n_groups = cdiv(n_codes, plan.group)
    n_selected = min(k, n_groups)
    bits = n_bytes * 8
    value_type = torch.uint8 if bits <= BYTE_BITS else torch.int16
    units = n_bytes // unit_bytes
    unit_queries = queries.view(torch.int32) if unit_bytes == 4 else queries
    unit_codes = codes.view(torch.int32) if unit_bytes == 4 else codes
    bitmap = codes if allow is None else allow  # not read without a filter, but the argument needs a pointer
    common = {"NONE": bits + 1, "UNITS": units, "UNITS_P2": next_power_of_2(units), "GROUP": plan.group}
    filtered = allow is not None
    warps = 4 if plan.block * next_power_of_2(units) <= TILE_UNITS // 2 else 8

    minima = torch.empty((n_queries, n_groups), dtype=value_type, device=codes.device)
    if plan.many:
        _scan_many(queries, codes, bitmap, filtered, minima, plan)
    else:
        grid = (cdiv(n_groups * plan.group, plan.block), cdiv(n_queries, plan.queries))
        wrap_triton(scan_few_kernel)[grid](
            unit_queries, unit_codes, bitmap, minima, n_queries, n_codes, n_groups,
            **common, BLOCK=plan.block, QUERIES=plan.queries, FILTERED=filtered, num_warps=warps,
        )  # fmt: skip
    groups = _least(minima, n_selected, bits, plan.chunk)
    candidates = torch.empty((n_queries, n_selected * plan.group), dtype=value_type, device=codes.device)
    wrap_triton(rescan_kernel)[(n_queries, cdiv(candidates.shape[1], plan.block))](
        unit_queries, unit_codes, bitmap, groups, candidates, n_codes, n_selected,
        **common, BLOCK=plan.block, FILTERED=filtered, num_warps=warps,
    )  # fmt: skip
    slots = _least(candidates, k, bits, plan.chunk)
    wrap_triton(order_kernel)[(n_queries,)](
        candidates, groups, slots, distances, rows, n_selected, k,
        NONE=bits + 1, GROUP=plan.group, K_P2=max(next_power_of_2(k), 16), num_warps=4,
    )  # fmt: skip


def _scan_many(queries: Tensor, codes: Tensor, bitmap: Tensor, filtered: bool, minima: Tensor, plan: Plan) -> None:
    n_queries, n_bytes = queries.shape
    k_p2 = max(next_power_of_2(n_bytes * 8), 32)  # an int8 dot needs at least 32
    signs = torch.empty((n_queries, k_p2), dtype=torch.int8, device=codes.device)
    wrap_triton(expand_kernel)[(cdiv(signs.numel(), 1024),)](
        queries, signs, signs.numel(), BYTES=n_bytes, K_P2=k_p2, BLOCK=1024, num_warps=4
    )
    wrap_triton(scan_many_kernel)[(minima.shape[1],)](
        signs, codes, bitmap, minima, n_queries, codes.shape[0], minima.shape[1],
        BYTES=n_bytes, K_P2=k_p2, GROUP=plan.group, QUERIES=plan.queries, FILTERED=filtered,
        STAGES=dot_stages(n_bytes), num_warps=8,
    )  # fmt: skip


def _least(values: Tensor, k: int, bits: int, chunk: int) -> Tensor:
    """int32 [Q, k]: positions of the k least (value, position) of each row, in position order."""
    n_queries, n_values = values.shape
    n_chunks = cdiv(n_values, chunk)
    bins = next_power_of_2(bits + 3)
    slots = torch.empty((n_queries, k), dtype=torch.int32, device=values.device)
    grid = (n_queries, n_chunks)
    counted = n_queries * n_chunks**2 > RECOUNTS
    counts = slots  # not read if chunks are counted in place, but the argument needs a pointer
    if counted:
        counts = torch.empty((n_queries, n_chunks, bins), dtype=torch.int32, device=values.device)
        wrap_triton(histogram_kernel)[grid](values, counts, n_values, n_chunks, BINS=bins, CHUNK=chunk, num_warps=4)
    wrap_triton(collect_kernel)[grid](
        values, counts, slots, n_values, n_chunks, k, BINS=bins, CHUNK=chunk, COUNTED=counted, num_warps=4
    )
    return slots
