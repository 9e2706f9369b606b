"""Differential privacy of silos: clipping, reproducible Gaussian noise, and accounting of epsilon.

The guarantee is for a whole silo: with its update and with zeros in its place, the released models differ by at most
(epsilon, delta); the number of silos is public. Each round is a Gaussian mechanism on the clipped sum. No amplification
by sampling is claimed, since deadlines and networks, not a random draw, decide which silos answer: the reported epsilon
is an upper bound for any selection.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from eoforge.federated.reduce import Sum, Term, weighted_sum
from eoforge.federated.strategy import Source

NOISE_BLOCK = 1 << 16
"""Number of noise elements per key, so that the noise of any slice can be drawn alone."""


def clip_factors(norms: Mapping[str, float], clip_norm: float) -> dict[str, float]:
    """Factor of each silo's update that makes its L2 norm at most ``clip_norm``."""
    return {silo: min(1.0, clip_norm / norm) if norm > 0 else 1.0 for silo, norm in norms.items()}


class NoisySum:
    """Combiner: weighted sum of clipped updates plus Gaussian noise.

    Every silo has the same share of a term (a run with other shares is refused), so one silo changes the sum by at most
    ``clip_norm * share``; the noise has ``multiplier`` times that as its standard deviation.

    Args:
        secret: Secret of the run; the noise is a function of it, so a repeated reduction adds the same noise.
        number: Number of the round.
        multiplier: Standard deviation of the noise over the sensitivity.
        clip_norm: Bound on the L2 norm of an update.
        norms: L2 norm of each silo's update.
    """

    def __init__(
        self, secret: bytes, number: int, multiplier: float, clip_norm: float, norms: Mapping[str, float]
    ) -> None:
        self._secret, self._number, self._deviation = secret, number, multiplier * clip_norm
        self._factors = clip_factors(norms, clip_norm)

    def __call__(self, terms: Sequence[Term], source: Source) -> Sequence[Sum]:
        """See :class:`~eoforge.federated.reduce.Combiner`."""
        sums = weighted_sum([self._clipped(term) for term in terms], source)
        for total, term in zip(sums, terms, strict=True):
            deviation = self._deviation * max(term.add.shares.values())
            total += deviation * self._noise(term.add.name, term.start, term.stop)
        return sums

    def _clipped(self, term: Term) -> Term:
        shares = {silo: share * self._factors[silo] for silo, share in term.add.shares.items()}
        return replace(term, add=replace(term.add, shares=shares))

    def _noise(self, name: str, start: int, stop: int) -> Sum:
        first, last = start // NOISE_BLOCK, -(-stop // NOISE_BLOCK)
        blocks = [self._block(name, number) for number in range(first, last)]
        offset = first * NOISE_BLOCK
        return np.concatenate(blocks)[start - offset : stop - offset]

    def _block(self, name: str, number: int) -> Sum:
        text = f"{self._number}/{name}/{number}".encode()
        key = hashlib.blake2b(text, key=self._secret, digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).standard_normal(NOISE_BLOCK)


def silo_deviation(multiplier: float, clip_norm: float, quorum: int) -> float:
    """Standard deviation of each silo's noise, such that the noise of ``quorum`` silos adds up to the central one."""
    return multiplier * clip_norm / math.sqrt(quorum)


@lru_cache(maxsize=1024)
def epsilon_after(rounds: int, noise_multiplier: float, delta: float) -> float:
    """Epsilon spent by ``rounds`` rounds (Renyi accounting by the dp-accounting library)."""
    from dp_accounting import GaussianDpEvent  # type: ignore[import-untyped]
    from dp_accounting.rdp import RdpAccountant  # type: ignore[import-untyped]

    accountant = RdpAccountant()
    accountant.compose(GaussianDpEvent(noise_multiplier), rounds)
    return float(accountant.get_epsilon(delta))
