"""Measures of regression, and intervals that are calibrated on values that did not train.

Shape legend: N patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eoforge.errors import UsageError

Floats = npt.NDArray[np.float64]
INTERVALS = {
    "conformal": "a quantile of the errors",
    "whole": "the whole valid range",
    "student": "a quantile of Student's distribution, which assumes normal errors",
}
"""Kinds of intervals."""
_ROUNDING = 1e-9


def least_held(level: float) -> int:
    """Least number of errors of which one is large enough for intervals of that level: 9 for 90 %."""
    return math.ceil(level / (1 - level) - _ROUNDING)


def regression_figures(predicted_N: Floats, truth_N: Floats) -> dict[str, float]:
    """Root of the mean squared error, mean absolute error, coefficient of determination (NaN for constant truth), bias.

    Raises:
        UsageError: The arrays are empty or their lengths differ.
    """
    if len(predicted_N) != len(truth_N) or not len(truth_N):
        raise UsageError(f"expected equal numbers of values, at least one; got {len(predicted_N)} and {len(truth_N)}")
    error = predicted_N - truth_N
    spread = float(np.square(truth_N - truth_N.mean()).mean())
    squared = float(np.square(error).mean())
    return {
        "rmse": math.sqrt(squared),
        "mae": float(np.abs(error).mean()),
        "r2": 1 - squared / spread if spread > 0 else math.nan,
        "bias": float(error.mean()),
    }


def interval_figures(lower_N: Floats, upper_N: Floats, truth_N: Floats) -> dict[str, float]:
    """Coverage (share of the truth within its interval, ends included) and mean width of intervals."""
    within = (truth_N >= lower_N) & (truth_N <= upper_N)
    return {"coverage": float(within.mean()), "width": float((upper_N - lower_N).mean())}


@dataclass(frozen=True)
class Intervals:
    """Rule for intervals: half the width is ``factor * sqrt(spread**2 + floor**2)`` if ``conformal``, else ``factor``.

    Attributes:
        level: Share of the truth that the intervals should hold.
        factor: Quantile of the scores ``|error| / sqrt(spread**2 + floor**2)`` of the scored values, or a half width.
        floor: Least spread, so that a small spread does not make a wrong prediction look sure; 0 if not ``conformal``.
        held: Number of values whose errors it is made of.
        kind: A key of ``INTERVALS``.
    """

    level: float
    factor: float
    floor: float
    held: int
    kind: str

    @classmethod
    def fit(
        cls, errors_N: Floats, spreads_N: Floats, level: float, low: float | None = None, high: float | None = None
    ) -> Intervals:
        """Rule from errors at values that did not train: of a held-out part, or of folds.

        ``conformal`` takes the ceil((N + 1) level)-th smallest score. On a held-out part it is split conformal
        prediction with a local scale, which holds for any distribution. On folds it is the cross-validated form of the
        jackknife (Barber, Candès, Ramdas, Tibshirani, "Predictive inference with the jackknife+", Annals of Statistics
        49(1), 2021): the level holds where networks with and without a fold predict alike. Their CV+, which holds about
        ``2 level - 1`` without that condition, needs the networks of all folds at prediction.

        Below ``level / (1 - level)`` values there is no such score, and an interval that holds for any distribution is
        infinite. ``whole`` takes the valid range. A target without one takes ``student``: Student's quantile with N
        degrees of freedom times the root of the mean squared error, which holds for normal errors without bias; the
        spread counts for nothing then, because so few values do not tell whether it says anything.

        Args:
            errors_N: Predictions minus truth, at least one.
            spreads_N: Spread of each prediction, not negative; zeros give intervals of one width.
            level: Within 0 and 1.
            low: Least valid value, or None.
            high: Greatest valid value, or None.

        Raises:
            UsageError: There is no value, or the level is out of range.
        """
        count = len(errors_N)
        if not count or not 0 < level < 1:
            raise UsageError(
                f"expected the error of at least one value and a level within 0 and 1; got {count}, {level}"
            )
        rank = math.ceil((count + 1) * level - 1e-9)
        if rank <= count:
            floor = float(np.median(spreads_N)) or 1.0
            scores = np.abs(errors_N) / np.sqrt(np.square(spreads_N) + floor**2)
            return cls(level, float(np.sort(scores)[rank - 1]), floor, count, "conformal")
        if low is not None and high is not None:
            return cls(level, high - low, 0.0, count, "whole")
        from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy ships no types; services have none

        quantile = float(stdtrit(count, (1 + level) / 2)) * math.sqrt(float(np.square(errors_N).mean()))
        return cls(level, quantile, 0.0, count, "student")

    def half_width(self, spreads_N: Floats) -> Floats:
        """Half the width of the interval of each prediction."""
        if self.kind != "conformal":
            return np.full(len(spreads_N), self.factor)
        half: Floats = self.factor * np.sqrt(np.square(spreads_N) + self.floor**2)
        return half
