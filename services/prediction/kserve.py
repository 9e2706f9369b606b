"""Open Inference Protocol V2 models: patches of one choice of sensors to labels and maps, or to values.

Tensors are read and made in threads.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from kserve import InferRequest, InferResponse, Model

from eoforge.data.backscatter import require_decibels
from eoforge.data.bands import S1_BANDS
from eoforge.errors import DataRefused, UsageError
from services._runtime.batching import Batcher, BatchMetrics
from services._runtime.fair import FairPool
from services._runtime.oip.answers import require_json_fits, response
from services._runtime.oip.tensors import DATATYPES, band_tensor, input_array
from services.prediction.outputs import FIXED, Row, output_types, outputs_of, rows_of
from services.prediction.settings import PredictionSettings
from services.prediction.state import Columns, Served, batch_of

METRICS = BatchMetrics("predict", "patches")


class PredictBatcher(Batcher[Columns, Row]):
    """Batcher of patches for the networks; a batch holds patches of one model."""

    def __init__(self, settings: PredictionSettings) -> None:
        super().__init__(
            _predict, METRICS, settings.predict_batch, settings.predict_delay_seconds, settings.predict_queue
        )


class PredictModel(Model):
    """Prediction model: columns of ``patches.lance`` ``[N, C, H, W]`` on native grids to classes or values.

    Args:
        settings: Names and limits.
        served: Predictor and its sensors.
        batcher: Batching of all models.
        pool: Threads that read and make tensors.
    """

    def __init__(self, settings: PredictionSettings, served: Served, batcher: PredictBatcher, pool: FairPool) -> None:
        super().__init__(f"{settings.model_name}-{served.key}")
        self._settings, self._served, self._batcher, self._pool = settings, served, batcher, pool
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """Name, type, shape and meaning of each input."""
        return [band_tensor(group) for group in self._served.groups]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Name, type, shape and meaning of each output; ``classes`` names the columns of the others."""
        return output_types(self._served.predictor)

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None, response_headers: Any = None
    ) -> InferResponse:
        """Outputs of the patches of one request.

        Raises:
            UsageError: An input is missing or has another type or shape.
            LimitExceeded: There are too many patches, or too many numbers to answer as JSON.
            DataRefused: Pixels of a band that the network reads carry no data, or no backscatter in dB.
        """
        patches = await self._pool.run(self._patches, payload)
        rows = await self._batcher.submit([(self._served, patch) for patch in patches], None)
        return response(self.name, payload, await self._pool.run(self._outputs, rows))

    def _patches(self, payload: InferRequest) -> list[Columns]:
        arrays = {}
        for group in self._served.groups:
            given = input_array(payload, group.column, DATATYPES[group.dtype], group.shape, self._settings.max_patches)
            needed = [i for i, band in enumerate(group.bands) if band in self._served.bands]
            radar = set(group.bands) <= set(S1_BANDS)
            complete = np.isfinite(given) if radar else given != 0
            if not complete[:, needed].all():
                raise DataRefused(f"input {group.column} has pixels without data; patches must be complete")
            if radar:
                require_decibels(given[:, needed], f"input {group.column}")
            arrays[group.column] = given
        counts = {len(given) for given in arrays.values()}
        if len(counts) != 1:
            raise UsageError("all inputs need the same number of patches")
        count = counts.pop()
        sizes = {output["name"]: abs(math.prod(output["shape"])) for output in self.get_output_types()}
        values = {name: size if name == FIXED else count * size for name, size in sizes.items()}
        require_json_fits(payload, values, self._settings)
        return [{column: given[i] for column, given in arrays.items()} for i in range(count)]

    def _outputs(self, rows: Sequence[Row]) -> dict[str, Any]:
        return outputs_of(self._served.predictor, rows)


def _predict(key: Hashable, patches: Sequence[Columns]) -> list[Row]:
    served = cast("Served", key)
    return rows_of(served.predictor.predict(batch_of(list(patches)), served.sensors))
