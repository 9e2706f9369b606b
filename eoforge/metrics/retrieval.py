"""Measures of ranked multi-label retrieval, from label masks.

A label set is a 32-bit mask and ``|.|`` a popcount. Shapes: Q queries, N archive rows, k results; ``query_Q`` and
``archive_N`` are uint32 masks, ``hits_Qk`` the masks of the results in rank order. Ratios of 0/0 count as 0, so a query
without labels, or one without relevant rows in the archive, lowers a mean and is not excluded from it.

Papers differ in two definitions without saying so; both of each are computed: F1 from the averaged precision and recall
(CSMAE) or averaged over pairs (the JEPA line), and average precision over the relevant results in the top k (HasanBank,
IBM, DUCH) or over min(k, relevant in the archive).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from eoforge.errors import UsageError

Masks = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]

JACCARD_THRESHOLD = 0.5


class Relevance(StrEnum):
    """Criterion of relevance of a result; with 19 classes ``SHARED`` saturates."""

    SHARED = "shared"
    """At least one label in common."""
    JACCARD = "jaccard50"
    """|q∩r| / |q∪r| is at least one half."""
    EXACT = "exact"
    """The same label set."""


class Denominator(StrEnum):
    """Divisor of average precision."""

    RETRIEVED = "retrieved"
    """The relevant results within the top k."""
    ARCHIVE = "archive"
    """min(k, relevant rows of the archive)."""


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
    """Element-wise quotient; 0 where the denominator is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)


def shared_labels(query: Masks, other: Masks) -> npt.NDArray[np.int64]:
    """Number of shared labels |q∩r| of masks that broadcast."""
    return np.bitwise_count(query & other).astype(np.int64)


def relevant(query: Masks, other: Masks, relevance: Relevance) -> npt.NDArray[np.bool_]:
    """Relevance of ``other`` to ``query``, for masks that broadcast."""
    if relevance is Relevance.EXACT:
        return query == other
    if relevance is Relevance.SHARED:
        return (query & other) != 0
    union = np.bitwise_count(query | other).astype(np.float64)
    return (union > 0) & (shared_labels(query, other) >= JACCARD_THRESHOLD * union)


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision, recall and both F1: means over all queries and their k results."""

    precision: float
    recall: float
    f1_of_means: float
    mean_f1: float


def harmonic(precision: float, recall: float) -> float:
    """Harmonic mean 2PR / (P + R), 0 if both are 0."""
    return float(ratio(2 * precision * recall, precision + recall))


def precision_recall(query_Q: Masks, hits_Qk: Masks) -> PrecisionRecall:
    """Precision |q∩r|/|r|, recall |q∩r|/|q| and both F1 over k = ``hits_Qk.shape[1]`` results.

    Source: evaluation of the released code of CSMAE (arXiv 2401.07782); ``mean_f1`` as in X-JEPA and REJEPA.
    """
    precision_Qk, recall_Qk, f1_Qk = pair_measures(query_Q[:, None], hits_Qk)
    precision, recall = _mean(precision_Qk), _mean(recall_Qk)
    return PrecisionRecall(precision, recall, harmonic(precision, recall), _mean(f1_Qk))


def pair_measures(query: Masks, other: Masks) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each (query, result) pair, for masks that broadcast."""
    shared = shared_labels(query, other)
    size_q, size_r = np.bitwise_count(query).astype(np.int64), np.bitwise_count(other).astype(np.int64)
    return ratio(shared, size_r), ratio(shared, size_q), ratio(2 * shared, size_q + size_r)


def average_cumulative_gain(query_Q: Masks, hits_Qk: Masks) -> float:
    """Average cumulative gain ACG@k, the mean number of shared labels."""
    return _mean(shared_labels(query_Q[:, None], hits_Qk))


def weighted_average_precision(query_Q: Masks, hits_Qk: Masks) -> float:
    """Weighted average precision WAP@k: ACG at each relevant rank, averaged over these ranks (HasanBank/CBIR)."""
    gain_Qk = shared_labels(query_Q[:, None], hits_Qk)
    relevant_Qk = gain_Qk > 0
    acg_Qk = np.cumsum(gain_Qk, axis=1) / np.arange(1, hits_Qk.shape[1] + 1)
    return _mean(ratio((acg_Qk * relevant_Qk).sum(axis=1), relevant_Qk.sum(axis=1)))


def ndcg(query_Q: Masks, hits_Qk: Masks, archive_N: Masks) -> float:
    """Normalised DCG@k with gain 2^|q∩r| - 1; the ideal order is that of the whole archive."""
    gain_Qk = np.exp2(shared_labels(query_Q[:, None], hits_Qk)) - 1
    return _mean(ratio(gain_Qk @ discounts(hits_Qk.shape[1]), ideal_dcg(query_Q, archive_N, hits_Qk.shape[1])))


def discounts(k: int) -> Floats:
    """Discounts 1 / log2(rank + 1) of ranks 1..k."""
    return 1 / np.log2(np.arange(2, k + 2, dtype=np.float64))


