"""Open Inference Protocol V2 models: patches of one choice of sensors to probabilities, labels and maps."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from kserve import InferRequest, InferResponse, Model

from eoforge.data.bands import S1_BANDS, S2_10M
from eoforge.data.labels import CLASSES
from eoforge.errors import DataRefused, UsageError
from services._runtime.batching import Batcher, BatchMetrics
from services._runtime.oip import DATATYPES, input_array, response
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
        self._served, self._batcher, self._limit = served, batcher, settings.max_patches
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each input."""
        return [
            {"name": group.column, "datatype": DATATYPES[group.dtype], "shape": [-1, *group.shape]}
            for group in self._served.groups
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each output; ``classes`` names the columns of the others."""
        count = len(CLASSES)
        outputs = [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, count]},
            {"name": "labels", "datatype": "UINT8", "shape": [-1, count]},
            {"name": "classes", "datatype": "BYTES", "shape": [count]},
        ]
        if self._served.predictor.maps:
            outputs.append({"name": "pixel_map", "datatype": "UINT8", "shape": [-1, S2_10M.size, S2_10M.size]})
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
        arrays = {}
        for group in self._served.groups:
            tensor = input_array(payload, group.column, DATATYPES[group.dtype], group.shape, self._limit)
            needed = [i for i, band in enumerate(group.bands) if band in self._served.bands]
            complete = np.isfinite(tensor) if set(group.bands) <= set(S1_BANDS) else tensor != 0
            if not complete[:, needed].all():
                raise DataRefused(f"input {group.column} has pixels without data; patches must be complete")
            arrays[group.column] = tensor
        counts = {len(tensor) for tensor in arrays.values()}
        if len(counts) != 1:
            raise UsageError("all inputs need the same number of patches")
        patches = [{column: tensor[i] for column, tensor in arrays.items()} for i in range(counts.pop())]
        rows = await self._batcher.submit([(self._served, patch) for patch in patches], None)
        probabilities, labels, maps = zip(*rows, strict=True)
        outputs = {"probabilities": np.stack(probabilities), "labels": np.stack(labels), "classes": NAMES}
        if self._served.predictor.maps:
            outputs["pixel_map"] = np.stack(maps)
        return response(self.name, payload, outputs)


def _predict(key: Hashable, patches: Sequence[Columns]) -> list[Row]:
    served = cast("Served", key)
    predicted = served.predictor.predict(batch_of(list(patches)), served.sensors)
    maps = [None] * len(patches) if predicted.pixel_map is None else list(predicted.pixel_map)
    labels = predicted.labels.astype(np.uint8)
    return list(zip(predicted.probabilities, labels, maps, strict=True))
