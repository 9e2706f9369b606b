"""Exact search against a brute-force stable sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eoforge.errors import LimitExceeded, UsageError
from eoforge.index import search
from eoforge.index.search import MAX_K, HammingIndex


def brute_force(codes, queries, k, allow=None):
    distances = np.bitwise_count(codes[None] ^ queries[:, None]).sum(axis=2, dtype=np.int64)
    rows = np.arange(len(codes)) if allow is None else np.flatnonzero(allow)
    order = [rows[np.argsort(d[rows], kind="stable")[:k]] for d in distances]
    return np.array([d[o] for d, o in zip(distances, order, strict=True)]), np.array(order)


def check(codes, queries, k, allow=None):
    distances, rows = HammingIndex(codes).search(queries, k, allow)
    expected_distances, expected_rows = brute_force(codes, queries, k, allow)
    assert distances.dtype == np.int32
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, expected_rows.reshape(rows.shape))
    np.testing.assert_array_equal(distances, expected_distances.reshape(rows.shape))


@settings(deadline=None)
@given(
    rows=st.integers(1, 400),
    queries=st.integers(1, 9),
    width=st.sampled_from([2, 3, 4, 8, 16, 17, 32, 64]),
    k=st.integers(1, 450),
    distinct=st.integers(1, 400),
    filtered=st.sampled_from([None, 0.0, 0.1, 0.9]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_a_stable_sort(rows, queries, width, k, distinct, filtered, seed):
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 256, (distinct, width), dtype=np.uint8)  # few distinct codes make many ties
    codes = pool[rng.integers(0, distinct, rows)]
    allow = None if filtered is None else rng.random(rows) < filtered
    check(codes, pool[rng.integers(0, distinct, queries)], k, allow)


@pytest.mark.parametrize("queries", [1, 5])
def test_queries_in_chunks_of_one(monkeypatch, queries):
    monkeypatch.setattr(search, "_COUNTING_BYTES", 1)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (1_001, 2), dtype=np.uint8)
    check(codes, codes[:queries], 400)
    check(codes, codes[:queries], 400, rng.random(len(codes)) < 0.7)


@pytest.mark.parametrize("k", [search._HEAP_K, search._HEAP_K + 1])
@pytest.mark.parametrize("order", [1, -1], ids=["nearest first", "farthest first"])
def test_both_searches_of_the_cpu_order_ties_by_row(k, order):
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (3_000, 4), dtype=np.uint8) & rng.integers(0, 256, (3_000, 4), dtype=np.uint8)
    query = codes[:1].copy()
    near = np.argsort(order * np.bitwise_count(codes ^ query).sum(axis=1, dtype=np.int64), kind="stable")
    check(np.ascontiguousarray(codes[near]), np.repeat(query, 3, axis=0), k)


def test_all_codes_equal_gives_rows_in_order():
    codes = np.full((5_000, 16), 0xA5, np.uint8)
    distances, rows = HammingIndex(codes).search(~codes[:1], MAX_K)
    np.testing.assert_array_equal(rows[0], np.arange(MAX_K))
    assert (distances == 128).all()


def test_empty_index_filter_and_query_list():
    queries = np.zeros((3, 16), np.uint8)
    for index, allow in (
        (HammingIndex(np.empty((0, 16), np.uint8)), None),
        (HammingIndex(np.zeros((4, 16), np.uint8)), np.zeros(4, bool)),
    ):
        distances, rows = index.search(queries, 10, allow)
        assert distances.shape == rows.shape == (3, 0)
    distances, rows = HammingIndex(np.zeros((4, 16), np.uint8)).search(queries[:0], 2)
    assert distances.shape == rows.shape == (0, 2)


def test_what_does_not_fit_is_refused():
    codes = np.zeros((4, 16), np.uint8)
    index = HammingIndex(codes)
    with pytest.raises(UsageError, match="128 bits"):
        index.search(np.zeros((1, 8), np.uint8), 1)
    with pytest.raises(UsageError, match="at least 1"):
        index.search(codes, 0)
    with pytest.raises(LimitExceeded, match="at most"):
        index.search(codes, MAX_K + 1)
    with pytest.raises(UsageError, match="4 bool"):
        index.search(codes, 1, np.ones(3, bool))
    with pytest.raises(UsageError, match="uint8"):
        HammingIndex(codes.astype(np.float32))
    with pytest.raises(UsageError, match="64 bytes"):
        HammingIndex(np.zeros((4, 65), np.uint8))


@pytest.mark.parametrize("filtered", [False, True])
def test_the_device_path_gives_the_same_results(filtered):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    codes, queries = rng.integers(0, 4, (300, 2), dtype=np.uint8), rng.integers(0, 4, (5, 2), dtype=np.uint8)
    allow = rng.random(300) < 0.5 if filtered else None
    # The kernel's op runs on CPU tensors too, so that the hand-over is tested on a machine without a GPU.
    distances, rows = search._search_device(torch.from_numpy(codes), queries, 40, allow)
    expected_distances, expected_rows = brute_force(codes, queries, 40, allow)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(distances, expected_distances)


def test_search_leaves_the_threads_of_torch_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        HammingIndex(np.zeros((100, 8), np.uint8)).search(np.zeros((50, 8), np.uint8), 5)
        assert torch.get_num_threads() == 1  # resuming exactly depends on it: threads decide the order of sums
    finally:
        torch.set_num_threads(before)
