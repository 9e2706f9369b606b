"""Measures of retrieval against slow loops over Python sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoforge.errors import UsageError
from eoforge.metrics.retrieval import (
    Denominator,
    Relevance,
    partner_recall,
    precision_recall,
    r_precision,
    relevant_in_archive,
    retrieval_measures,
)


def labels(mask):
    return {i for i in range(32) if int(mask) >> i & 1}


def is_relevant(q, r, relevance):
    if relevance is Relevance.EXACT:
        return q == r
    if relevance is Relevance.SHARED:
        return len(q & r) >= 1
    return len(q | r) > 0 and len(q & r) / len(q | r) >= 0.5


def slow_measures(queries, results, archive, k):
    """The measures by their definitions, without code under test."""
    queries, archive = [labels(m) for m in queries], [labels(m) for m in archive]
    results = [[labels(m) for m in row[:k]] for row in results]
    out = {}
    precision, recall, f1, gains, ndcg, wap = [], [], [], [], [], []
    for q, row in zip(queries, results, strict=True):
        for r in row:
            p = len(q & r) / len(r) if r else 0.0
            c = len(q & r) / len(q) if q else 0.0
            precision.append(p)
            recall.append(c)
            f1.append(2 * p * c / (p + c) if p + c else 0.0)
            gains.append(len(q & r))
        dcg = sum((2 ** len(q & r) - 1) / math.log2(i + 2) for i, r in enumerate(row))
        best = sorted((len(q & a) for a in archive), reverse=True)[:k]
        ideal = sum((2**g - 1) / math.log2(i + 2) for i, g in enumerate(best))
        ndcg.append(dcg / ideal if ideal else 0.0)
        acg = [sum(len(q & r) for r in row[: i + 1]) / (i + 1) for i in range(len(row))]
        good = [a for a, r in zip(acg, row, strict=True) if q & r]
        wap.append(sum(good) / len(good) if good else 0.0)
    out["precision"], out["recall"], out["mean_f1"] = np.mean(precision), np.mean(recall), np.mean(f1)
    p, c = out["precision"], out["recall"]
    out["f1_of_means"] = 2 * p * c / (p + c) if p + c else 0.0
    out["acg"], out["ndcg"], out["wap"] = np.mean(gains), np.mean(ndcg), np.mean(wap)
    for relevance in Relevance:
        for denominator in Denominator:
            aps = []
            for q, row in zip(queries, results, strict=True):
                found, total = 0, 0.0
                for i, r in enumerate(row):
                    if is_relevant(q, r, relevance):
                        found += 1
                        total += found / (i + 1)
                if denominator is Denominator.ARCHIVE:
                    found = min(len(row), sum(is_relevant(q, a, relevance) for a in archive))
                aps.append(total / found if found else 0.0)
            out[f"map_{relevance}_{denominator}"] = np.mean(aps)
    return {f"{name}@{k}": value for name, value in out.items()}


@settings(deadline=None)
@given(queries=st.integers(1, 8), rows=st.integers(6, 40), classes=st.integers(1, 19), seed=st.integers(0, 2**32 - 1))
def test_equals_the_slow_loop(queries, rows, classes, seed):
    rng = np.random.default_rng(seed)
    # Few classes make exact matches common; empty label sets occur too.
    archive = rng.integers(0, 2**classes, rows, dtype=np.uint32) & rng.integers(0, 2**classes, rows, dtype=np.uint32)
    query = rng.integers(0, 2**classes, queries, dtype=np.uint32)
    found = np.stack([rng.permutation(rows)[:6] for _ in range(queries)])
    measured = retrieval_measures(query, archive[found], archive, (1, 3, 6))
    expected = {}
    for k in (1, 3, 6):
        expected |= slow_measures(query, archive[found], archive, k)
    assert measured.keys() == expected.keys()
    for name, value in expected.items():
        assert measured[name] == pytest.approx(value, abs=1e-12), name


def test_known_values():
    # Query {0, 1}; results {0}, {0, 1, 2, 3}: P = (1 + 1/2) / 2, R = (1/2 + 1) / 2, pair F1 = 2/3 both times.
    got = precision_recall(np.array([0b11], np.uint32), np.array([[0b1, 0b1111]], np.uint32))
    assert got.precision == pytest.approx(0.75)
    assert got.recall == pytest.approx(0.75)
    assert got.f1_of_means == pytest.approx(0.75)
    assert got.mean_f1 == pytest.approx(2 / 3)


def test_the_ideal_order_scores_one():
    archive = np.array([0b111, 0b11, 0b1, 0b1000, 0b11], np.uint32)
    hits = archive[[0, 1, 4, 2, 3]][None]
    measures = retrieval_measures(np.array([0b111], np.uint32), hits, archive, (5,))
    assert measures["ndcg@5"] == pytest.approx(1)
    assert measures["map_shared_archive@5"] == pytest.approx(1)
    assert measures["map_jaccard50_archive@5"] == pytest.approx(1)
    assert measures["map_exact_archive@5"] == pytest.approx(1)


def test_relevant_in_archive_counts_rows_not_label_sets():
    archive = np.array([1, 1, 1, 3, 4], np.uint32)
    query = np.array([1, 2, 8], np.uint32)
    np.testing.assert_array_equal(relevant_in_archive(query, archive, Relevance.EXACT), [3, 0, 0])
    np.testing.assert_array_equal(relevant_in_archive(query, archive, Relevance.SHARED), [4, 1, 0])
    np.testing.assert_array_equal(relevant_in_archive(query, archive, Relevance.JACCARD), [4, 1, 0])


def test_r_precision_looks_as_deep_as_there_are_relevant_rows():
    archive = np.array([1, 1, 2, 2, 2], np.uint32)
    queries = np.array([1, 2, 4], np.uint32)
    hits = np.array([[1, 2, 1, 2, 2], [2, 1, 2, 1, 2], [1, 1, 2, 2, 2]], np.uint32)
    # 1 of 2, 2 of 3, and none of 0, which counts as 0.
    expected = (1 / 2 + 2 / 3 + 0) / 3
    assert r_precision(queries, hits, archive, Relevance.EXACT) == pytest.approx(expected)
    # Of three relevant rows the first two results are seen.
    assert r_precision(queries[1:2], hits[1:2, :2], archive, Relevance.EXACT) == pytest.approx(1 / 2)


def test_partner_recall_and_too_few_results():
    assert partner_recall(np.array([[3, 1], [0, 2]]), np.array([1, 1])) == 0.5
    masks = np.ones(20, np.uint32)
    with pytest.raises(UsageError, match="measures at 10"):
        retrieval_measures(masks[:1], masks[None, :5], masks, (5, 10))
