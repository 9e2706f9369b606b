"""Exact Hamming search against the whole sorted distance matrix, through the kernels and through PyTorch."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels._runtime import INTERPRETED, next_power_of_2
from kernels.hamming_topk import (
    NO_DISTANCE,
    _hamming_topk,
    hamming_topk,
    hamming_topk_reference,
    kernel,
    merge_topk,
    reference,
)
from kernels.hamming_topk.launch import Plan, dot_stages, launch, make_plan
from tests.kernels.aot import TARGETS, assert_fits, compile_kernel

FEW = Plan(many=False, group=8, block=32, queries=2, chunk=32, slab=3)
MANY = Plan(many=True, group=16, block=32, queries=16, chunk=32, slab=3)


def codes_of(rows: int, bits: int, seed: int = 0, spread: float = 0.5) -> torch.Tensor:
    """Random codes; a small spread makes most of them equal, so that ranks are mostly ties."""
    generator = torch.Generator().manual_seed(seed * 7919 + rows)
    bits_NK = torch.rand((rows, bits), generator=generator) < spread
    weights = 2 ** torch.arange(8)
    return (bits_NK.view(rows, bits // 8, 8) * weights).sum(-1).to(torch.uint8)


def through_launch(queries: torch.Tensor, codes: torch.Tensor, k: int, plan: Plan, allow: Any = None) -> Any:
    found = min(k, len(codes))
    distances = torch.full((len(queries), found), -7, dtype=torch.int32)
    rows = torch.full((len(queries), found), -7, dtype=torch.int64)
    launch(queries, codes, allow, distances, rows, plan)
    return distances, rows


def assert_same(got: Any, want: Any) -> None:
    torch.testing.assert_close(got[0].cpu(), want[0], rtol=0, atol=0)
    torch.testing.assert_close(got[1].cpu(), want[1], rtol=0, atol=0)


@pytest.mark.parametrize("n_queries", [1, 2, 16])
@pytest.mark.parametrize(
    ("n_codes", "bits", "k"), [(1, 16, 1), (97, 128, 5), (117, 64, 11), (60, 24, 1000), (131, 504, 7), (32, 512, 32)]
)
@pytest.mark.usefixtures("poisoned")
def test_equals_the_sorted_matrix(
    n_queries: int, n_codes: int, bits: int, k: int, device: str, launches: Counter[str]
) -> None:
    queries, codes = codes_of(n_queries, bits, 1), codes_of(n_codes, bits, 2)
    want = hamming_topk_reference(queries, codes, k)
    got = hamming_topk(queries.to(device), codes.to(device), k)
    assert got[0].dtype == torch.int32
    assert got[1].dtype == torch.int64
    assert_same(got, want)
    if INTERPRETED:
        scan = "scan_many_kernel" if n_queries >= 16 else "scan_few_kernel"
        assert launches[scan] == 1
        assert launches["order_kernel"] == 1


@given(
    n_queries=st.integers(1, 5),
    n_codes=st.integers(1, 60),
    n_bytes=st.sampled_from([1, 2, 3, 4, 12, 16, 33]),
    k=st.integers(1, 70),
    spread=st.sampled_from([0.0, 0.02, 0.5]),
    keep=st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=12 if INTERPRETED else 100, deadline=None)
def test_any_shape_filter_and_ties(
    n_queries: int, n_codes: int, n_bytes: int, k: int, spread: float, keep: float, seed: int
) -> None:
    queries, codes = codes_of(n_queries, n_bytes * 8, seed, spread), codes_of(n_codes, n_bytes * 8, seed + 1, spread)
    allow = torch.rand(n_codes, generator=torch.Generator().manual_seed(seed)) < keep
    assert_same(hamming_topk(queries, codes, k, allow), hamming_topk_reference(queries, codes, k, allow))


@pytest.mark.interpreted_only
@pytest.mark.parametrize("plan", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("spread", [0.0, 0.03])
@pytest.mark.parametrize(("filtered", "recounts"), [(True, 0), (False, 1024)])
def test_many_groups_chunks_and_slabs(
    plan: Plan, spread: float, filtered: bool, recounts: int, launches: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small cut: several groups, chunks of the select, and slabs of queries; all codes equal at spread 0."""
    monkeypatch.setitem(launch.__globals__, "RECOUNTS", recounts)  # the package's name is the function's, too
    queries, codes = codes_of(4, 96, 3), codes_of(157, 96, 4, spread)
    allow = torch.rand(157, generator=torch.Generator().manual_seed(1)) < 0.3 if filtered else None
    bitmap = None if allow is None else torch.from_numpy(np.packbits(allow, bitorder="little"))
    assert_same(through_launch(queries, codes, 13, plan, bitmap), hamming_topk_reference(queries, codes, 13, allow))
    # Two slabs, each selecting groups and then codes.
    assert (launches["histogram_kernel"], launches["collect_kernel"]) == (0 if recounts else 4, 4)


