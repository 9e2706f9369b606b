"""Values with intervals of a bundle that regresses, for tables, the command line and the service.

Shape legend: B patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eoforge.bundle import Bundle
from eoforge.errors import BundleError, UsageError
from eoforge.index.predictor import Values
from eoforge.methods import encoding
from eoforge.metrics.regression import Intervals

if TYPE_CHECKING:
    from eoforge.data.loading.batch import PatchBatch
    from eoforge.data.loading.prepare import Prepare

KEY = "values"
"""Key of ``config.json`` with the target, its scale and the rule for intervals."""
Estimator = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]
"""Images by sensor to standardised values and their spread, ``[B]`` each."""


@dataclass(frozen=True)
class ValueRule:
    """How standardised estimates become values with intervals.

    Attributes:
        name: Target.
        unit: Unit of the target; empty if it has none.
        low: Least valid value, or None.
        high: Greatest valid value, or None.
        mean: Mean of the labels that were trained on.
        deviation: Their standard deviation.
        intervals: Rule for intervals.
    """

    name: str
    unit: str
    low: float | None
    high: float | None
    mean: float
    deviation: float
    intervals: Intervals

    @classmethod
    def of(cls, bundle: Bundle) -> ValueRule:
        """Rule of a bundle.

        Raises:
            BundleError: The entry of ``config.json`` is missing, or its numbers are not those of such a rule.
        """
        entry: Any = bundle.config.get(KEY)
        try:
            rule = cls(**{**entry, "intervals": Intervals(**entry["intervals"])})
            numbers = [rule.mean, rule.deviation, rule.intervals.level, rule.intervals.factor, rule.intervals.floor]
            bounds = [bound for bound in (rule.low, rule.high) if bound is not None]
            right = all(type(n) in (int, float) and math.isfinite(n) for n in [*numbers, *bounds])
            right = right and rule.deviation > 0 and rule.intervals.factor >= 0 and rule.intervals.floor >= 0
        except (TypeError, KeyError):
            right = False
        if not right:
            raise BundleError(f"{bundle.uri}: {KEY} must hold a target, its scale and its intervals; got {entry!r}")
        return rule

    def values(self, value_B: Tensor, spread_B: Tensor) -> Values:
        """Values with intervals, within the valid range."""
        value = value_B.double().cpu().numpy() * self.deviation + self.mean
        half = self.intervals.half_width(spread_B.double().cpu().numpy() * self.deviation)
        return Values.of(value, half, self.low, self.high)

    def described(self) -> dict[str, Any]:
        """Description of the target beside a table or in the metadata of a model."""
        return {
            "name": self.name,
            "unit": self.unit,
            "low": self.low,
            "high": self.high,
            "level": self.intervals.level,
        }


class BundleValuePredictor:
    """See :class:`eoforge.index.predictor.ValuePredictor`.

    Attributes:
        bands: Bands per sensor, in channel order.
        alone: Whether each sensor can be read alone.
    """

    def __init__(
        self, estimate: Estimator, rule: ValueRule, prepare: Mapping[str, Prepare], device: torch.device
    ) -> None:
        self._estimate, self._rule, self._prepare, self._device = estimate, rule, dict(prepare), device
        self.bands = {sensor: each.bands for sensor, each in self._prepare.items()}
        self.sensors = tuple(self._prepare)
        self.target = rule.described()
        self.alone = len(self.sensors) == 1

    @torch.inference_mode()
    def predict(self, batch: PatchBatch, sensors: tuple[str, ...] | None = None) -> Values:
        """See :class:`eoforge.index.predictor.ValuePredictor`."""
        if sensors is not None and set(sensors) != set(self.sensors):
            raise UsageError(
                f"this bundle reads {' and '.join(self.sensors)}; got {' and '.join(sensors) or 'nothing'}"
            )
        for bands in self.bands.values():
            encoding.require_rasters(batch, bands)
        moved = batch.to(self._device)
        images = {sensor: prepare(moved) for sensor, prepare in self._prepare.items()}
        return self._rule.values(*self._estimate(images))