def ideal_dcg(query_Q: Masks, archive_N: Masks, k: int) -> Floats:
    """DCG@k of the best possible order of the archive, per query."""
    per_query, inverse_Q, masks_M, counts_M = _distinct(query_Q, archive_N)
    below_k = np.concatenate([[0.0], np.cumsum(discounts(k))])  # below_k[i]: the discounts of the first i ranks
    out = np.zeros(len(per_query))
    for i, mask in enumerate(per_query):
        rows_by_gain = np.bincount(shared_labels(mask, masks_M), weights=counts_M)
        from_top = np.minimum(np.cumsum(rows_by_gain[::-1]), k).astype(np.int64)
        gains = np.exp2(np.arange(len(rows_by_gain)))[::-1] - 1
        out[i] = gains @ np.diff(below_k[from_top], prepend=0.0)
    return out[inverse_Q]


def relevant_in_archive(query_Q: Masks, archive_N: Masks, relevance: Relevance) -> npt.NDArray[np.int64]:
    """Number of relevant archive rows of each query ``[Q]``."""
    per_query, inverse_Q, masks_M, counts_M = _distinct(query_Q, archive_N)
    counts = [int(counts_M[relevant(mask, masks_M, relevance)].sum()) for mask in per_query]
    return np.asarray(counts, dtype=np.int64)[inverse_Q]


def mean_average_precision(
    query_Q: Masks, hits_Qk: Masks, archive_N: Masks, relevance: Relevance, denominator: Denominator
) -> float:
    """Mean average precision mAP@k for one relevance and one denominator; see the module docstring."""
    relevant_Qk = relevant(query_Q[:, None], hits_Qk, relevance)
    k = hits_Qk.shape[1]
    precision_Qk = np.cumsum(relevant_Qk, axis=1) / np.arange(1, k + 1)
    if denominator is Denominator.RETRIEVED:
        total_Q = relevant_Qk.sum(axis=1)
    else:
        total_Q = np.minimum(k, relevant_in_archive(query_Q, archive_N, relevance))
    return _mean(ratio((precision_Qk * relevant_Qk).sum(axis=1), total_Q))


def r_precision(query_Q: Masks, hits_Qk: Masks, archive_N: Masks, relevance: Relevance) -> float:
    """Mean R-precision: precision among the first R results, where R rows of the archive are relevant to the query.

    Where R exceeds the ``k`` results of ``hits_Qk``, the first k count. Source: Manning, Raghavan and Schuetze,
    "Introduction to Information Retrieval" (2008), section 8.4.
    """
    relevant_Qk = relevant(query_Q[:, None], hits_Qk, relevance)
    depth_Q = np.minimum(relevant_in_archive(query_Q, archive_N, relevance), hits_Qk.shape[1])
    within_Qk = np.arange(hits_Qk.shape[1]) < depth_Q[:, None]
    return _mean(ratio((relevant_Qk & within_Qk).sum(axis=1), depth_Q))


def partner_recall(rows_Qk: npt.NDArray[np.int64], partner_Q: npt.NDArray[np.int64]) -> float:
    """Share of queries whose partner, given by its archive row, is among their k results."""
    return _mean((rows_Qk == partner_Q[:, None]).any(axis=1))


def retrieval_measures(query_Q: Masks, hits_Qk: Masks, archive_N: Masks, cutoffs: tuple[int, ...]) -> dict[str, float]:
    """All measures at all cutoffs by name: ``precision@10``, ``map_jaccard50_archive@10``, ...

    Raises:
        UsageError: There are fewer results per query than the largest cutoff although the archive has as many rows.
    """
    if hits_Qk.shape[1] < min(max(cutoffs), len(archive_N)):
        raise UsageError(f"measures at {max(cutoffs)} need as many results per query; got {hits_Qk.shape[1]}")
    out: dict[str, float] = {}
    for k in cutoffs:
        top = hits_Qk[:, :k]
        for name, value in vars(precision_recall(query_Q, top)).items():
            out[f"{name}@{k}"] = value
        out[f"acg@{k}"] = average_cumulative_gain(query_Q, top)
        out[f"ndcg@{k}"] = ndcg(query_Q, top, archive_N)
        out[f"wap@{k}"] = weighted_average_precision(query_Q, top)
        for relevance in Relevance:
            for denominator in Denominator:
                value = mean_average_precision(query_Q, top, archive_N, relevance, denominator)
                out[f"map_{relevance}_{denominator}@{k}"] = value
    return out


def _mean(values: npt.NDArray[np.bool_ | np.integer | np.floating]) -> float:
    return float(np.mean(values)) if values.size else 0.0


def _distinct(query_Q: Masks, archive_N: Masks) -> tuple[Masks, npt.NDArray[np.intp], Masks, npt.NDArray[np.int64]]:
    """Distinct query masks, each query's index among them, distinct archive masks, how often each occurs.

    Half a million patches have a few thousand label sets: pairs of sets are far fewer than pairs of rows.
    """
    per_query, inverse_Q = np.unique(query_Q, return_inverse=True)
    masks_M, counts_M = np.unique(archive_N, return_counts=True)
    return per_query, inverse_Q, masks_M, counts_M