@pytest.mark.plain_only
def test_cpu_branch_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 50)
    queries, codes = codes_of(5, 40, 5), codes_of(211, 40, 6, 0.1)
    assert_same(hamming_topk(queries, codes, 33), hamming_topk_reference(queries, codes, 33))


def test_nothing_allowed_is_said_by_row_minus_one(device: str) -> None:
    codes = codes_of(20, 16).to(device)
    distances, rows = hamming_topk(codes[:2], codes, 4, torch.zeros(20, dtype=torch.bool, device=device))
    assert (rows == -1).all()
    assert (distances == NO_DISTANCE).all()


def test_bitmap_and_bool_filters_agree(device: str) -> None:
    codes = codes_of(45, 32, 9).to(device)
    allow = (torch.arange(45, device=device) % 3) == 1
    bitmap = torch.tensor([0b10010010, 0b00100100, 0b01001001], dtype=torch.uint8, device=device).repeat(2)
    assert_same(hamming_topk(codes[:3], codes, 9, bitmap), [t.cpu() for t in hamming_topk(codes[:3], codes, 9, allow)])


def test_shards_merge_into_the_whole(device: str) -> None:
    queries, codes = codes_of(3, 64, 1).to(device), codes_of(150, 64, 2, 0.1).to(device)
    parts = [hamming_topk(queries, codes[start : start + 50], 20) for start in (0, 50, 100)]
    distances = torch.stack([d for d, _ in parts])
    rows = torch.stack([r + start for (_, r), start in zip(parts, (0, 50, 100), strict=True)])
    assert_same(merge_topk(distances, rows, 20), [t.cpu() for t in hamming_topk(queries, codes, 20)])


def test_empty_inputs(device: str) -> None:
    codes = codes_of(5, 16).to(device)
    assert hamming_topk(codes[:0], codes, 3)[1].shape == (0, 3)
    assert hamming_topk(codes, codes[:0], 3)[1].shape == (5, 0)


def test_non_contiguous_codes(device: str) -> None:
    wide = codes_of(60, 256, 8).to(device)
    view = wide[::2, 1:13]  # a stride, and a first byte that no int32 view could start at
    assert_same(hamming_topk(view[:4], view, 6), hamming_topk_reference(view[:4].cpu(), view.cpu(), 6))
    flat = codes_of(1, 504, 9).flatten()[3:].view(15, 4).to(device)
    assert_same(hamming_topk(flat[:2], flat, 6), hamming_topk_reference(flat[:2].cpu(), flat.cpu(), 6))


def test_refusals_name_what_came() -> None:
    codes = codes_of(5, 16)
    with pytest.raises(TypeError, match="expected dtype uint8; got float32"):
        hamming_topk(codes.float(), codes, 1)
    with pytest.raises(ValueError, match=r"\[Q, K/8\] = \[any, 2\]; got \[1, 4\]"):
        hamming_topk(codes_of(1, 32), codes, 1)
    for k in (0, 1025):
        with pytest.raises(ValueError, match=f"1 to 1024; got {k}"):
            hamming_topk(codes, codes, k)
    with pytest.raises(ValueError, match="8 to 512 bits a code; got 520"):
        hamming_topk(codes_of(1, 520), codes_of(1, 520), 1)
    with pytest.raises(ValueError, match=r"\[N\] = \[5\]; got \[4\]"):
        hamming_topk(codes, codes, 1, torch.ones(4, dtype=torch.bool))


@pytest.mark.plain_only
def test_opcheck_and_compile() -> None:
    queries, codes = codes_of(3, 32, 1), codes_of(29, 32, 2)
    torch.library.opcheck(_hamming_topk, (queries, codes, 5, None))
    torch.library.opcheck(_hamming_topk, (queries, codes, 5, torch.full((4,), 0x5A, dtype=torch.uint8)))
    compiled = torch.compile(hamming_topk, fullgraph=True, backend="aot_eager")
    assert_same(compiled(queries, codes, 5), hamming_topk_reference(queries, codes, 5))


