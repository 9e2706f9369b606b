"""Servicer of the typed API; blocking work runs in threads, which also make and serialise large answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any

import grpc

from eoforge.api.compression.v1 import compression_pb2 as pb
from eoforge.api.compression.v1 import compression_pb2_grpc
from eoforge.codec.coder import NAME_CHARS
from eoforge.codec.container import Kind
from eoforge.codec.learned.streams import stored_codes
from eoforge.codec.raster import BAND_ORDER
from eoforge.data.bands import MODALITIES as BANDS
from eoforge.data.modalities import COMPRESSION_MODALITIES
from eoforge.errors import UsageError
from services._runtime.errors import argument
from services._runtime.ordered import answers_of, deadline_of
from services.compression.rasters import KINDS, code_messages, info_message, rate_of
from services.compression.work import Work

BOUNDED = "bounded"
"""Name of the bounded coder in ListCodecs."""

Context = grpc.aio.ServicerContext


class CompressionServicer(compression_pb2_grpc.CompressionServiceServicer):
    """Implementation of ``CompressionService``; the interceptor of the runtime maps raised errors to statuses."""

    def __init__(self, work: Work, window: int) -> None:
        self._work, self._window = work, window

    async def Compress(self, request: pb.CompressRequest, context: Context[Any, Any]) -> bytes:
        """See the proto."""
        return await self._compress(request, deadline_of(context))

    async def CompressStream(
        self, requests: AsyncIterator[pb.CompressStreamRequest], context: Context[Any, Any]
    ) -> AsyncIterator[pb.CompressStreamResponse]:
        """See the proto. Rasters are processed concurrently within a window, so that they share calls of the codec."""
        deadline = deadline_of(context)

        def compress(given: pb.CompressStreamRequest) -> Awaitable[bytes]:
            return self._compress(given.compress, deadline)

        found = answers_of(requests, pb.CompressStreamResponse, pb.Error, compress, self._window)
        async with aclosing(found) as responses:
            async for response in responses:
                yield response

    async def Decompress(self, request: pb.DecompressRequest, context: Context[Any, Any]) -> bytes:
        """See the proto."""
        return await self._decompress(request, deadline_of(context))

    async def DecompressStream(
        self, requests: AsyncIterator[pb.DecompressStreamRequest], context: Context[Any, Any]
    ) -> AsyncIterator[pb.DecompressStreamResponse]:
        """See the proto. Streams are processed concurrently within a window."""
        deadline = deadline_of(context)

        def decompress(given: pb.DecompressStreamRequest) -> Awaitable[bytes]:
            return self._decompress(given.decompress, deadline)

        found = answers_of(requests, pb.DecompressStreamResponse, pb.Error, decompress, self._window)
        async with aclosing(found) as responses:
            async for response in responses:
                yield response

    async def HashStream(self, request: pb.HashStreamRequest, context: Context[Any, Any]) -> pb.HashStreamResponse:
        """See the proto."""
        [header] = await self._work.headers([request.stream])
        codec = self._work.coder.reader(header)
        [codes] = await self._work.codes([request.stream], deadline_of(context))
        return pb.HashStreamResponse(codes=code_messages(codes), bundle_id=codec.bundle_id if codec else "")

    async def Inspect(self, request: pb.InspectRequest, context: Context[Any, Any]) -> pb.InspectResponse:
        """See the proto."""
        with argument("stream"):
            [header] = await self._work.headers([request.stream])
        return pb.InspectResponse(info=info_message(header, len(request.stream)))

    async def Transcode(self, request: pb.TranscodeRequest, context: Context[Any, Any]) -> bytes:
        """See the proto."""
        deadline = deadline_of(context)
        with argument("rate"):
            rate = rate_of(request.rate)
        with argument("stream"):
            [header] = await self._work.headers([request.stream])
            [raster] = await self._work.decompress([request.stream], deadline)
        [stream] = await self._work.compress([raster], rate, request.codec or header.bundle, deadline)
        return await self._work.in_thread(self._described, pb.TranscodeResponse, stream)

    async def ListCodecs(self, request: pb.ListCodecsRequest, context: Context[Any, Any]) -> pb.ListCodecsResponse:
        """See the proto. The list has one page, so no page token is valid."""
        if request.page_token:
            with argument("page_token"):
                raise UsageError("page_token was not issued by this service; the list has one page")
        codecs = []
        for bundle_id, method in self._work.codecs.methods.items():
            config = self._work.coder.named(bundle_id[:NAME_CHARS]).config
            codecs.append(
                pb.Codec(
                    name=bundle_id[:NAME_CHARS],
                    bundle_id=bundle_id,
                    method=method,
                    kind=KINDS[Kind.LEARNED],
                    bands=[
                        pb.CodecBands(modality=COMPRESSION_MODALITIES[m], bands=names)
                        for m, names in config.bands.items()
                    ],
                    max_quality=config.steps - 1,
                    code_bits=config.bits,
                )
            )
        all_bands = [
            pb.CodecBands(modality=number, bands=[b for b in BAND_ORDER if b in BANDS[modality]])
            for modality, number in COMPRESSION_MODALITIES.items()
        ]
        codecs.append(pb.Codec(name=BOUNDED, kind=KINDS[Kind.BOUNDED], bands=all_bands))
        return pb.ListCodecsResponse(codecs=codecs)

    async def _compress(self, request: pb.CompressRequest, deadline: float | None) -> bytes:
        with argument("rate"):
            rate = rate_of(request.rate)
        with argument("raster"):
            raster, lost = await self._work.read(request.raster, rate)
        [stream] = await self._work.compress([raster], rate, request.codec, deadline)
        return await self._work.in_thread(self._described, pb.CompressResponse, stream, lost)

    async def _decompress(self, request: pb.DecompressRequest, deadline: float | None) -> bytes:
        with argument("stream"):
            [raster] = await self._work.decompress([request.stream], deadline)
        return await self._work.write(raster, request.format)

    def _described(
        self, kind: type[pb.CompressResponse | pb.TranscodeResponse], stream: bytes, lost: tuple[str, ...] = ()
    ) -> bytes:
        """Serialised response with a stream, its header and codes, and warnings of what was not kept."""
        header = self._work.header(stream)
        codes = code_messages(stored_codes(stream, self._work.coder.limits)) if header.codes else []
        response = kind(stream=stream, info=info_message(header, len(stream)), codes=codes)
        if lost and isinstance(response, pb.CompressResponse):
            response.warnings.extend(lost)
        return response.SerializeToString()
