"""Calibration of a classifier: one temperature for all logits, and a threshold per class.

Shape legend: N patches, L classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from eoforge.bundle import Bundle
from eoforge.data.labels import CLASSES
from eoforge.errors import BundleError
from eoforge.metrics.calibration import best_thresholds, fit_temperature
from eoforge.metrics.multilabel import THRESHOLD

KEY = "calibration"
"""Key of ``config.json``; a bundle without it has the temperature 1 and thresholds of 0.5."""


@dataclass(frozen=True)
class Calibration:
    """Calibration of a bundle.

    Attributes:
        temperature: Divisor of all logits.
        thresholds: Probability, after the temperature, at which a class counts as present; one per class.
        fitted: Whether the numbers come from the bundle; otherwise they are the neutral ones.
    """

    temperature: float = 1.0
    thresholds: tuple[float, ...] = (THRESHOLD,) * len(CLASSES)
    fitted: bool = False

    @classmethod
    def fit(cls, logits_NL: Tensor, labels_NL: Tensor) -> Calibration:
        """Calibration on validation patches: temperature by likelihood, then thresholds by the F1 of each class."""
        temperature = fit_temperature(
            logits_NL, lambda scaled: functional.binary_cross_entropy_with_logits(scaled, labels_NL.float())
        )
        thresholds = best_thresholds((logits_NL / temperature).sigmoid(), labels_NL)
        return cls(temperature, tuple(thresholds.tolist()), True)

    @classmethod
    def of(cls, bundle: Bundle) -> Calibration:
        """Calibration of a bundle.

        Raises:
            BundleError: The numbers are not those of a calibration.
        """
        found: Any = bundle.config.get(KEY)
        if found is None:
            return cls()
        entry: dict[str, Any] = found if isinstance(found, dict) else {}
        temperature, thresholds = entry.get("temperature", 0), entry.get("thresholds")
        if (
            not _is_number(temperature)
            or temperature <= 0
            or not isinstance(thresholds, list)
            or len(thresholds) != len(CLASSES)
            or not all(_is_number(value) and 0 <= value <= 1 for value in thresholds)
        ):
            raise BundleError(
                f"{bundle.uri}: {KEY} must hold a temperature > 0 and {len(CLASSES)} thresholds in 0..1; got {found!r}"
            )
        return cls(float(temperature), tuple(map(float, thresholds)), True)

    def facts(self) -> dict[str, Any]:
        """Entry of ``config.json``."""
        return {KEY: {"temperature": self.temperature, "thresholds": list(self.thresholds)}}

    def probabilities(self, logits_NL: Tensor) -> Tensor:
        """Calibrated probabilities ``[N, L]``."""
        return (logits_NL.float() / self.temperature).sigmoid()

    def labels(self, probabilities_NL: Tensor) -> Tensor:
        """Present classes, bool ``[N, L]``."""
        return probabilities_NL >= torch.tensor(self.thresholds, device=probabilities_NL.device)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
