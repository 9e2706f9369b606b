"""Open Inference Protocol V2 models: patches of one choice of sensors to probabilities, labels and maps."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from kserve import InferRequest, InferResponse, Model

from eoforge.data.bands import S1_BANDS, S2_10M
from eoforge.data.labels import CLASSES
from eoforge.errors import DataRefused, UsageError
from services._runtime.batching import Batcher, BatchMetrics
from services._runtime.oip.answers import require_json_fits, response
from services._runtime.oip.tensors import DATATYPES, band_tensor, input_array, tensor
from services.prediction.settings import PredictionSettings
from services.prediction.state import Columns, Served, batch_of

METRICS = BatchMetrics("predict", "patches")
NAMES = np.array(CLASSES, dtype=object)

Row = tuple[Any, Any, Any]
"""Probabilities ``[L]``, labels ``[L]`` and map ``[H, W]`` or None of one patch."""


class PredictBatcher(Batcher[Columns, Row]):
    """Batcher of patches for the networks; a batch holds patches of one model."""

    def __init__(self, settings: PredictionSettings) -> None:
        super().__init__(
            _predict, METRICS, settings.predict_batch, settings.predict_delay_seconds, settings.predict_queue
        )


class PredictModel(Model):
    """Prediction model: columns of ``patches.lance`` ``[N, C, H, W]`` on native grids to classes.

    Args:
        settings: Names and limits.
        served: Predictor and its sensors.
        batcher: Batching of all models.
    """

    def __init__(self, settings: PredictionSettings, served: Served, batcher: PredictBatcher) -> None:
        super().__init__(f"{settings.model_name}-{served.key}")
        self._settings, self._served, self._batcher, self._limit = settings, served, batcher, settings.max_patches
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each input."""
        return [band_tensor(group) for group in self._served.groups]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each output; ``classes`` names the columns of the others."""
        count = len(CLASSES)
        outputs = [
            tensor("probabilities", "FP32", -1, count, range="0 to 1, calibrated"),
            tensor("labels", "UINT8", -1, count, range="0 (absent) or 1 (present)"),
            tensor("classes", "BYTES", count),
        ]
        if self._served.predictor.maps:
            outputs.append(tensor("pixel_map", "UINT8", -1, S2_10M.size, S2_10M.size, unit="column of classes"))
        return outputs

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None, response_headers: Any = None
    ) -> InferResponse:
        """Probabilities and labels of the patches of one request.

        Raises:
            UsageError: An input is missing or has another type or shape.
            LimitExceeded: There are too many patches.
            DataRefused: Pixels of a band that the network reads carry no data.
        """
        patches = await asyncio.to_thread(self._patches, payload)
        rows = await self._batcher.submit([(self._served, patch) for patch in patches], None)
        probabilities, labels, maps = zip(*rows, strict=True)
        outputs = {"probabilities": np.stack(probabilities), "labels": np.stack(labels), "classes": NAMES}
        if self._served.predictor.maps:
            outputs["pixel_map"] = np.stack(maps)
        return response(self.name, payload, outputs)

    def _patches(self, payload: InferRequest) -> list[Columns]:
        """Patches of a request, and a check that its answer fits."""
        arrays = {}
        for group in self._served.groups:
            pixels = input_array(payload, group.column, DATATYPES[group.dtype], group.shape, self._limit)
            needed = [i for i, band in enumerate(group.bands) if band in self._served.bands]
            complete = np.isfinite(pixels) if set(group.bands) <= set(S1_BANDS) else pixels != 0
            if not complete[:, needed].all():
                raise DataRefused(f"input {group.column} has pixels without data; patches must be complete")
            arrays[group.column] = pixels
        counts = {len(pixels) for pixels in arrays.values()}
        if len(counts) != 1:
            raise UsageError("all inputs need the same number of patches")
        count = counts.pop()
        values = {"probabilities": count * len(CLASSES), "labels": count * len(CLASSES), "classes": len(CLASSES)}
        if self._served.predictor.maps:
            values["pixel_map"] = count * S2_10M.size**2
        require_json_fits(payload, values, self._settings)
        return [{column: pixels[i] for column, pixels in arrays.items()} for i in range(count)]


def _predict(key: Hashable, patches: Sequence[Columns]) -> list[Row]:
    served = cast("Served", key)
    predicted = served.predictor.predict(batch_of(list(patches)), served.sensors)
    maps = [None] * len(patches) if predicted.pixel_map is None else list(predicted.pixel_map)
    labels = predicted.labels.astype(np.uint8)
    return list(zip(predicted.probabilities, labels, maps, strict=True))
