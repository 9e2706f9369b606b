"""Execution of the calls: learned coding in batches, bounded coding and GeoTIFFs in a thread pool."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, cast

from eoforge.api.compression.v1 import compression_pb2 as pb
from eoforge.codec.coder import Coder, Codes, Rate
from eoforge.codec.container import Header, Kind, inspect
from eoforge.codec.raster import Raster
from eoforge.errors import EoforgeError, LimitExceeded
from services._runtime.admission import RESERVATION
from services._runtime.batching import Batcher, BatchMetrics
from services._runtime.errors import NotReady
from services._runtime.fair import EXPENSIVE_BYTES, FairPool
from services._runtime.wire import COPIES
from services.compression.rasters import raster_message, raster_of
from services.compression.settings import CompressionSettings
from services.compression.state import Codecs

Result = TypeVar("Result")
METRICS = BatchMetrics("codec", "patches")
MAX_PIECE = 1 << 19
"""Pixels that a network decodes at once; tiles of ours have 552 x 552 with their overlap."""
_RETRY_S = 5.0
ANSWER_COPIES = 3
"""Pixels that a stream decodes to: as arrays, in the message, and serialised."""


class Work:
    """Compression and decompression for the servicer and the OIP models.

    Args:
        settings: Limits.
        codecs: Loaded codecs; without them calls are refused until :meth:`use`.
    """

    def __init__(self, settings: CompressionSettings, codecs: Codecs | None) -> None:
        self._codecs, self.settings = codecs, settings
        self._pool = FairPool(settings.codec_workers, settings.codec_worker_queue, "patches")
        self._batcher: Batcher[Any, Any] = Batcher(
            self._batch, METRICS, settings.codec_batch, settings.codec_delay_seconds, settings.codec_queue
        )

    @property
    def codecs(self) -> Codecs:
        """Served codecs."""
        if self._codecs is None:
            raise NotReady("the codecs are not there yet; the service answers as soon as they are trained", _RETRY_S)
        return self._codecs

    @property
    def coder(self) -> Coder:
        """Coder with the served codecs."""
        return self.codecs.coder

    def use(self, codecs: Codecs) -> None:
        """Serves these codecs from now on."""
        self._codecs = codecs

    def start(self) -> None:
        """Starts the batcher in the running loop."""
        self._batcher.start()

    async def stop(self) -> None:
        """Stops after running work has ended."""
        await self._batcher.stop()
        self._pool.stop()

    async def in_thread(self, function: Callable[..., Result], *args: object) -> Result:
        """Result of a function that reads or makes tensors, in a thread."""
        return await self._pool.run(function, *args)

    async def read(self, message: pb.Raster, rate: Rate) -> tuple[Raster, tuple[str, ...]]:
        """Raster of a message and what is not kept of it, checked by :func:`raster_of`."""
        limits = self.settings

        def parse() -> tuple[Raster, tuple[str, ...]]:
            return raster_of(message, limits.max_pixels, limits.max_raster_bytes, exact=not rate.learned)

        return await self._pool.run(parse, cost=RESERVATION.get().held / COPIES)

    async def write(self, raster: Raster, pixel_format: int) -> bytes:
        """Serialised DecompressResponse of a raster, with warnings of what the form cannot hold."""

        def written() -> bytes:
            response = pb.DecompressResponse()
            _, lost = raster_message(raster, pixel_format, response.raster)
            response.warnings.extend(lost)
            return response.SerializeToString()

        return await self._pool.run(written, cost=_bytes(raster))

    async def compress(self, rasters: Sequence[Raster], rate: Rate, name: str, deadline: float | None) -> list[bytes]:
        """Streams of rasters; see :meth:`Coder.compress` for errors.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The deadline passed while items waited.
        """
        if not rate.learned:
            return await self._pool.run(self.coder.compress, rasters, rate, cost=sum(map(_bytes, rasters)))
        codec = self.coder.named(name)  # an unknown name is refused before it takes a place in the queue
        if any(_bytes(raster) >= EXPENSIVE_BYTES for raster in rasters):  # fills a batch by itself
            return await self._pool.run(self.coder.compress, rasters, rate, name, cost=sum(map(_bytes, rasters)))
        key = ("compress", codec.bundle_id, rate, name)
        return await self._batcher.submit([(key, raster) for raster in rasters], deadline)

    async def decompress(self, streams: Sequence[bytes], deadline: float | None) -> list[Raster]:
        """Rasters of streams; see :meth:`Coder.decompress` for errors.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The deadline passed while items waited.
        """
        headers = await self.headers(streams)
        for header in headers:
            self._check_output(header)
        size = sum(header.raw_bytes for header in headers)
        await RESERVATION.get().take(ANSWER_COPIES * size)
        if all(self.coder.reader(header) is None for header in headers) or size >= EXPENSIVE_BYTES * len(headers):
            return await self._pool.run(self.coder.decompress, streams, cost=size)
        items = [(("decompress", header.bundle), stream) for header, stream in zip(headers, streams, strict=True)]
        return await self._batcher.submit(items, deadline)

    async def codes(self, streams: Sequence[bytes], deadline: float | None) -> list[Codes]:
        """Codes of learned streams; see :meth:`Coder.codes` for errors.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The deadline passed while items waited.
        """
        headers = await self.headers(streams)
        size = sum(header.raw_bytes for header in headers)
        if size >= EXPENSIVE_BYTES * len(headers):
            return await self._pool.run(lambda: [self.coder.codes(stream) for stream in streams], cost=size)
        items = [(("codes", header.bundle), stream) for header, stream in zip(headers, streams, strict=True)]
        return await self._batcher.submit(items, deadline)

    async def headers(self, streams: Sequence[bytes]) -> list[Header]:
        """Headers of streams, read in a thread: the profile in a header may take milliseconds.

        Raises:
            LimitExceeded: As :meth:`header`.
            DataRefused: As :meth:`header`.
        """
        return await self._pool.run(lambda: [self.header(stream) for stream in streams])

    def header(self, stream: bytes) -> Header:
        """Header of a stream.

        Raises:
            LimitExceeded: The stream is too large, or claims more than the service decodes.
            DataRefused: The bytes are not a stream.
        """
        if len(stream) > self.settings.max_stream_bytes:
            raise LimitExceeded(f"a stream may have at most {self.settings.max_stream_bytes} bytes; got {len(stream)}")
        header = inspect(stream, self.coder.limits)
        piece = math.prod(min(header.tile + 2 * header.overlap, side) if header.tile else side for side in header.shape)
        if header.kind is Kind.LEARNED and piece > MAX_PIECE:
            raise LimitExceeded(f"a learned stream is decoded in pieces of {MAX_PIECE} pixels; this one's have {piece}")
        return header

    def _check_output(self, header: Header) -> None:
        if header.raw_bytes > self.settings.max_raster_bytes:
            raise LimitExceeded(
                f"the stream decodes to {header.raw_bytes} bytes; an answer may have at most "
                f"{self.settings.max_raster_bytes}. Decode it with `eoforge decompress`, which takes any size"
            )

    def _batch(self, key: Hashable, items: Sequence[Any]) -> list[Any]:
        """Results of one call of the codec; after a failure item by item, so that a damaged stream fails alone."""
        kind, *rest = cast("tuple[Any, ...]", key)
        calls: dict[str, Callable[[Sequence[Any]], Sequence[Any]]] = {
            "compress": lambda rasters: self.coder.compress(rasters, rest[1], rest[2]),
            "decompress": self.coder.decompress,
            "codes": lambda streams: [self.coder.codes(stream) for stream in streams],
        }
        call = calls[kind]
        try:
            return list(call(items))
        except EoforgeError as error:
            if len(items) == 1:
                return [error]
        results: list[Any] = []
        for item in items:
            results += self._batch(key, [item])
        return results


def _bytes(raster: Raster) -> int:
    return sum(int(samples.nbytes) for samples in raster.bands.values())
