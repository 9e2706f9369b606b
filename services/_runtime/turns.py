"""Large copies on the event loop, of few milliseconds in one turn of it.

gRPC copies a message between its own memory and Python's on the event loop: some milliseconds for a large one. Of
several that arrive together each is copied in a turn of its own, so that other callers are answered between them. A
caller whose copy took long makes the next one after a pause of the same length: an answer to somebody else takes
several turns, and would otherwise wait for a copy in each of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
TURN_SECONDS = 0.002
"""Time for copies in one turn, after which the next one waits; a small message takes some microseconds of it."""


MOST_PAUSED = 1000
"""Callers from which on those whose pause is over are forgotten."""


class Turns:
    """Time that copies took in the present turn of the event loop.

    Args:
        clock: Seconds that this thread has computed: a busy machine does not make a copy larger.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self.clock, self._spent = clock, 0.0
        self._paused: dict[str, float] = {}

    async def free(self, caller: str) -> None:
        """Waits for the end of the caller's pause, and for a turn in which there is time left."""
        while (pause := self._paused.get(caller, 0.0) - time.monotonic()) > 0 or self._spent >= TURN_SECONDS:
            await asyncio.sleep(max(pause, 0.0))
        self._paused.pop(caller, None)

    def take(self, seconds: float, caller: str) -> None:
        """Counts time in the present turn, and the caller's pause if it was much."""
        if not self._spent:
            asyncio.get_running_loop().call_soon(self._begin)
        self._spent += seconds
        if seconds >= TURN_SECONDS:
            now = time.monotonic()
            if len(self._paused) >= MOST_PAUSED:
                self._paused = {name: until for name, until in self._paused.items() if until > now}
            self._paused[caller] = now + seconds

    async def copy(self, make: Callable[[], Result], caller: str) -> Result:
        """Result of ``make``, which copies much, in a turn with time left."""
        await self.free(caller)
        started = self.clock()
        try:
            return make()
        finally:
            self.take(self.clock() - started, caller)

    def _begin(self) -> None:
        self._spent = 0.0


class InTurn(Generic[Result]):
    """Awaitable of a coroutine each of whose steps waits for a turn with time left.

    Args:
        work: A read or write of gRPC; one of its steps makes the copy.
        turns: Of the event loop.
        caller: Name of the caller.
    """

    def __init__(self, work: Coroutine[Any, Any, Result], turns: Turns, caller: str) -> None:
        self._work, self._turns, self._caller = work, turns, caller

    def __await__(self) -> Generator[Any, Any, Result]:
        error: BaseException | None = None
        while True:
            try:
                yield from self._turns.free(self._caller).__await__()
            except BaseException as raised:
                error = raised
            started = self._turns.clock()
            try:
                awaited = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as done:
                result: Result = done.value
                return result
            finally:
                self._turns.take(self._turns.clock() - started, self._caller)
            error = None
            try:
                yield awaited
            except BaseException as raised:
                error = raised
