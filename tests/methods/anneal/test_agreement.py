"""Cohen's kappa against scikit-learn, and its cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from eoforge.methods.anneal.agreement import cohen_kappa


@pytest.mark.parametrize("seed", range(5))
def test_kappa_equals_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.random(40) < 0.3
    other = np.where(rng.random(40) < 0.8, one, ~one)
    assert cohen_kappa(one.tolist(), other.tolist()) == pytest.approx(cohen_kappa_score(one, other))


def test_kappa_of_full_agreement_of_chance_and_of_contradiction() -> None:
    assert cohen_kappa([True, False], [True, False]) == 1
    assert cohen_kappa([True, True, False, False], [True, False, True, False]) == 0
    assert cohen_kappa([True, False], [False, True]) == -1


def test_kappa_without_variation_is_not_defined() -> None:
    assert cohen_kappa([], []) is None
    assert cohen_kappa([True, True], [True, True]) is None
    assert cohen_kappa([True, True], [True, False]) == 0
