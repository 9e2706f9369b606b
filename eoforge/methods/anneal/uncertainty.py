"""Uncertainty of pairs: MGUE by a threshold in the metric space, BCGUE by the classifier of pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def metric_threshold(distance_T: Floats, similar_T: Bools, pool_P: Floats) -> float:
    """Threshold between the distances of similar and dissimilar pairs.

    The least balanced error of "similar if d <= threshold" on annotated pairs; the middle of the interval of such
    thresholds, and the lowest such interval if there are several.

    Args:
        distance_T: Distances of annotated pairs.
        similar_T: Their labels.
        pool_P: Distances of the pool, whose Otsu threshold counts while a class is missing.
    """
    if similar_T.all() or not similar_T.any():
        return otsu(pool_P)
    order = np.argsort(distance_T, kind="stable")
    distance, similar = distance_T[order], similar_T[order]
    # Error of the threshold behind the first n pairs, n = 0..T.
    missed = 1 - np.concatenate([[0], np.cumsum(similar)]) / similar.sum()
    wrong = np.concatenate([[0], np.cumsum(~similar)]) / (~similar).sum()
    edges = np.concatenate([[0.0], distance, [distance[-1]]])
    error = np.where(edges[:-1] < edges[1:], missed + wrong, np.inf)  # equal distances cannot be told apart
    error[0], error[-1] = 1.0, 1.0
    best = int(np.argmin(error))
    return float((edges[best] + edges[best + 1]) / 2)


def otsu(values_P: Floats, bins: int = 256) -> float:
    """Threshold of the largest variance between two groups (Otsu 1979), from a histogram."""
    counts, edges = np.histogram(values_P, bins=bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = len(values_P) - below
    total = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = total[:-1] / below - (total[-1] - total[:-1]) / above
    variance = np.where((below > 0) & (above > 0), below * above * gap**2, -1.0)
    best = np.flatnonzero(
        variance >= variance.max() - 1e-12 * abs(variance.max())
    )  # all cuts of a gap between the groups are equal
    return float((edges[best[0] + 1] + edges[best[-1] + 1]) / 2)


def mgue(distance_P: Floats, threshold: float) -> Floats:
    """Metric-guided uncertainty ``1 / (1 + |d - threshold|)``."""
    return 1 / (1 + np.abs(distance_P - threshold))


def bcgue(probability_P: Floats) -> Floats:
    """Classifier-guided uncertainty ``1 - |2p - 1|``: 1 at p = 1/2, 0 at 0 and 1."""
    return 1 - np.abs(2 * probability_P - 1)
