"""Chance that a given label is wrong, from calibrated probabilities of a classifier.

Shape legend: N patches, L classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eoforge.data.noise.scene import Bools, Floats

_ROUNDS = 50
_SMALL = 1e-6
_START = 0.05


class LabelErrors(NamedTuple):
    """Result of :func:`label_errors`.

    Attributes:
        wrong: float64 ``[N, L]``, probability that the given label is wrong.
        missed: ``[L]`` estimated share of true labels that are not given.
        invented: ``[L]`` estimated share of absent labels that are given.
    """

    wrong: Floats
    missed: Floats
    invented: Floats


def label_errors(probabilities_NL: npt.NDArray[np.floating], given_NL: Bools) -> LabelErrors:
    """Posterior that each given label is wrong, with the noise rates of each class estimated together (*ours*).

    Of a patch with probability p for a class, ``P(wrong | given) = (1 - p) i / ((1 - p) i + p (1 - m))`` and
    ``P(wrong | not given) = p m / (p m + (1 - p) (1 - i))``; m (missed) and i (invented) are the rates that make the
    expected numbers of wrong labels agree with these posteriors (expectation maximisation per class).

    Args:
        probabilities_NL: Calibrated on clean labels.
        given_NL: Labels that may be wrong.
    """
    p = np.clip(np.asarray(probabilities_NL, dtype=np.float64), _SMALL, 1 - _SMALL)
    missed = np.full(p.shape[1], _START)
    invented = np.full(p.shape[1], _START)
    wrong = np.zeros_like(p)
    for _ in range(_ROUNDS):
        absent, present = (1 - p) * invented, p * (1 - missed)
        hidden, right = p * missed, (1 - p) * (1 - invented)
        wrong = np.where(given_NL, absent / (absent + present), hidden / (hidden + right))
        truth = np.where(given_NL, 1 - wrong, wrong)  # probability that the class is present
        missed = _share((truth * ~given_NL).sum(axis=0), truth.sum(axis=0))
        invented = _share(((1 - truth) * given_NL).sum(axis=0), (1 - truth).sum(axis=0))
    return LabelErrors(wrong, missed, invented)


def _share(part: Floats, whole: Floats) -> Floats:
    return np.clip(part / np.maximum(whole, _SMALL), _SMALL, 1 - _SMALL)
