"""Micro-batching with fair turns of callers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import Counter, Gauge, Histogram

from services._runtime.errors import DeadlineExceeded, Overloaded
from services._runtime.fair import caller_name, last_of_busiest
from services._runtime.telemetry import TRACER

Item = TypeVar("Item")
Result = TypeVar("Result")
_FIRST_GUESS_S = 0.05
_MIN_RETRY_S = 0.05


class BatchMetrics:
    """Metrics of one batcher; made once per process, at import.

    Args:
        name: Part of the metrics' names, such as ``encode``.
        things: What is batched, in the plural.
    """

    def __init__(self, name: str, things: str) -> None:
        self.name, self.things = name, things
        self.size = Histogram(
            f"eoforge_{name}_batch_size",
            f"{things} per {name} call.".capitalize(),
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
        )
        self.queued = Gauge(f"eoforge_{name}_queue", f"{things} waiting for {name}.".capitalize())
        self.dropped = Counter(
            f"eoforge_{name}_dropped_total", f"{things} dropped before {name}.".capitalize(), ("why",)
        )


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    key: Hashable
    item: Item
    deadline: float | None
    future: asyncio.Future[Result]
    caller: str
    turn: int
    request: list[_Waiting[Item, Result]]

    def fail(self, error: Exception) -> None:
        """Fails the item and with it its request, whose other items nobody needs any more."""
        if not self.future.done():
            self.future.set_exception(error)
        for other in self.request:
            other.future.cancel()


class Batcher(Generic[Item, Result]):
    """Collects items of concurrent requests into batches for one function, which runs in a thread of its own.

    A request whose item fails has failed; its items that still wait are left out.

    Callers take turns, item by item. When the queue is full, the caller with most items in it loses its last one, and
    with it that request, to a caller with fewer.

    Args:
        work: Items of one key to their results, in order. A result that is an exception fails its item alone; an
            exception that is raised fails the whole batch.
        metrics: Where sizes, waits and drops are counted.
        max_batch: Items per call.
        max_delay: Seconds that an item waits for others.
        max_queue: Items that may wait.
    """

    def __init__(
        self,
        work: Callable[[Hashable, Sequence[Item]], Sequence[Result | Exception]],
        metrics: BatchMetrics,
        max_batch: int,
        max_delay: float,
        max_queue: int,
    ) -> None:
        self._do, self._metrics = work, metrics
        self._max_batch, self._max_delay, self._max_queue = max_batch, max_delay, max_queue
        self._waiting: list[_Waiting[Item, Result]] = []
        self._turn = 0  # of the last item that was taken
        self._arrived = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=metrics.name)
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

    async def submit(self, items: Sequence[tuple[Hashable, Item]], deadline: float | None) -> list[Result]:
        """Results of ``items``, in order.

        Args:
            items: The items, each with its key: only items of equal keys share a call.
            deadline: ``time.monotonic()`` after which the caller no longer cares.

        Raises:
            Overloaded: There is no room for that many items.
            DeadlineExceeded: The deadline passed while they waited.
        """
        loop, caller = asyncio.get_running_loop(), caller_name()
        self._make_room(caller, len(items))
        turn = max((w.turn for w in self._waiting if w.caller == caller), default=self._turn)
        added: list[_Waiting[Item, Result]] = []
        for number, item in enumerate(items, start=1):
            added.append(_Waiting(*item, deadline, loop.create_future(), caller, turn + number, added))
        self._waiting = sorted([*self._waiting, *added], key=lambda w: w.turn)
        self._metrics.queued.set(len(self._waiting))
        self._arrived.set()
        # A cancelled call cancels its futures, which is how the worker knows to leave the items out.
        try:
            return list(await asyncio.gather(*(w.future for w in added)))
        finally:
            added.clear()  # each item holds the list: a circle with the images in it

    def _make_room(self, caller: str, count: int) -> None:
        wait = max(_MIN_RETRY_S, -(-len(self._waiting) // self._max_batch) * self._seconds_per_batch)
        message = f"{len(self._waiting)} {self._metrics.things} are waiting; try again in {wait:.2f} s"
        while len(self._waiting) + count > self._max_queue:
            last = last_of_busiest([w.caller for w in self._waiting], caller, count)
            if last is None:
                raise Overloaded(message, wait)
            self._waiting[last].fail(Overloaded(message, wait))
            left = [w for w in self._waiting if not w.future.done()]
            self._metrics.dropped.labels("overloaded").inc(len(self._waiting) - len(left))
            self._waiting = left

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self._max_batch:
                await asyncio.sleep(self._max_delay)
            await self._run(self._next_batch())  # no name for the batch: it would keep its items until the next one

    async def _run(self, batch: list[_Waiting[Item, Result]]) -> None:
        if not batch:
            return
        self._metrics.size.observe(len(batch))
        started = time.monotonic()
        items = [w.item for w in batch]
        loop = asyncio.get_running_loop()
        results: Sequence[Result | Exception]
        try:
            with TRACER.start_as_current_span(self._metrics.name, attributes={"batch": len(batch)}):
                results = await loop.run_in_executor(self._pool, self._do, batch[0].key, items)
        except Exception as error:
            results = [error] * len(batch)
        self._seconds_per_batch += 0.2 * (time.monotonic() - started - self._seconds_per_batch)
        for waiting, result in zip(batch, results, strict=True):
            if waiting.future.done():
                continue
            if isinstance(result, Exception):
                waiting.fail(result)
            else:
                waiting.future.set_result(result)

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        """Takes the item whose turn it is and those that can go with it; drops cancelled and late items."""
        batch: list[_Waiting[Item, Result]] = []
        left: list[_Waiting[Item, Result]] = []
        now = time.monotonic()
        for waiting in self._waiting:
            if waiting.future.cancelled():
                self._metrics.dropped.labels("cancelled").inc()
            elif waiting.deadline is not None and waiting.deadline <= now:
                self._metrics.dropped.labels("deadline").inc()
                waiting.fail(DeadlineExceeded(f"the deadline passed while waiting for its turn ({self._metrics.name})"))
            elif len(batch) < self._max_batch and (not batch or batch[0].key == waiting.key):
                batch.append(waiting)
                self._turn = waiting.turn
            else:
                left.append(waiting)
        self._waiting = left
        self._metrics.queued.set(len(left))
        if not left:
            self._arrived.clear()
        return batch
