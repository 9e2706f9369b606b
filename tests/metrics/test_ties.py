"""Tie-aware expectations against the mean over every order of the ties, and bit statistics against loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoforge.metrics.bits import bit_statistics
from eoforge.metrics.retrieval import Relevance, retrieval_measures
from eoforge.metrics.ties import hamming_distances, tie_aware_measures, tie_aware_partner_recall

ROWS = 5


@settings(max_examples=25, deadline=None)
@given(k=st.integers(1, 7), levels=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_equals_the_mean_over_all_orders(k, levels, seed):
    rng = np.random.default_rng(seed)
    codes = (2 ** rng.integers(0, levels, (ROWS, 1)) - 1).astype(np.uint8)  # 0, 1, 3, 7: distances 0..3 from 0
    query_code, query = np.zeros((1, 1), np.uint8), np.array([0b0110], np.uint32)
    archive = rng.integers(0, 16, ROWS, dtype=np.uint32)
    partner = np.array([rng.integers(ROWS)])
    distances = np.bitwise_count(codes[:, 0]).astype(int)

    top = min(k, ROWS)
    orders = np.array([o for o in itertools.permutations(range(ROWS)) if (np.diff(distances[list(o)]) >= 0).all()])
    # Every order as one query of its own: their mean is the expectation.
    every = retrieval_measures(np.repeat(query, len(orders)), archive[orders[:, :top]], archive, (top,))
    got = tie_aware_measures(query_code, query, codes, archive, k)
    names = ["precision", "recall", "mean_f1", "acg", "ndcg", *(f"map_{r}_archive" for r in Relevance)]
    assert set(got) == {f"{n}@{k}" for n in [*names, "f1_of_means"]} | {"precision_radius2"}
    for name in names:
        # With fewer rows than k the slow side's min(k, relevant) is the same number, since relevant <= rows.
        assert got[f"{name}@{k}"] == pytest.approx(every[f"{name}@{top}"], abs=1e-12), name
    assert tie_aware_partner_recall(query_code, codes, partner, k) == pytest.approx(
        (orders[:, :top] == partner).any(axis=1).mean()
    )
    near = [bool(m & 0b0110) for m, d in zip(archive, distances, strict=True) if d <= 2]
    assert got["precision_radius2"] == pytest.approx(np.mean(near) if near else 0)


def test_blocks_of_queries_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(1)
    codes, queries = rng.integers(0, 8, (50, 2), dtype=np.uint8), rng.integers(0, 8, (9, 2), dtype=np.uint8)
    archive, masks = rng.integers(0, 99, 50, dtype=np.uint32), rng.integers(0, 99, 9, dtype=np.uint32)
    whole = tie_aware_measures(queries, masks, codes, archive, 5)
    monkeypatch.setattr("eoforge.metrics.ties._BLOCK_PAIRS", 120)
    assert tie_aware_measures(queries, masks, codes, archive, 5) == pytest.approx(whole)


def test_distances_are_those_of_unpacked_bits():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 256, (5, 3), dtype=np.uint8), rng.integers(0, 256, (7, 3), dtype=np.uint8)
    expected = (np.unpackbits(a, axis=1)[:, None] != np.unpackbits(b, axis=1)[None]).sum(axis=2)
    np.testing.assert_array_equal(hamming_distances(a, b), expected)


def test_bit_statistics_against_numpy_and_loops():
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 256, (300, 2), dtype=np.uint8)
    codes[:, 0] &= 0b0111_1111  # bit 7 is constant
    codes[:100] = codes[0]
    statistics = bit_statistics(codes, chunk=64)
    bits = np.array([[byte >> i & 1 for byte in code for i in range(8)] for code in codes], float)
    np.testing.assert_allclose(statistics.ones, bits.mean(axis=0))
    varying = bits.std(axis=0) > 0
    expected = np.corrcoef(bits[:, varying].T)
    np.testing.assert_allclose(statistics.correlation[np.ix_(varying, varying)], expected, atol=1e-12)
    assert not varying[7]
    assert (statistics.correlation[7] == 0).all()
    rows = [tuple(c) for c in codes]
    share = [rows.count(c) / 300 for c in set(rows)]
    assert statistics.code_entropy == pytest.approx(-sum(p * np.log2(p) for p in share))
    assert statistics.distinct == len(share)
    summary = statistics.summary()
    assert summary["constant_bits"] == 1
    off = np.abs(statistics.correlation)[np.triu_indices(16, 1)]
    assert summary["correlation_max_abs"] == pytest.approx(off.max())
    assert summary["correlation_mean_abs"] == pytest.approx(off.mean())
    entropy = [-(p * np.log2(p) + (1 - p) * np.log2(1 - p)) if 0 < p < 1 else 0 for p in bits.mean(axis=0)]
    assert summary["bit_entropy"] == pytest.approx(np.mean(entropy))
