"""Figures of a model of ANNEAL: retrieval by codes on labelled patches, and answers that it foresaw."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from eoforge.index.search import MAX_K, HammingIndex
from eoforge.methods.anneal.features import Patches
from eoforge.methods.anneal.learning import Known, PairLearner
from eoforge.methods.anneal.model import PairHead
from eoforge.metrics.retrieval import Denominator, Relevance, mean_average_precision, ndcg, r_precision

HITS = 20


def foreseen(learner: PairLearner, head: PairHead, answers: Known) -> float:
    """Share of answers that the classifier of a model gives too, which was not trained on them."""
    given = learner.score(head, answers, answers.pairs).probability >= 0.5
    return float((given == answers.similar).mean())


def retrieval_figures(learner: PairLearner, head: PairHead, queries: Patches, gallery: Patches) -> dict[str, float]:
    """mAP@20, NDCG@20 and R-precision of codes by Hamming distance; empty without labelled queries or gallery.

    A result is relevant if the Jaccard index of the labels is at least one half. Average precision is divided by
    min(20, relevant patches).
    """
    rows_Q, rows_N = (np.flatnonzero(patches.masks) for patches in (queries, gallery))
    if not len(rows_Q) or not len(rows_N):
        return {}
    codes_Q = learner.codes(head, queries.features)[rows_Q]
    codes_N = learner.codes(head, gallery.features)[rows_N]
    query_Q, archive_N = queries.masks[rows_Q], gallery.masks[rows_N]
    _, hits_Qk = HammingIndex(codes_N).search(codes_Q, min(MAX_K, len(rows_N)))
    ranked_Qk: npt.NDArray[np.uint32] = archive_N[hits_Qk]
    top = ranked_Qk[:, :HITS]
    return {
        f"map@{HITS}": mean_average_precision(query_Q, top, archive_N, Relevance.JACCARD, Denominator.ARCHIVE),
        f"ndcg@{HITS}": ndcg(query_Q, top, archive_N),
        "r_precision": r_precision(query_Q, ranked_Qk, archive_N, Relevance.JACCARD),
    }


def score_of(figures: Mapping[str, float]) -> dict[str, float]:
    """The figure that batches are compared by, as ``score``: mAP where there are labels, else the foreseen answers."""
    value = figures.get(f"map@{HITS}", figures.get("foreseen"))
    return {} if value is None else {"score": value}
