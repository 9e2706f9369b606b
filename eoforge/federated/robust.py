"""Robust aggregation (Byzantine resilience): combiners that bound the effect of arbitrary updates.

Each replaces ``sum of share_i u_i`` by ``(sum of shares) * centre(u_1 .. u_n)`` and so fits every strategy. A slice of
all updates is in memory at a time; its length falls with the number of silos.

Sources: coordinate-wise median and trimmed mean: Yin et al., ICML 2018; (multi-)Krum: Blanchard et al., NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from eoforge.federated.reduce import Sum, Term
from eoforge.federated.strategy import Source

SLICE_ELEMENTS = 1 << 19
"""Largest number of float64 elements of all silos together in one slice."""

Matrix = npt.NDArray[np.float64]
Centre = Callable[[Matrix], Sum]


def median(updates_NE: Matrix) -> Sum:
    """Coordinate-wise median over silos (N) of elements (E)."""
    return np.median(updates_NE, axis=0)


def trimmed_mean(updates_NE: Matrix, share: float) -> Sum:
    """Mean without the ``floor(share * N)`` largest and smallest values of each element."""
    cut = int(share * len(updates_NE))
    ordered = np.sort(updates_NE, axis=0)
    return ordered[cut : len(ordered) - cut].mean(axis=0)


class CentreCombiner:
    """Combiner that replaces the mean over silos by another centre, element by element.

    Args:
        centre: Centre over silos, ``[N, E]`` to ``[E]``.
    """

    def __init__(self, centre: Centre) -> None:
        self._centre = centre

    def __call__(self, terms: Sequence[Term], source: Source) -> Sequence[Sum]:
        """See :class:`~eoforge.federated.reduce.Combiner`."""
        sums = []
        for term in terms:
            silos = sorted(s for s, share in term.add.shares.items() if share)
            total = np.zeros(term.stop - term.start)
            if silos:
                weight = sum(term.add.shares[s] for s in silos)
                for start, stop in slices(term.start, term.stop, len(silos)):
                    stacked = np.stack([source.update(s, term.add.name, start, stop) for s in silos]).astype(np.float64)
                    total[start - term.start : stop - term.start] = weight * self._centre(stacked)
            sums.append(total)
        return sums


class SelectedSum:
    """Combiner that sums over selected silos alone, scaled to the shares of all.

    Args:
        silos: Ids of the selected silos.
    """

    def __init__(self, silos: frozenset[str]) -> None:
        self._silos = silos

    def __call__(self, terms: Sequence[Term], source: Source) -> Sequence[Sum]:
        """See :class:`~eoforge.federated.reduce.Combiner`."""
        sums = []
        for term in terms:
            kept = {s: share for s, share in term.add.shares.items() if s in self._silos}
            total = np.zeros(term.stop - term.start)
            for silo in sorted(kept):
                update = source.update(silo, term.add.name, term.start, term.stop)
                total += np.multiply(update, kept[silo], dtype=np.float64)
            weight = sum(kept.values())
            sums.append(total * (sum(term.add.shares.values()) / weight) if weight else total)
        return sums


def multi_krum(silos: Sequence[str], sizes: Mapping[str, int], source: Source, share: float) -> frozenset[str]:
    """Silos that multi-Krum selects: the ``N - f`` with the least summed distance to their ``N - f - 2`` neighbours.

    Args:
        silos: Silos of the round, in id order.
        sizes: Number of elements of each tensor that all of them sent.
        source: Reader of their updates.
        share: Share of silos assumed bad; ``f = floor(share * N)``.
    """
    count, bad = len(silos), int(share * len(silos))
    gram_NN = np.zeros((count, count))
    for name, size in sorted(sizes.items()):
        for start, stop in slices(0, size, count):
            stacked = np.stack([source.update(s, name, start, stop) for s in silos]).astype(np.float64)
            gram_NN += stacked @ stacked.T
    norms = np.diag(gram_NN)
    distances_NN = norms[:, None] + norms[None, :] - 2 * gram_NN
    np.fill_diagonal(distances_NN, np.inf)
    neighbours = max(count - bad - 2, 1)
    scores = np.sort(distances_NN, axis=1)[:, :neighbours].sum(axis=1)
    nearest = np.argsort(scores, kind="stable")[: count - bad]
    return frozenset(silos[i] for i in nearest)


def slices(start: int, stop: int, silos: int) -> list[tuple[int, int]]:
    """Slices of a range; one slice of all silos together has at most ``SLICE_ELEMENTS`` elements."""
    step = max(SLICE_ELEMENTS // silos, 1)
    return [(i, min(i + step, stop)) for i in range(start, stop, step)]
