"""Choice of a batch from a pool of pairs: by uncertainty, by diversity, by both, by gradients, or at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.metrics import pairwise_distances_argmin_min
from threadpoolctl import threadpool_limits

from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.pool import Rows, random_pairs

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """A pool of P pairs under the current model.

    Attributes:
        pairs: Rows ``[P, 2]``.
        uncertainty: ``[P]``.
        descriptor: ``[P, 2K]``, see :func:`~eoforge.methods.anneal.model.pair_descriptors`.
        features: ``[P, 2K]``, the input of the pair classifier.
        probability: ``[P]``, its output.
    """

    pairs: Rows
    uncertainty: Floats
    descriptor: Floats
    features: Floats
    probability: Floats


def most_uncertain(uncertainty_P: Floats, number: int) -> Rows:
    """Positions of the ``number`` highest values, highest first; of equal ones the first."""
    return np.argsort(-uncertainty_P, kind="stable")[:number]


def uncertain_and_diverse(pool: Scored, number: int, shortlist: int, seed: int) -> Rows:
    """Positions of the most uncertain pair of each of ``number`` clusters of the ``shortlist * number`` most uncertain.

    Clusters are those of k-means, begun by k-means++, on the descriptors. If a cluster is empty, the most uncertain
    pairs that remain fill the batch.
    """
    short = most_uncertain(pool.uncertainty, shortlist * number)
    if len(short) <= number:
        return short
    with threadpool_limits(1):  # sums in one order, so that a run can be repeated
        cluster = KMeans(number, n_init=1, random_state=seed).fit_predict(pool.descriptor[short])
    _, first = np.unique(cluster, return_index=True)  # ``short`` is in the order of uncertainty
    rest = np.setdiff1d(np.arange(len(short)), first)[: number - len(first)]
    return short[np.sort(np.concatenate([first, rest]))]


def k_center(descriptor_PD: Floats, known_TD: Floats, number: int) -> Rows:
    """Positions of the greedy k-center choice: each next pair is the farthest from all known and chosen ones.

    Source: Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach" (ICLR 2018).
    """
    least = np.full(len(descriptor_PD), np.inf)
    if len(known_TD) and len(descriptor_PD):
        with threadpool_limits(1):
            least = pairwise_distances_argmin_min(descriptor_PD, known_TD)[1] ** 2
    chosen: list[int] = []
    for _ in range(min(number, len(descriptor_PD))):
        chosen.append(int(least.argmax()) if chosen or len(known_TD) else 0)
        least = np.minimum(least, _squared(descriptor_PD, descriptor_PD[chosen[-1]]))
        least[chosen[-1]] = -np.inf
    return np.array(chosen, np.int64)


def badge(pool: Scored, number: int, seed: int) -> Rows:
    """Positions by k-means++ on the gradients of the classifier's last layer under its own most likely label.

    Source: Ash et al., "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds" (ICLR 2020); for pairs
    the label is binary, and the gradient ``(p - [p >= 1/2])`` times the input of the layer.
    """
    if len(pool.pairs) <= number:
        return np.arange(len(pool.pairs))
    error_P = pool.probability - (pool.probability >= 0.5)
    with threadpool_limits(1):
        _, chosen = kmeans_plusplus(error_P[:, None] * pool.features, number, random_state=seed)
    return np.asarray(chosen, np.int64)


def choose(
    pool: Scored, known_T2: Rows, known_TD: Floats, number: int, config: Config, draw: np.random.Generator, count: int
) -> Rows:
    """The pairs of a batch, ``[number, 2]``; fewer if the pool has fewer.

    Args:
        pool: The pool.
        known_T2: Pairs that were asked already.
        known_TD: Their descriptors.
        number: Number of pairs.
        config: Strategy and shortlist.
        draw: Random numbers.
        count: Number of patches.
    """
    seed = int(draw.integers(2**31))
    if config.strategy == "random":
        return random_pairs(count, number, known_T2, draw)
    if config.strategy == "uncertainty":
        return pool.pairs[most_uncertain(pool.uncertainty, number)]
    if config.strategy == "diversity":
        return pool.pairs[k_center(pool.descriptor, known_TD, number)]
    if config.strategy == "badge":
        return pool.pairs[badge(pool, number, seed)]
    return pool.pairs[uncertain_and_diverse(pool, number, config.shortlist, seed)]


def _squared(points_PD: Floats, centre_D: Floats) -> Floats:
    return np.asarray(((points_PD - centre_D) ** 2).sum(axis=1))
