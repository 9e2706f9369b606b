"""Interfaces of trained predictors, of classes and of values, for tables of predictions and the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from eoforge.data.loading.batch import PatchBatch


class Predicted(NamedTuple):
    """Predictions of ``B`` patches.

    Attributes:
        probabilities: float32 ``[B, L]``, calibrated.
        labels: bool ``[B, L]``: the probability reaches the threshold of its class.
        pixel_map: uint8 ``[B, 120, 120]`` class indices, or None from a bundle that classifies only.
    """

    probabilities: npt.NDArray[np.float32]
    labels: npt.NDArray[np.bool_]
    pixel_map: npt.NDArray[np.uint8] | None


class Values(NamedTuple):
    """Values of ``B`` patches with their intervals, in the unit of the target.

    Attributes:
        value: float32 ``[B]``.
        lower: float32 ``[B]``, lower end of the interval.
        upper: float32 ``[B]``, upper end.
        clipped: bool ``[B]``: the value was out of the valid range and was set to its end.
    """

    value: npt.NDArray[np.float32]
    lower: npt.NDArray[np.float32]
    upper: npt.NDArray[np.float32]
    clipped: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        value: npt.NDArray[np.float64],
        half_width: npt.NDArray[np.float64],
        low: float | None,
        high: float | None,
    ) -> Values:
        """Values within the valid range ``low`` to ``high``, either of which may be None, and intervals around them."""
        bounded = np.clip(value, low, high)
        lower, upper = np.clip(bounded - half_width, low, high), np.clip(bounded + half_width, low, high)
        return cls(bounded.astype(np.float32), lower.astype(np.float32), upper.astype(np.float32), bounded != value)


class Predictor(Protocol):
    """Predictor of the classes of patches.

    Attributes:
        sensors: Sensors that are read, out of ``("s1", "s2")``.
        maps: Whether it maps pixels too.
        temperature: Divisor of the logits.
        thresholds: Threshold per class.
    """

    sensors: tuple[str, ...]
    maps: bool
    temperature: float
    thresholds: tuple[float, ...]

    def predict(self, batch: PatchBatch, sensors: tuple[str, ...] | None = None) -> Predicted:
        """Predictions of a batch, from all sensors or from the given ones.

        Raises:
            UsageError: The bundle does not predict from these sensors.
            DataRefused: The batch lacks a sensor's bands.
        """


@runtime_checkable
class ValuePredictor(Protocol):
    """Predictor of a number per patch.

    Attributes:
        sensors: Sensors that are read, out of ``("s1", "s2")``.
        target: Name, unit, valid range and level of the intervals, as they are written beside a table.
    """

    sensors: tuple[str, ...]
    target: dict[str, Any]

    def predict(self, batch: PatchBatch, sensors: tuple[str, ...] | None = None) -> Values:
        """Values of a batch.

        Raises:
            UsageError: The bundle does not predict from these sensors.
            DataRefused: The batch lacks a sensor's bands.
        """
