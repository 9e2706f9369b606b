"""Micro-batching of encodes and bounded execution of everything that would block the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from prometheus_client import Counter, Gauge, Histogram

from eoforge.index.encoder import Encoder
from services._runtime.errors import DeadlineExceeded, Overloaded
from services._runtime.telemetry import TRACER
from services.retrieval.images import Raster, batch_of

BATCH_SIZE = Histogram("eoforge_encode_batch_size", "Images per encoder call.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
QUEUED = Gauge("eoforge_encode_queue", "Images waiting for the encoder.")
DROPPED = Counter("eoforge_encode_dropped_total", "Images dropped before encoding.", ("why",))

Encoding = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]
"""Packed code ``[K/8]`` and embedding ``[D]``."""
Result = TypeVar("Result")
_FIRST_GUESS_S = 0.05
_MIN_RETRY_S = 0.05


@dataclass(slots=True)
class _Waiting:
    encoder: Encoder
    raster: Raster
    deadline: float | None
    future: asyncio.Future[Encoding]


class EncodeBatcher:
    """Collects images of concurrent requests into batches for the encoder, which runs in a thread of its own.

    Args:
        max_batch: Images per encoder call.
        max_delay: Seconds that an image waits for company.
        max_queue: Images that may wait.
    """

    def __init__(self, max_batch: int, max_delay: float, max_queue: int) -> None:
        self._max_batch, self._max_delay, self._max_queue = max_batch, max_delay, max_queue
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._seconds_per_batch = _FIRST_GUESS_S
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the worker in the running loop."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Stops the worker; nothing may be waiting any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._pool.shutdown(wait=True)

    async def encode(self, encoder: Encoder, rasters: Sequence[Raster], deadline: float | None) -> list[Encoding]:
        """Encodes images, in order.

        Args:
            encoder: Images are batched only with others for the same encoder.
            rasters: The images.
            deadline: ``time.monotonic()`` after which the caller no longer cares.

        Raises:
            Overloaded: There is no room for that many images.
            DeadlineExceeded: The deadline passed while they waited.
        """
        if len(self._waiting) + len(rasters) > self._max_queue:
            batches = -(-len(self._waiting) // self._max_batch)
            wait = max(_MIN_RETRY_S, batches * self._seconds_per_batch)
            raise Overloaded(
                f"{len(self._waiting)} images are waiting for the encoder; try again in {wait:.2f} s", wait
            )
        loop = asyncio.get_running_loop()
        items = [_Waiting(encoder, r, deadline, loop.create_future()) for r in rasters]
        self._waiting.extend(items)
        QUEUED.set(len(self._waiting))
        self._arrived.set()
        # A cancelled call cancels its futures, which is how the worker knows to leave the images out.
        return list(await asyncio.gather(*(i.future for i in items)))

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self._max_batch:
                await asyncio.sleep(self._max_delay)
            batch = self._next_batch()
            if batch:
                await self._run(batch)

    async def _run(self, batch: list[_Waiting]) -> None:
        BATCH_SIZE.observe(len(batch))
        started = time.monotonic()
        rasters = [i.raster for i in batch]
        loop = asyncio.get_running_loop()
        try:
            with TRACER.start_as_current_span("encode", attributes={"batch": len(batch)}):
                codes, embeddings = await loop.run_in_executor(self._pool, _encode, batch[0].encoder, rasters)
        except Exception as error:
            for item in batch:
                if not item.future.done():
                    item.future.set_exception(error)
            return
        self._seconds_per_batch += 0.2 * (time.monotonic() - started - self._seconds_per_batch)
        for item, code, embedding in zip(batch, codes, embeddings, strict=True):
            if not item.future.done():
                item.future.set_result((code, embedding))

    def _next_batch(self) -> list[_Waiting]:
        """Takes the oldest image and those that can go with it; drops what nobody waits for any more."""
        batch: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        now = time.monotonic()
        for item in self._waiting:
            if item.future.cancelled():
                DROPPED.labels("cancelled").inc()
            elif item.deadline is not None and item.deadline <= now:
                DROPPED.labels("deadline").inc()
                item.future.set_exception(DeadlineExceeded("the deadline passed while the image waited to be encoded"))
            elif len(batch) < self._max_batch and (not batch or _together(batch[0], item)):
                batch.append(item)
            else:
                left.append(item)
        self._waiting = left
        QUEUED.set(len(left))
        if not left:
            self._arrived.clear()
        return batch


class BoundedPool:
    """Threads for blocking work, with a bound on what may wait for them.

    Args:
        workers: Threads.
        max_waiting: Calls that may wait besides those that run.
    """

    def __init__(self, workers: int, max_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="search")
        self._limit, self._inside = workers + max_waiting, 0
        self._workers, self._seconds = workers, _FIRST_GUESS_S

    async def run(self, function: Callable[..., Result], *args: object) -> Result:
        """Runs ``function(*args)`` in a thread.

        Raises:
            Overloaded: Too many calls are waiting.
        """
        if self._inside >= self._limit:
            wait = max(_MIN_RETRY_S, self._inside / self._workers * self._seconds)
            raise Overloaded(f"{self._inside} searches are waiting; try again in {wait:.2f} s", wait)
        self._inside += 1
        started = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        finally:
            self._inside -= 1
            self._seconds += 0.05 * (time.monotonic() - started - self._seconds)

    def stop(self) -> None:
        """Waits for what runs."""
        self._pool.shutdown(wait=True)


def _together(first: _Waiting, other: _Waiting) -> bool:
    return first.encoder is other.encoder and first.raster.modality == other.raster.modality


def _encode(encoder: Encoder, rasters: Sequence[Raster]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    return encoder.encode(batch_of(rasters), rasters[0].modality)
