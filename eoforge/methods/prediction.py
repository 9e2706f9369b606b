"""Predictions of a bundle that classifies, segments or regresses, for tables, the command line and the service.

Shape legend: B patches, L classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from eoforge.bundle import Bundle
from eoforge.data.bands import S2_10M
from eoforge.errors import UsageError
from eoforge.index.predictor import Predicted
from eoforge.methods import Classifies, Regresses, Segments, Task, encoding, get_method, require_task
from eoforge.methods.calibration import Calibration
from eoforge.nn.build import choose_device
from eoforge.nn.maps import class_map, map_presence

if TYPE_CHECKING:
    from eoforge.data.loading.batch import PatchBatch
    from eoforge.data.loading.prepare import Prepare
    from eoforge.methods import MapNetwork
    from eoforge.methods.value_prediction import BundleValuePredictor
    from eoforge.nn.classifier import Network


class BundlePredictor:
    """See :class:`eoforge.index.predictor.Predictor`.

    Attributes:
        bands: Bands per sensor, in channel order.
        alone: Whether each sensor can be read alone.
    """

    def __init__(
        self,
        network: Network | MapNetwork,
        task: Task,
        prepare: Mapping[str, Prepare],
        calibration: Calibration,
        device: torch.device,
    ) -> None:
        self._network, self._prepare, self._calibration, self._device = network, dict(prepare), calibration, device
        self.maps = task is Task.SEGMENT
        self.bands = {sensor: each.bands for sensor, each in self._prepare.items()}
        self.sensors = tuple(self._prepare)
        self.temperature, self.thresholds = calibration.temperature, calibration.thresholds
        self.alone = bool(getattr(network, "alone", False)) or len(self.sensors) == 1

    @torch.inference_mode()
    def predict(self, batch: PatchBatch, sensors: tuple[str, ...] | None = None) -> Predicted:
        """See :class:`eoforge.index.predictor.Predictor`."""
        chosen = self.sensors if sensors is None else sensors
        if not set(chosen) <= set(self.sensors) or not (self.alone or set(chosen) == set(self.sensors)):
            raise UsageError(f"this bundle reads {' and '.join(self.sensors)}; got {' and '.join(chosen) or 'nothing'}")
        for sensor in chosen:
            encoding.require_rasters(batch, self.bands[sensor])
        moved = batch.to(self._device)
        logits = self._network.predict({sensor: self._prepare[sensor](moved) for sensor in chosen})
        scene_BL: Tensor = map_presence(logits) if self.maps else logits
        probabilities_BL = self._calibration.probabilities(scene_BL)
        labels_BL = self._calibration.labels(probabilities_BL)
        return Predicted(
            probabilities_BL.cpu().numpy(),
            labels_BL.cpu().numpy(),
            class_map(logits, S2_10M.size).cpu().numpy() if self.maps else None,
        )


def open_predictor(bundle: Bundle, device: str | None = None) -> BundlePredictor | BundleValuePredictor:
    """The predictor of a bundle.

    Raises:
        UsageError: The bundle can neither classify nor segment nor regress.
        BundleError: It is damaged, or its calibration is wrong.
    """
    if require_task(bundle, Task.CLASSIFY, Task.SEGMENT, Task.REGRESS) is not Task.REGRESS:
        return open_class_predictor(bundle, device)
    method = cast("Regresses", get_method(str(bundle.config["method"])))
    return cast("BundleValuePredictor", method.regressor(bundle, device))


def open_class_predictor(bundle: Bundle, device: str | None = None) -> BundlePredictor:
    """The predictor of a bundle that classifies or segments.

    Raises:
        UsageError: The bundle can neither classify nor segment.
        BundleError: It is damaged, or its calibration is wrong.
    """
    task = require_task(bundle, Task.CLASSIFY, Task.SEGMENT)
    method = get_method(str(bundle.config["method"]))
    where = choose_device(device)
    network: Network | MapNetwork
    if task is Task.CLASSIFY:
        network = cast("Classifies", method).classifier(bundle, device)
    else:
        network = cast("Segments", method).segmenter(bundle, device)
    return BundlePredictor(network, task, prepares_of(bundle, where), Calibration.of(bundle), where)


def prepares_of(bundle: Bundle, device: torch.device) -> dict[str, Prepare]:
    """Transforms to the network's input by sensor, on a device.

    Raises:
        BundleError: Bands, normalisation or size of the bundle are wrong.
    """
    named = cast("Mapping[str, list[str]]", bundle.config["bands"])
    bands = encoding.bands_of(bundle, {sensor: tuple(names) for sensor, names in named.items()})
    size = int(bundle.config["config"]["size"])
    return {sensor: each.to(device) for sensor, each in encoding.prepares(bundle, bands, size).items()}
