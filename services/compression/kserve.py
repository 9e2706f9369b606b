"""Open Inference Protocol V2 models for patches of one sensor: compression, decompression, hash codes.

Streams have the datatype BYTES: raw bytes over gRPC, base64 text in JSON.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from kserve import InferRequest, InferResponse, Model

from eoforge.codec.coder import MaxError, Rate
from eoforge.codec.learned.streams import stored_codes
from eoforge.codec.raster import Raster
from eoforge.data.bands import GROUPS, MODALITIES, BandGroup
from eoforge.errors import DataRefused, LimitExceeded, UsageError
from services._runtime.oip import DATATYPES, input_array, input_number, response
from services.compression.settings import CompressionSettings
from services.compression.work import Work


class PatchModel(Model):
    """Base of the models.

    Args:
        settings: Names and limits.
        modality: Sensor.
        work: Coding in batches and threads.
    """

    kind: ClassVar[str]
    """Part of the model's name before the sensor."""

    def __init__(self, settings: CompressionSettings, modality: str, work: Work) -> None:
        super().__init__(f"{settings.model_name}-{self.kind}-{modality}")
        self._modality, self._work, self._limit = modality, work, settings.codec_queue
        self._groups = [g for g in GROUPS if set(g.bands) <= set(MODALITIES[modality])]

    def load(self) -> bool:
        """Readiness. KServe calls this for a model that is not ready; the service itself loads what it serves."""
        return bool(self.ready)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of the input."""
        return [{"name": "stream", "datatype": "BYTES", "shape": [-1]}]

    @property
    def _tensors(self) -> list[dict[str, Any]]:
        return [{"name": g.column, "datatype": DATATYPES[g.dtype], "shape": [-1, *g.shape]} for g in self._groups]

    def _streams(self, payload: InferRequest) -> list[bytes]:
        given = input_array(payload, "stream", "BYTES", (), self._limit).tolist()
        try:
            return [s if isinstance(s, bytes) else base64.b64decode(s, validate=True) for s in given]
        except (binascii.Error, ValueError, TypeError) as error:
            raise UsageError("a stream in JSON must be base64 text; over gRPC it is the bytes themselves") from error


class CompressModel(PatchModel):
    """Compression model: at ``quality``, within ``max_error`` (DN or dB), or at the codec's middle quality."""

    kind = "compress"

    def get_input_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each input; ``quality`` and ``max_error`` are optional."""
        rates = [{"name": name, "datatype": "FP32", "shape": [1]} for name in ("quality", "max_error")]
        return [*self._tensors, *rates]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each output; only learned streams have codes."""
        return [
            {"name": "stream", "datatype": "BYTES", "shape": [-1]},
            {"name": "code", "datatype": "UINT8", "shape": [-1, -1]},
        ]

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None, response_headers: Any = None
    ) -> InferResponse:
        """Streams of the patches of one request.

        Raises:
            UsageError: An input is missing or has another type or shape.
            LimitExceeded: There are too many patches.
            NotFound: A quality is requested and the server has no codec.
        """
        arrays = {g: input_array(payload, g.column, DATATYPES[g.dtype], g.shape, self._limit) for g in self._groups}
        if len({len(a) for a in arrays.values()}) != 1:
            raise UsageError("all inputs need the same number of patches")
        rate = self._rate(payload)
        count = len(next(iter(arrays.values())))
        rasters = [Raster({b: a[i, j] for g, a in arrays.items() for j, b in enumerate(g.bands)}) for i in range(count)]
        streams = await self._work.compress(rasters, rate, "", None)
        outputs = {"stream": _bytes(streams, raw=payload.from_grpc)}
        if rate.learned:
            outputs["code"] = np.concatenate(
                [stored_codes(s, self._work.coder.limits)[self._modality] for s in streams]
            )
        return response(self.name, payload, outputs)

    def _rate(self, payload: InferRequest) -> Rate:
        quality, error = (input_number(payload, name, "FP32") for name in ("quality", "max_error"))
        if error is None:
            return Rate(quality=quality)
        if self._modality == "s1":
            return Rate(quality=quality, max_error=MaxError(s1=error))
        if error != int(error):
            raise UsageError("max_error of optical bands must be a whole number")
        return Rate(quality=quality, max_error=MaxError(s2=int(error)))


class DecompressModel(PatchModel):
    """Decompression model: streams of whole patches to pixels on native grids."""

    kind = "decompress"

    def get_output_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each output."""
        return self._tensors

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None, response_headers: Any = None
    ) -> InferResponse:
        """Pixels of the streams of one request.

        Raises:
            UsageError: An input is missing or malformed, or a stream holds no whole patch of this sensor.
            LimitExceeded: There are too many streams.
            DataRefused: A stream is damaged.
        """
        streams = self._streams(payload)
        needed = {band for group in self._groups for band in group.bands}
        for stream in streams:
            header = self._work.header(stream)
            if header.shape != (GROUPS[0].size, GROUPS[0].size) or not needed <= set(header.bands):
                raise UsageError(f"{self.name} decodes patches with all bands; use Decompress of the typed API")
        size, limit = len(streams) * sum(_group_bytes(g) for g in self._groups), self._work.settings.max_raster_bytes
        if size > limit:
            raise LimitExceeded(f"an answer may have at most {limit} bytes; {len(streams)} patches have {size}")
        rasters = await self._work.decompress(streams, None)
        outputs = {g.column: np.stack([[r.bands[b] for b in g.bands] for r in rasters]) for g in self._groups}
        return response(self.name, payload, outputs)


class HashModel(PatchModel):
    """Hash model: learned streams to codes of one sensor, without decoding pixels."""

    kind = "hash"

    def get_output_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of the output."""
        return [{"name": "code", "datatype": "UINT8", "shape": [-1, -1]}]

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None, response_headers: Any = None
    ) -> InferResponse:
        """Hash codes of the streams of one request.

        Raises:
            UsageError: The input is missing or malformed, or a stream is tiled.
            DataRefused: A stream is damaged, bounded, or holds nothing of this sensor.
        """
        found = await self._work.codes(self._streams(payload), None)
        rows = [codes.get(self._modality) for codes in found]
        if any(row is None for row in rows):
            raise DataRefused(f"a stream holds no bands of {self._modality}; ask the model of its sensor")
        if any(row is not None and len(row) != 1 for row in rows):
            raise UsageError("a tiled stream has a code for every tile; use HashStream of the typed API")
        return response(self.name, payload, {"code": np.concatenate([row for row in rows if row is not None])})


def _group_bytes(group: BandGroup) -> int:
    return int(np.prod(group.shape)) * np.dtype(group.dtype).itemsize


def _bytes(streams: list[bytes], *, raw: bool) -> Any:
    out = np.empty(len(streams), dtype=object)
    out[:] = streams if raw else [base64.b64encode(s).decode("ascii") for s in streams]
    return out
