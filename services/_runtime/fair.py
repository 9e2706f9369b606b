"""Fair shares of callers: a thread pool for blocking work, by cost and not by number of calls; and places.

Waiting calls start in the order of start-time fair queueing (Goyal, Vin and Cheng, 1996): each caller's calls are lined
up by the cost of those before, so twelve expensive calls of one caller do not delay a cheap call of another. A running
call cannot be stopped; therefore expensive calls never occupy the last thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from eoforge.errors import StoreError
from services._runtime.auth import CALLER
from services._runtime.errors import Overloaded

Result = TypeVar("Result")
EXPENSIVE_BYTES = 2 << 20
"""Cost from which a call counts as expensive; a patch with all bands has 304,000 bytes."""
_MIN_COST = 1 << 12
_MAX_CALLERS = 1000
_FIRST_GUESS_S = 0.05
_MIN_RETRY_S = 0.05


def caller_name() -> str:
    """Name of the caller of the current call, or an empty text."""
    found = CALLER.get(None)
    return "" if found is None else found.name


@dataclass(eq=False, slots=True)
class _Job:
    caller: str
    start: float
    expensive: bool
    work: Callable[[], Any]
    future: asyncio.Future[Any]


class FairPool:
    """Threads for blocking work, with a bound on what may wait for them.

    When the queue is full, the caller with most calls in it loses its last one to a caller with fewer.

    Args:
        workers: Threads.
        max_waiting: Calls that may wait besides those that run.
        things: What the calls are, in the plural, for messages and thread names.
        timeout: Seconds after which a caller is told that the store does not answer; None for work that ends by itself.
    """

    def __init__(self, workers: int, max_waiting: int, things: str, timeout: float | None = None) -> None:
        # A thread more than workers: expensive calls leave one thread free, also if there are few.
        self._expensive_limit, self._limit = max(1, workers - 1), max(2, workers) if timeout is None else workers
        self._pool = ThreadPoolExecutor(self._limit, thread_name_prefix=things)
        self._workers, self._max_waiting, self._things, self._timeout = workers, max_waiting, things, timeout
        self._waiting: list[_Job] = []
        self._running = self._running_expensive = 0
        self._clock = 0.0
        self._finish: dict[str, float] = {}
        self._seconds = _FIRST_GUESS_S

    async def run(self, function: Callable[..., Result], *args: object, cost: float = 0.0) -> Result:
        """Runs ``function(*args)`` in a thread.

        Args:
            function: The work.
            args: Its arguments.
            cost: What it costs, in bytes that it makes or reads.

        Raises:
            Overloaded: Too many calls are waiting.
            StoreError: It took longer than the pool's time-out.
        """
        caller = caller_name()
        start = max(self._clock, self._finish.get(caller, 0.0))
        context = contextvars.copy_context()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        box = [args]  # emptied by the work: what it was given must not outlive it where an error is kept
        del args
        job = _Job(caller, start, cost >= EXPENSIVE_BYTES, lambda: context.run(function, *box.pop()), future)
        if len(self._waiting) >= self._max_waiting and not self._can_start(job):
            self._make_room(caller)
        self._finish[caller] = start + max(cost, _MIN_COST)
        self._waiting.append(job)
        self._start_next()
        try:
            async with asyncio.timeout(self._timeout):
                result: Result = await future
                return result
        except TimeoutError as error:
            if self._timeout is None or not future.cancelled():
                raise
            raise StoreError(f"no answer from the store within {self._timeout:g} s") from error
        finally:
            if job in self._waiting:
                self._waiting.remove(job)
            del job, future  # an error would hold them, and they the error: a circle with the message in it

    def stop(self) -> None:
        """Waits for what runs, unless it may hang."""
        self._pool.shutdown(wait=self._timeout is None, cancel_futures=True)

    def _can_start(self, job: _Job) -> bool:
        if job.expensive and self._running_expensive >= self._expensive_limit:
            return False
        return self._running < (
            self._workers if job.expensive or self._running_expensive < self._workers else self._limit
        )

    def _start_next(self) -> None:
        while ready := [job for job in self._waiting if self._can_start(job)]:
            job = min(ready, key=lambda one: one.start)
            self._waiting.remove(job)
            self._clock = max(self._clock, job.start)
            self._running += 1
            self._running_expensive += job.expensive
            started = time.monotonic()
            task = asyncio.get_running_loop().run_in_executor(self._pool, job.work)
            task.add_done_callback(lambda done, job=job, started=started: self._ended(done, job, started))  # type: ignore[misc]

    def _ended(self, done: asyncio.Future[Any], job: _Job, started: float) -> None:
        self._running -= 1
        self._running_expensive -= job.expensive
        self._seconds += 0.05 * (time.monotonic() - started - self._seconds)
        error = None if done.cancelled() else done.exception()
        if not job.future.done():
            if done.cancelled():
                job.future.cancel()
            elif error is not None:
                job.future.set_exception(error)
            else:
                job.future.set_result(done.result())
        del error, done, job
        if len(self._finish) > _MAX_CALLERS or not (self._waiting or self._running):
            self._finish = {caller: finish for caller, finish in self._finish.items() if finish > self._clock}
        self._start_next()

    def _make_room(self, caller: str) -> None:
        """Ends the last waiting call of the caller with most of them, if that is not ``caller``.

        Raises:
            Overloaded: It is, or has no more than ``caller``.
        """
        wait = max(_MIN_RETRY_S, (len(self._waiting) + self._running) / self._workers * self._seconds)
        error = Overloaded(f"{len(self._waiting)} {self._things} are waiting; try again in {wait:.2f} s", wait)
        last = last_of_busiest([job.caller for job in self._waiting], caller)
        if last is None:
            raise error
        self._waiting.pop(last).future.set_exception(error)


def last_of_busiest(callers: list[str], caller: str, count: int = 1) -> int | None:
    """Position of the last item of the caller with most items; None if ``caller`` would have as many with its own."""
    if not callers:
        return None
    busiest = max(set(callers), key=callers.count)
    if callers.count(busiest) <= callers.count(caller) + count:
        return None
    return len(callers) - 1 - callers[::-1].index(busiest)


class Shares:
    """Places of each caller, for one event loop: so many requests at the same time, the others in their turn.

    Args:
        each: Places of a caller.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._places: dict[str, asyncio.Semaphore] = {}
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def enter(self, caller: str) -> AsyncIterator[None]:
        """Waits for a place of the caller and holds it during the block."""
        places = self._places.setdefault(caller, asyncio.Semaphore(self._each))
        self._users[caller] += 1
        try:
            async with places:
                yield
        finally:
            self._users[caller] -= 1
            if not self._users[caller]:
                del self._users[caller], self._places[caller]
