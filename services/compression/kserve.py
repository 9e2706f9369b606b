"""Open Inference Protocol V2 models for patches of one sensor: compression, decompression, hash codes.

Streams have the datatype BYTES: the bytes themselves in binary data, base64 text in JSON. Tensors are read and made in
threads.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from kserve import InferRequest, InferResponse, Model

from eoforge.codec.coder import MaxError, Rate
from eoforge.codec.learned.streams import stored_codes
from eoforge.codec.raster import Raster
from eoforge.data.bands import GROUPS, MODALITIES, BandGroup
from eoforge.errors import DataRefused, LimitExceeded, UsageError
from services._runtime.oip.answers import require_json_fits, response
from services._runtime.oip.tensors import DATATYPES, band_tensor, input_array, input_number, tensor
from services.compression.settings import CompressionSettings
from services.compression.work import Work

STREAM = tensor("stream", "BYTES", -1, json="base64")
CODE = tensor("code", "UINT8", -1, -1, unit="8 bits; bit k of a code is bit k % 8 of byte k // 8", range="0 to 255")


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
        self._settings, self._modality, self._work, self._limit = settings, modality, work, settings.codec_queue
        self._groups = [g for g in GROUPS if set(g.bands) <= set(MODALITIES[modality])]

    def get_input_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of the input."""
        return [STREAM]

    @property
    def _tensors(self) -> list[dict[str, Any]]:
        return [band_tensor(group) for group in self._groups]

    def _streams(self, payload: InferRequest) -> list[bytes]:
        given = input_array(payload, "stream", "BYTES", (), self._limit).tolist()
        try:
            return [s if isinstance(s, bytes) else base64.b64decode(s, validate=True) for s in given]
        except (binascii.Error, ValueError, TypeError) as error:
            raise UsageError(
                "a stream in JSON must be base64 text; in binary data it is the bytes themselves"
            ) from error


class CompressModel(PatchModel):
    """Compression model: at ``quality``, within ``max_error`` (DN or dB), or at the codec's middle quality."""

    kind = "compress"

    def get_input_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each input; ``quality`` and ``max_error`` are optional."""
        unit = "dB" if self._modality == "s1" else "digital numbers"
        rates = (
            tensor("quality", "FP32", 1, optional="true", range="0 (smallest) to the codec's max_quality"),
            tensor("max_error", "FP32", 1, optional="true", unit=unit, range="0 (lossless) or more"),
        )
        return [*self._tensors, *rates]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each output; only learned streams have codes."""
        return [STREAM, CODE]

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None, response_headers: Any = None
    ) -> InferResponse:
        """Streams of the patches of one request.

        Raises:
            UsageError: An input is missing or has another type or shape.
            LimitExceeded: There are too many patches.
            NotFound: A quality is requested and the server has no codec.
        """
        rasters, rate = await self._work.in_thread(self._given, payload)
        streams = await self._work.compress(rasters, rate, "", None)
        del rasters
        return response(self.name, payload, await self._work.in_thread(self._outputs, streams, rate))

    def _given(self, payload: InferRequest) -> tuple[list[Raster], Rate]:
        arrays = {g: input_array(payload, g.column, DATATYPES[g.dtype], g.shape, self._limit) for g in self._groups}
        if len({len(a) for a in arrays.values()}) != 1:
            raise UsageError("all inputs need the same number of patches")
        count = len(next(iter(arrays.values())))
        rasters = [Raster({b: a[i, j] for g, a in arrays.items() for j, b in enumerate(g.bands)}) for i in range(count)]
        return rasters, self._rate(payload)

    def _outputs(self, streams: list[bytes], rate: Rate) -> dict[str, Any]:
        outputs: dict[str, Any] = {"stream": np.empty(len(streams), dtype=object)}
        outputs["stream"][:] = streams
        if rate.learned:
            codes = [stored_codes(s, self._work.coder.limits)[self._modality] for s in streams]
            outputs["code"] = np.concatenate(codes)
        return outputs

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
        streams = await self._work.in_thread(self._checked, payload)
        rasters = await self._work.decompress(streams, None)
        return response(self.name, payload, await self._work.in_thread(self._outputs, rasters))

    def _checked(self, payload: InferRequest) -> list[bytes]:
        streams = self._streams(payload)
        needed = {band for group in self._groups for band in group.bands}
        for stream in streams:
            header = self._work.header(stream)
            if header.shape != (GROUPS[0].size, GROUPS[0].size) or not needed <= set(header.bands):
                raise UsageError(f"{self.name} decodes patches with all bands; use Decompress of the typed API")
            for grid, part in (header.profile.grids if header.profile else {}).items():
                if part.masked or part.nodata not in (None, 0.0):
                    raise UsageError(
                        f"the stream marks pixels of {grid} as invalid, which tensors cannot; use Decompress of the "
                        "typed API"
                    )
        size, limit = len(streams) * sum(_group_bytes(g) for g in self._groups), self._settings.max_raster_bytes
        if size > limit:
            raise LimitExceeded(f"an answer may have at most {limit} bytes; {len(streams)} patches have {size}")
        values = {g.column: len(streams) * math.prod(g.shape) for g in self._groups}
        require_json_fits(payload, values, self._settings)
        return streams

    def _outputs(self, rasters: list[Raster]) -> dict[str, Any]:
        return {g.column: np.stack([[r.bands[b] for b in g.bands] for r in rasters]) for g in self._groups}


class HashModel(PatchModel):
    """Hash model: learned streams to codes of one sensor, without decoding pixels."""

    kind = "hash"

    def get_output_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of the output."""
        return [CODE]

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None, response_headers: Any = None
    ) -> InferResponse:
        """Hash codes of the streams of one request.

        Raises:
            UsageError: The input is missing or malformed, or a stream is tiled.
            DataRefused: A stream is damaged, bounded, or holds nothing of this sensor.
        """
        found = await self._work.codes(await self._work.in_thread(self._streams, payload), None)
        rows = [codes.get(self._modality) for codes in found]
        if any(row is None for row in rows):
            raise DataRefused(f"a stream holds no bands of {self._modality}; ask the model of its sensor")
        if any(row is not None and len(row) != 1 for row in rows):
            raise UsageError("a tiled stream has a code for every tile; use HashStream of the typed API")
        return response(self.name, payload, {"code": np.concatenate([row for row in rows if row is not None])})


def _group_bytes(group: BandGroup) -> int:
    return math.prod(group.shape) * np.dtype(group.dtype).itemsize
