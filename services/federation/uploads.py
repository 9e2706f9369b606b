"""Receiver of chunks: each is checked and stored before the next message of its stream is read."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DataRefused, LimitExceeded, NotFound, UsageError
from eoforge.federated.checks import ChunkFacts, chunk_facts
from eoforge.federated.store.chunk_store import ChunkStore
from eoforge.storage.tensorfile import Layout, chunk_span
from services._runtime.errors import Overloaded
from services._runtime.fair import caller_name, last_of_busiest
from services.federation.telemetry import BYTES

STORING = 8
"""Chunks that are stored at the same time, over all streams: memory does not grow with the number of silos."""
MAX_STREAMS = 4
"""Streams of one caller: one in use, and lost ones that the server has not detected yet."""
MAX_REMEMBERED = 1024
RETRY_SECONDS = 1.0

Run = Callable[..., Any]


async def chunks_of(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[tuple[int, bytes]]:
    """Position and bytes of each chunk of a stream; a message is freed as soon as its bytes are copied.

    Args:
        first: First message, which may lack a chunk; the caller should drop its own reference.
        rest: Further messages.
    """
    message = first if first.HasField("chunk") else await anext(rest, None)
    del first
    while message is not None:
        index, data = message.chunk.index, message.chunk.data  # reading ``data`` copies it
        del message
        yield index, data
        del data
        message = await anext(rest, None)


@dataclass
class _PartialFacts:
    """Facts on the chunks of an update that have arrived."""

    name: tuple[str, str]
    layout: Layout
    facts: dict[int, ChunkFacts] = field(default_factory=dict)


@dataclass(eq=False)
class _Stream:
    """Place of one stream among all uploads."""

    caller: str
    scope: asyncio.Timeout | None = None
    displaced: bool = False

    def displace(self) -> None:
        """Ends the stream at its next wait for a chunk, or now if it waits."""
        self.displaced = True
        if self.scope is not None:
            self.scope.reschedule(asyncio.get_running_loop().time())


class Uploads:
    """Receiver of chunks. Places are shared fairly: if all are taken, the caller with most of them loses its last one.

    Args:
        in_thread: Runs a blocking function on a thread.
        limit: Largest number of streams at the same time.
    """

    def __init__(self, in_thread: Run, limit: int) -> None:
        self._in_thread, self._limit = in_thread, limit
        self._streams: list[_Stream] = []
        self._storing = asyncio.Semaphore(STORING)
        self._seen: OrderedDict[str, _PartialFacts] = OrderedDict()  # one per silo, because headers may be long

    async def receive(
        self,
        objects: ChunkStore,
        manifest: pb.Manifest,
        digest: str,
        chunks: AsyncIterator[tuple[int, bytes]],
        squares: bool | None,
    ) -> int:
        """Stores the chunks of one stream and returns their number; all are stored when the call returns.

        Args:
            objects: Target of the chunks.
            manifest: Expected chunks.
            digest: Digest of the manifest.
            chunks: Stream of chunks, see :func:`chunks_of`.
            squares: Whether the norm is needed; None for chunks whose elements are not inspected.

        Raises:
            Overloaded: Too many uploads run, in total or for this caller.
            DataRefused: The digest of a chunk differs from the manifest.
            LimitExceeded: A chunk is longer than chunks are.
        """
        stream = _Stream(caller_name() if squares is None else _silo(objects))  # over all runs and rounds
        self._admit(stream)
        running: set[asyncio.Future[None]] = set()
        stored = 0
        try:
            while (arrived := await self._next(stream, chunks)) is not None:
                index, data = arrived
                del arrived
                if index >= len(manifest.chunks):
                    raise UsageError(f"chunk {index} of {len(manifest.chunks)}: count from 0")
                first, last = chunk_span(index, manifest.length)
                if len(data) != last - first:
                    raise LimitExceeded(f"chunk {index} must have {last - first} bytes; got {len(data)}")
                for task in [task for task in running if task.done()]:
                    running.remove(task)
                    task.result()
                await self._storing.acquire()
                work = self._in_thread(self._store, objects, manifest, digest, index, data, squares)
                running.add(task := asyncio.ensure_future(work))
                task.add_done_callback(lambda _: self._storing.release())
                del data  # else every waiting stream would hold a chunk
                stored += 1
            await asyncio.gather(*running)
        finally:
            self._streams.remove(stream)
            if running:
                await asyncio.wait(running)
        return stored

    def _admit(self, stream: _Stream) -> None:
        callers = [other.caller for other in self._streams if not other.displaced]
        if callers.count(stream.caller) >= MAX_STREAMS:
            raise Overloaded(f"{MAX_STREAMS} uploads of {stream.caller or 'this caller'} run already", RETRY_SECONDS)
        if len(callers) >= self._limit:
            last = last_of_busiest(callers, stream.caller)
            if last is None:
                raise Overloaded(f"{self._limit} uploads run already", RETRY_SECONDS)
            [other for other in self._streams if not other.displaced][last].displace()
        self._streams.append(stream)

    async def _next(self, stream: _Stream, chunks: AsyncIterator[tuple[int, bytes]]) -> tuple[int, bytes] | None:
        """Next chunk of a stream that still has its place; None at the end."""
        try:
            async with asyncio.timeout(0 if stream.displaced else None) as stream.scope:
                return await anext(chunks, None)
        except TimeoutError as error:
            if not stream.displaced:
                raise
            raise Overloaded(
                "another caller needs the place of this upload; send the rest later", RETRY_SECONDS
            ) from error
        finally:
            stream.scope = None

    def facts(self, objects: ChunkStore, manifest: pb.Manifest, digest: str, squares: bool) -> list[ChunkFacts]:
        """Facts on each chunk; chunks that arrived before a restart are read and inspected now.

        Raises:
            DataRefused: The update is no safetensors file.
            NotFound: A chunk is missing.
        """
        seen = self._facts_for(objects, manifest, digest, None)
        facts = []
        for index, chunk in enumerate(manifest.chunks):
            if index not in seen.facts:
                seen.facts[index] = chunk_facts(seen.layout, index, objects.chunk(chunk), squares)
            facts.append(seen.facts[index])
        return facts

    def forget(self, objects: ChunkStore, digest: str) -> None:
        """Drops the facts on an update that has its verdict."""
        seen = self._seen.get(_silo(objects))
        if seen is not None and seen.name == (objects.prefix, digest):
            self._seen.pop(_silo(objects), None)

    def _store(
        self, objects: ChunkStore, manifest: pb.Manifest, digest: str, index: int, data: bytes, squares: bool | None
    ) -> None:
        expected = manifest.chunks[index]
        if hashlib.sha256(data).digest() != expected:
            raise DataRefused(f"chunk {index} does not have the SHA-256 that the manifest names; send it again")
        objects.put_chunk(expected, data)
        BYTES.labels("up").inc(len(data))
        if squares is None:
            return
        try:
            seen = self._facts_for(objects, manifest, digest, data if index == 0 else None)
        except (NotFound, DataRefused, LimitExceeded):
            return  # inspected again, with an answer to the silo, when the update is submitted
        seen.facts[index] = chunk_facts(seen.layout, index, data, squares)

    def _facts_for(self, objects: ChunkStore, manifest: pb.Manifest, digest: str, first: bytes | None) -> _PartialFacts:
        name = (objects.prefix, digest)
        seen = self._seen.get(_silo(objects))
        if seen is None or seen.name != name:
            start = objects.chunk(manifest.chunks[0]) if first is None else first
            made = _PartialFacts(name, Layout.parse(start, manifest.length))
            seen = self._seen.get(_silo(objects))  # the thread of another chunk may have been faster
            if seen is None or seen.name != name:
                self._seen[_silo(objects)] = seen = made
            while len(self._seen) > MAX_REMEMBERED:
                self._seen.popitem(last=False)
        return seen


def _silo(objects: ChunkStore) -> str:
    """Silo of an upload folder: the last part of its prefix."""
    return objects.prefix.rsplit("/", 1)[-1]
