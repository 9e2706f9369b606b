"""Measures of regression, and intervals that are calibrated on held-out values.

Shape legend: N patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eoforge.errors import UsageError

Floats = npt.NDArray[np.float64]


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
    """Rule for intervals: half their width is ``factor * sqrt(spread**2 + floor**2)``, or ``factor`` for ``student``.

    Attributes:
        level: Share of the truth that the intervals should hold.
        factor: Quantile of the scores ``|error| / sqrt(spread**2 + floor**2)`` of the held-out values.
        floor: Least spread, so that a small spread does not make a wrong prediction look sure; 0 for ``student``.
        held: Number of held-out values.
        kind: ``conformal`` or ``student``.
    """

    level: float
    factor: float
    floor: float
    held: int
    kind: str

    @classmethod
    def fit(cls, errors_N: Floats, spreads_N: Floats, level: float) -> Intervals:
        """Rule from errors of held-out values.

        ``conformal`` takes the ceil((N + 1) level)-th smallest score, which holds for any distribution (split conformal
        prediction with a local scale). Below ``level / (1 - level)`` held-out values there is no such score; then
        ``student`` takes Student's quantile with N degrees of freedom times the root of the mean squared error, which
        holds for normal errors without bias. So few values do not tell whether the spread says anything: it counts for
        nothing then.

        Args:
            errors_N: Predictions minus truth, at least one.
            spreads_N: Spread of each prediction, not negative; zeros give intervals of one width.
            level: Within 0 and 1.

        Raises:
            UsageError: There is no value, or the level is out of range.
        """
        count = len(errors_N)
        if not count or not 0 < level < 1:
            raise UsageError(f"expected at least one held-out value and a level within 0 and 1; got {count}, {level}")
        floor = float(np.median(spreads_N)) or 1.0
        scores = np.abs(errors_N) / np.sqrt(np.square(spreads_N) + floor**2)
        rank = math.ceil((count + 1) * level - 1e-9)
        if rank <= count:
            return cls(level, float(np.sort(scores)[rank - 1]), floor, count, "conformal")
        from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy ships no types; services have none

        quantile = float(stdtrit(count, (1 + level) / 2)) * math.sqrt(float(np.square(errors_N).mean()))
        return cls(level, quantile, 0.0, count, "student")

    def half_width(self, spreads_N: Floats) -> Floats:
        """Half the width of the interval of each prediction."""
        if self.kind == "student":
            return np.full(len(spreads_N), self.factor)
        half: Floats = self.factor * np.sqrt(np.square(spreads_N) + self.floor**2)
        return half
