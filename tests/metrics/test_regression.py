"""Measures of regression, and intervals with the promised coverage."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from eoforge.errors import UsageError
from eoforge.index.predictor import Values
from eoforge.metrics.regression import Intervals, interval_figures, least_held, regression_figures


def test_measures_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=50)
    predicted = truth + rng.normal(scale=0.4, size=50)
    found = regression_figures(predicted, truth)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(truth, predicted))
    assert found["mae"] == pytest.approx(mean_absolute_error(truth, predicted))
    assert found["r2"] == pytest.approx(r2_score(truth, predicted))
    assert np.isnan(regression_figures(predicted, np.ones(50))["r2"])
    with pytest.raises(UsageError, match="got 0 and 0"):
        regression_figures(truth[:0], truth[:0])


@pytest.mark.parametrize(("held", "kind"), [(9, "conformal"), (39, "conformal"), (2, "student"), (8, "student")])
def test_intervals_hold_nine_tenths_on_the_average(held: int, kind: str) -> None:
    rng = np.random.default_rng(held)
    coverage = []
    for _ in range(400):
        spreads = rng.uniform(0.5, 2, size=held + 200) if kind == "conformal" else np.ones(held + 200)
        errors = rng.normal(size=held + 200) * spreads
        rule = Intervals.fit(errors[:held], spreads[:held], 0.9)
        half = rule.half_width(spreads[held:])
        coverage.append(interval_figures(-half, half, errors[held:])["coverage"])
    assert rule.kind == kind
    assert 0.87 < np.mean(coverage) < 0.94


def test_the_conformal_score_is_the_smallest_that_is_large_enough() -> None:
    errors = np.arange(1.0, 20.0)
    rule = Intervals.fit(errors, np.zeros(19), 0.9)
    assert (rule.factor, rule.floor, rule.held) == (18.0, 1.0, 19)  # the 18th of 19: ceil(20 * 0.9)
    few = Intervals.fit(errors[:2], np.array([5.0, 0.1]), 0.9)
    assert few.half_width(np.array([1.0, 9.0])) == pytest.approx([few.factor] * 2)
    assert few.factor == pytest.approx(2.919986 * np.sqrt(2.5))  # Student's quantile of 0.95 with 2 degrees of freedom
    assert Intervals.fit(errors[:9], np.zeros(9), 0.9).factor == 9.0
    assert [least_held(level) for level in (0.5, 0.8, 0.9, 0.95)] == [1, 4, 9, 19]
    with pytest.raises(UsageError, match=r"got 0, 0\.9"):
        Intervals.fit(errors[:0], errors[:0], 0.9)


def test_too_few_values_give_the_whole_valid_range() -> None:
    """No interval but an infinite one holds for any distribution; a target without a range assumes normal errors."""
    rule = Intervals.fit(np.array([0.0, 0.01]), np.zeros(2), 0.9, low=2, high=5)
    assert rule.kind == "whole"
    found = Values.of(np.array([2.0, 3.5, 5.0]), rule.half_width(np.zeros(3)), 2, 5)
    assert found.lower.tolist() == [2, 2, 2]
    assert found.upper.tolist() == [5, 5, 5]
    assert Intervals.fit(np.ones(8), np.zeros(8), 0.9, low=2).kind == "student"
    assert Intervals.fit(np.ones(9), np.zeros(9), 0.9, low=2, high=5).kind == "conformal"
