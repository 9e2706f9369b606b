"""Interface of a trained predictor, for tables of predictions and the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

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
