"""Tie-aware measures: expectations over random orders of ties, and precision within a Hamming radius.

Codes of K bits have K + 1 distinct distances, so the top k usually ends inside a large group of equal distances, and a
value from one order of the group is partly random. The expectation over all orders has a closed form: every rank inside
a group has the group's average. Source: McSherry and Najork, "Computing information retrieval performance measures
efficiently in the presence of tied scores", ECIR 2008; for hashing: He et al., CVPR 2018.

Shapes: q queries of one block, N archive rows, K bits, k ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eoforge.metrics.retrieval import (
    Floats,
    Masks,
    Relevance,
    discounts,
    harmonic,
    ideal_dcg,
    pair_measures,
    ratio,
    relevant,
    relevant_in_archive,
    shared_labels,
)

Codes = npt.NDArray[np.uint8]
LOOKUP_RADIUS = 2

_BLOCK_PAIRS = 1 << 21  # (query, row) pairs in memory at once: about 100 MB over all intermediate arrays


def hamming_distances(queries: Codes, codes: Codes) -> npt.NDArray[np.int64]:
    """All distances ``[q, N]`` of packed codes ``[q, K/8]`` and ``[N, K/8]``."""
    out = np.zeros((len(queries), len(codes)), np.int64)
    for byte in range(codes.shape[1]):  # byte by byte: no [q, N, K/8] array
        out += np.bitwise_count(queries[:, None, byte] ^ codes[None, :, byte])
    return out


@dataclass(frozen=True)
class TieGroups:
    """Rows grouped by distance, for each query of a block.

    Attributes:
        distances: ``[q, N]``.
        sizes: ``[q, K + 1]`` rows at each distance.
        rank_group: ``[q, k]`` the distance at each rank.
    """

    distances: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    rank_group: npt.NDArray[np.int64]

    @classmethod
    def of(cls, distances: npt.NDArray[np.int64], bits: int, k: int) -> TieGroups:
        """Groups of ``distances`` for the first ``min(k, N)`` ranks."""
        sizes = _per_group(distances, bits + 1, None).astype(np.int64)
        ranks = np.arange(1, min(k, distances.shape[1]) + 1)
        # The group of rank i is the number of groups that end before it.
        rank_group = (np.cumsum(sizes, axis=1)[:, None, :] < ranks[None, :, None]).sum(axis=2)
        return cls(distances, sizes, rank_group)

    def sums(self, gains: npt.NDArray[np.generic]) -> Floats:
        """Sum of ``gains [q, N]`` in each group, ``[q, K + 1]``."""
        return _per_group(self.distances, self.sizes.shape[1], gains)

    def expected(self, gains: npt.NDArray[np.generic]) -> Floats:
        """Expected gain at each rank, ``[q, k]``: the average of the group of the rank."""
        return np.take_along_axis(ratio(self.sums(gains), self.sizes), self.rank_group, axis=1)

    def expected_ap_sum(self, relevant_qN: npt.NDArray[np.bool_]) -> Floats:
        """Expected sum of precision over relevant ranks ``[q]``: average precision before its division.

        At the j-th rank of a group with n rows, r of them relevant, after N' rows with R' relevant, the row is
        relevant with probability r/n, and then (j - 1)(r - 1)/(n - 1) of the group's others are expected before it.
        """
        relevant_sums = self.sums(relevant_qN)

        def at_rank(per_group: npt.NDArray[np.generic]) -> Floats:
            return np.take_along_axis(per_group.astype(np.float64), self.rank_group, axis=1)

        n, r = at_rank(self.sizes), at_rank(relevant_sums)
        before = at_rank(np.cumsum(self.sizes, axis=1) - self.sizes)
        relevant_before = at_rank(np.cumsum(relevant_sums, axis=1) - relevant_sums)
        rank = np.arange(1, n.shape[1] + 1)
        j = rank - before
        inside = ratio((j - 1) * (r - 1), n - 1)
        return (ratio(r, n) * (relevant_before + 1 + inside) / rank).sum(axis=1)

    def chance_in_top(self, row_q: npt.NDArray[np.int64], k: int) -> Floats:
        """Probability ``[q]`` that one given row per query is among the first ``k``."""
        group = np.take_along_axis(self.distances, row_q[:, None], axis=1)
        before = np.take_along_axis(np.cumsum(self.sizes, axis=1) - self.sizes, group, axis=1)
        size = np.take_along_axis(self.sizes, group, axis=1)
        return np.clip((k - before) / size, 0.0, 1.0)[:, 0]


def tie_aware_measures(query_codes: Codes, query_Q: Masks, codes: Codes, archive_N: Masks, k: int) -> dict[str, float]:
    """Expected precision, recall, both F1, ACG, NDCG and mAP (denominator: archive) at ``k``; precision in radius 2.

    F1 of means uses the expected means; mAP over the retrieved has a random denominator and no closed form. A query
    without rows in the radius has precision 0, as in the hashing literature.

    Args:
        query_codes: ``[Q, K/8]``; time grows with Q times N.
        query_Q: ``[Q]`` label masks.
        codes: ``[N, K/8]``.
        archive_N: ``[N]`` label masks.
        k: Ranks.
    """
    totals: dict[str, float] = {}
    for block, groups in tie_blocks(query_codes, codes, k):
        masks = query_Q[block, None]
        precision, recall, f1 = pair_measures(masks, archive_N)
        shared = shared_labels(masks, archive_N)
        dcg = groups.expected(np.exp2(shared) - 1) @ discounts(groups.rank_group.shape[1])
        near = groups.distances <= LOOKUP_RADIUS
        part = {
            f"precision@{k}": groups.expected(precision).mean(axis=1),
            f"recall@{k}": groups.expected(recall).mean(axis=1),
            f"mean_f1@{k}": groups.expected(f1).mean(axis=1),
            f"acg@{k}": groups.expected(shared).mean(axis=1),
            f"ndcg@{k}": ratio(dcg, ideal_dcg(query_Q[block], archive_N, k)),
            f"precision_radius{LOOKUP_RADIUS}": ratio((near & (shared > 0)).sum(axis=1), near.sum(axis=1)),
        }
        for relevance in Relevance:
            top = groups.expected_ap_sum(relevant(masks, archive_N, relevance))
            bottom = np.minimum(k, relevant_in_archive(query_Q[block], archive_N, relevance))
            part[f"map_{relevance}_archive@{k}"] = ratio(top, bottom)
        for name, values in part.items():
            totals[name] = totals.get(name, 0.0) + float(values.sum())
    means = {name: total / len(query_codes) for name, total in totals.items()}
    if means:
        means[f"f1_of_means@{k}"] = harmonic(means[f"precision@{k}"], means[f"recall@{k}"])
    return means


def tie_aware_partner_recall(query_codes: Codes, codes: Codes, partner_Q: npt.NDArray[np.int64], k: int) -> float:
    """Expected share of queries whose partner (its archive row) is among the first ``k``."""
    chances = [groups.chance_in_top(partner_Q[block], k).sum() for block, groups in tie_blocks(query_codes, codes, k)]
    return float(sum(chances)) / max(len(query_codes), 1)


def tie_blocks(query_codes: Codes, codes: Codes, k: int) -> Iterator[tuple[slice, TieGroups]]:
    """Blocks of queries with their groups, in bounded memory; nothing for an empty archive."""
    step = min(max(1, _BLOCK_PAIRS // max(len(codes), 1)), 4_096)
    for start in range(0, len(query_codes) if len(codes) else 0, step):
        block = slice(start, start + step)
        distances = hamming_distances(query_codes[block], codes)
        yield block, TieGroups.of(distances, 8 * codes.shape[1], k)


def _per_group(distances: npt.NDArray[np.int64], groups: int, weights: npt.NDArray[np.generic] | None) -> Floats:
    flat = (distances + groups * np.arange(len(distances))[:, None]).ravel()
    values = None if weights is None else weights.astype(np.float64).ravel()
    return np.bincount(flat, values, minlength=groups * len(distances)).reshape(-1, groups).astype(np.float64)