@pytest.mark.plain_only
@pytest.mark.parametrize("sm", TARGETS)
@pytest.mark.parametrize("bits", [16, 96, 128, 504, 512])
def test_compiles_ahead_of_time(sm: int, bits: int) -> None:
    """Every kernel, with the launch shapes of 1.1 M codes: no spills; popcount is one instruction a word."""
    unit_bytes = 4 if bits % 32 == 0 else 1
    units = bits // 8 // unit_bytes
    unit, value = ("*i32" if unit_bytes == 4 else "*u8"), ("*u8" if bits <= 253 else "*i16")
    sizes = dict.fromkeys(("n_queries", "n_codes", "n_groups", "n_values", "n_chunks", "n_selected", "k"), "i32")
    pointers = {"queries_ptr": unit, "codes_ptr": unit, "allow_ptr": "*u8", "minima_ptr": value, "distances_ptr": value}
    types = {**sizes, **pointers, "groups_ptr": "*i32", "values_ptr": value, "counts_ptr": "*i32", "slots_ptr": "*i32"}
    common = {"NONE": bits + 1, "UNITS": units, "UNITS_P2": next_power_of_2(units)}
    few, many = (make_plan(q, 1_100_000, 100, bits // 8, unit_bytes) for q in (8, 1024))
    warps = 4 if few.block * next_power_of_2(units) <= 4096 else 8
    for filtered in (False, True) if bits == 128 else (True,):
        shape = {**common, "GROUP": few.group, "BLOCK": few.block, "FILTERED": filtered}
        scan = compile_kernel(kernel.scan_few_kernel, sm, types, {**shape, "QUERIES": few.queries}, num_warps=warps)
        assert_fits(scan, sm)
        assert "popc.b32" in scan.ptx, "the popcount pattern is no longer recognised"
        assert_fits(compile_kernel(kernel.rescan_kernel, sm, types, shape, num_warps=warps), sm)
        dot = {
            "BYTES": bits // 8,
            "K_P2": max(next_power_of_2(bits), 32),
            "QUERIES": many.queries,
            "STAGES": dot_stages(bits // 8),
        }
        tensor = {**types, "signs_ptr": "*i8", "codes_ptr": "*u8"}
        constants = {**dot, "GROUP": many.group, "FILTERED": filtered}
        scan = compile_kernel(kernel.scan_many_kernel, sm, tensor, constants, num_warps=8)
        assert_fits(scan, sm)
        assert re.search(r"mma\S*\.s8", scan.ptx), "the scan no longer runs on the tensor cores"
    bins = next_power_of_2(bits + 3)
    select = {"BINS": bins, "CHUNK": few.chunk}
    assert_fits(compile_kernel(kernel.histogram_kernel, sm, types, select), sm)
    for counted in (True, False):
        assert_fits(compile_kernel(kernel.collect_kernel, sm, types, {**select, "COUNTED": counted}), sm)
    order = {**types, "out_distances_ptr": "*i32", "out_rows_ptr": "*i64"}
    assert_fits(compile_kernel(kernel.order_kernel, sm, order, {"NONE": bits + 1, "GROUP": 32, "K_P2": 1024}), sm)
    expand = {**types, "queries_ptr": "*u8", "signs_ptr": "*i8"}
    constants = {"BYTES": bits // 8, "K_P2": max(next_power_of_2(bits), 32), "BLOCK": 1024}
    assert_fits(compile_kernel(kernel.expand_kernel, sm, expand, constants), sm)


@pytest.mark.gpu
@pytest.mark.parametrize("n_queries", [1, 7, 100])
@pytest.mark.parametrize("bits", [16, 40, 128, 512])
@pytest.mark.parametrize("k", [1, 100, 1000])
def test_gpu_equals_cpu_and_replays_in_a_graph(n_queries: int, bits: int, k: int) -> None:
    codes = codes_of(70_001, bits, 2, 0.2)
    queries = codes_of(n_queries, bits, 1, 0.2)
    allow = torch.rand(70_001, generator=torch.Generator().manual_seed(3)) < 0.5
    on_gpu = [t.cuda() for t in (queries, codes, allow)]
    assert_same(hamming_topk(*on_gpu[:2], k), _hamming_topk(queries, codes, k, None))
    hamming_topk(*on_gpu[:2], k, on_gpu[2])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = hamming_topk(*on_gpu[:2], k, on_gpu[2])
    graph.replay()
    assert_same(result, hamming_topk(queries, codes, k, allow))
