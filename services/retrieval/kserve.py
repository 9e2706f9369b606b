"""Open Inference Protocol V2 models: encoding per sensor, and search by code, with metadata of inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from kserve import InferRequest, InferResponse, Model

from eoforge.data.bands import GROUPS
from eoforge.errors import DataRefused, LimitExceeded, UsageError
from eoforge.index.search import MAX_K
from services._runtime.fair import FairPool
from services._runtime.oip import DATATYPES, input_array, input_number, response
from services.retrieval.batching import EncodeBatcher
from services.retrieval.images import Raster
from services.retrieval.paging import DEFAULT_PAGE
from services.retrieval.settings import RetrievalSettings
from services.retrieval.state import IndexHolder

GROUP_BY_COLUMN = {g.column: g for g in GROUPS}


class EncodeModel(Model):
    """Encoding model: images of one sensor to codes and embeddings.

    Inputs are the columns of ``patches.lance`` that the encoder reads, ``[N, C, H, W]`` on native grids.
    """

    def __init__(self, settings: RetrievalSettings, modality: str, holder: IndexHolder, batcher: EncodeBatcher) -> None:
        super().__init__(f"{settings.model_name}-encode-{modality}")
        self._max_images, self._modality = settings.max_images, modality
        self._holder, self._batcher = holder, batcher

    def load(self) -> bool:
        """Readiness. KServe calls this for a model that is not ready; the service itself loads what it serves."""
        return bool(self.ready)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each input."""
        groups = [GROUP_BY_COLUMN[c] for c in self._holder.current.columns(self._modality)]
        return [{"name": g.column, "datatype": DATATYPES[g.dtype], "shape": [-1, *g.shape]} for g in groups]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each output."""
        encoder = self._holder.current.encoder
        return [
            {"name": "code", "datatype": "UINT8", "shape": [-1, encoder.bits // 8]},
            {"name": "embedding", "datatype": "FP32", "shape": [-1, encoder.embedding_dim]},
        ]

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None, response_headers: Any = None
    ) -> InferResponse:
        """Codes and embeddings of the images of one request.

        Raises:
            UsageError: An input is missing or has another type or shape.
            LimitExceeded: There are too many images.
            DataRefused: Pixels carry no data.
        """
        served = self._holder.current
        arrays = {}
        for column in served.columns(self._modality):
            group = GROUP_BY_COLUMN[column]
            tensor = input_array(payload, column, DATATYPES[group.dtype], group.shape, self._max_images)
            needed = [i for i, band in enumerate(group.bands) if band in served.bands(self._modality)]
            complete = np.isfinite(tensor) if self._modality == "s1" else tensor != 0
            if not complete[:, needed].all():
                raise DataRefused(f"input {column} has pixels without data; images must be complete")
            arrays[column] = tensor
        if len({len(a) for a in arrays.values()}) != 1:
            raise UsageError("all inputs need the same number of images")
        count = len(next(iter(arrays.values())))
        rasters = [Raster(self._modality, {c: a[i] for c, a in arrays.items()}) for i in range(count)]
        encodings = await self._batcher.encode(served.encoder, rasters, None)
        outputs = {"code": np.stack([c for c, _ in encodings]), "embedding": np.stack([e for _, e in encodings])}
        return response(self.name, payload, outputs)


class SearchModel(Model):
    """Search model: codes to the ``k`` nearest patches of one sensor, without filters."""

    def __init__(self, settings: RetrievalSettings, modality: str, holder: IndexHolder, pool: FairPool) -> None:
        super().__init__(f"{settings.model_name}-search-{modality}")
        self._max_queries, self._modality = settings.max_images, modality
        self._holder, self._pool = holder, pool

    def load(self) -> bool:
        """Readiness. KServe calls this for a model that is not ready; the service itself loads what it serves."""
        return bool(self.ready)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each input; ``k`` is optional."""
        width = self._holder.current.encoder.bits // 8
        return [
            {"name": "code", "datatype": "UINT8", "shape": [-1, width]},
            {"name": "k", "datatype": "INT32", "shape": [1]},
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each output."""
        return [
            {"name": "patch_id", "datatype": "BYTES", "shape": [-1, -1]},
            {"name": "distance", "datatype": "INT32", "shape": [-1, -1]},
        ]

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None, response_headers: Any = None
    ) -> InferResponse:
        """Nearest patches of every code of one request.

        Raises:
            UsageError: An input is missing or has another type or shape.
            LimitExceeded: There are too many codes, or ``k`` is too large.
            NotFound: The index holds no codes of this sensor.
        """
        snapshot = self._holder.current.snapshot
        codes = input_array(payload, "code", "UINT8", (snapshot.info.bits // 8,), self._max_queries)
        given = input_number(payload, "k", "INT32")
        k = DEFAULT_PAGE if given is None else int(given)
        if not 1 <= k <= MAX_K:
            raise LimitExceeded(f"k must be 1 to {MAX_K}; got {k}")
        distances, rows = await self._pool.run(snapshot.index_of(self._modality).search, codes, k)
        ids = snapshot.metadata.column("patch_id").take(rows.ravel()).to_pylist()
        patch_ids = np.array(ids, dtype=object).reshape(rows.shape)
        return response(self.name, payload, {"patch_id": patch_ids, "distance": distances})
