"""Candidate pairs: the first batch and the pool of later ones, without enumerating all pairs of an archive."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eoforge.index.search import MAX_K, HammingIndex
from eoforge.methods.anneal.config import Config
from eoforge.nn.seeds import derive_seed

Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]

_REACH = 8
"""The near partners of an anchor are drawn from so many times their number of nearest codes."""
_FAR_DRAWS = 16
_SPARE = 4
"""Anchors of the first batch per pair: some draw the same pair, or themselves."""


def generator(config: Config, purpose: str, iteration: int) -> np.random.Generator:
    """Random numbers of one step of a run."""
    return np.random.default_rng(derive_seed(purpose, config.seed, iteration))


def normal(pairs_P2: Rows) -> Rows:
    """Pairs with the lower row first, each once, sorted, without pairs of a patch with itself."""
    ordered = np.sort(pairs_P2.reshape(-1, 2), axis=1)
    return np.unique(ordered[ordered[:, 0] < ordered[:, 1]], axis=0)


def keys(pairs_P2: Rows, count: int) -> Rows:
    """Each normal pair of ``count`` patches as one integer."""
    return pairs_P2[:, 0] * count + pairs_P2[:, 1]


def without(pairs_P2: Rows, known_T2: Rows, count: int) -> Rows:
    """Normal pairs without the known ones."""
    return pairs_P2[~np.isin(keys(pairs_P2, count), keys(normal(known_T2), count))]


def random_pairs(count: int, number: int, known_T2: Rows, draw: np.random.Generator) -> Rows:
    """Up to ``number`` different pairs of ``count`` patches, drawn uniformly among those that are not known."""
    found = np.empty((0, 2), np.int64)
    while len(found) < number and len(found) + len(known_T2) < count * (count - 1) // 2:
        fresh = without(normal(draw.integers(count, size=(2 * number, 2))), known_T2, count)
        found = np.unique(np.concatenate([found, fresh]), axis=0)
    return draw.permutation(found)[:number]


def bootstrap(codes_NB: Codes, number: int, draw: np.random.Generator) -> Rows:
    """The first pairs, half of them near and half far.

    Random pairs of an archive of many classes are nearly all dissimilar, and teach little.

    Args:
        codes_NB: Packed codes of the initial embedding.
        number: Number of pairs.
        draw: Random numbers.

    Returns:
        Normal pairs ``[number, 2]``, fewer if the archive has fewer: of a near one each patch with one of its nearest
        codes, of a far one with the farthest of some random patches.
    """
    count = len(codes_NB)
    anchors = draw.permutation(count)[: _SPARE * number]
    near = draw.permutation(_near(codes_NB, anchors, 1, draw))[: (number + 1) // 2]
    others = draw.integers(count, size=(len(anchors), _FAR_DRAWS))
    distances = np.bitwise_count(codes_NB[anchors][:, None] ^ codes_NB[others]).sum(axis=2)
    farthest = others[np.arange(len(anchors)), distances.argmax(axis=1)]
    far = without(normal(np.stack([anchors, farthest], axis=1)), near, count)
    chosen = np.concatenate([near, draw.permutation(far)[: number - len(near)]])
    missing = number - len(chosen)
    return np.concatenate([chosen, random_pairs(count, missing, chosen, draw)]) if missing else chosen


def pool_pairs(codes_NB: Codes, known_T2: Rows, config: Config, iteration: int) -> Rows:
    """The pool of a batch: partners of random anchors, near ones by the Hamming index and random ones.

    Args:
        codes_NB: Packed codes of the current model.
        known_T2: Pairs that were asked already.
        config: ``anchors``, ``neighbours``, ``strangers``, ``seed``.
        iteration: Number of the batch, which the random numbers depend on.

    Returns:
        Normal pairs ``[P, 2]`` that are not known; ``P`` is at most ``anchors * (neighbours + strangers)``.
    """
    count = len(codes_NB)
    draw = generator(config, "pool", iteration)
    anchors = draw.permutation(count)[: config.anchors]
    near = _near(codes_NB, anchors, config.neighbours, draw)
    far = np.stack(
        [anchors.repeat(config.strangers), draw.integers(count, size=len(anchors) * config.strangers)], axis=1
    )
    return without(normal(np.concatenate([near, far])), known_T2, count)


def _near(codes_NB: Codes, anchors_A: Rows, number: int, draw: np.random.Generator) -> Rows:
    """Pairs of each anchor with ``number`` of its nearest patches, drawn among ``_REACH`` times as many."""
    reach = min(_REACH * number + 1, len(codes_NB), MAX_K)  # with the anchor itself, which normal() drops
    _, rows_Ak = HammingIndex(codes_NB).search(codes_NB[anchors_A], reach)
    picked = np.take_along_axis(rows_Ak, draw.random(rows_Ak.shape).argsort(axis=1), axis=1)[:, :number]
    return normal(np.stack([anchors_A.repeat(picked.shape[1]), picked.ravel()], axis=1))
