"""What callers may hold of one process: calls, streams, and bytes of messages in flight; shared fairly between them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from prometheus_client import Gauge

from services._runtime.errors import Overloaded, QuotaExceeded

RETRY_SECONDS = 1.0
MAX_CALLERS = 10_000
"""Buckets kept; beyond that the caller unseen for longest starts afresh."""
BYTES = Gauge("eoforge_bytes_in_flight", "Bytes that calls hold or have reserved: messages, and what they become.")


class Budget:
    """Bytes over all calls of the process; one caller holds at most half of them.

    Who asks for more waits: callers in turn, the calls of each in their order.

    Args:
        total: Bytes.
        patience: Seconds that a call waits.
    """

    def __init__(self, total: int, patience: float) -> None:
        self._total, self._share, self._patience = total, total // 2, patience
        self._used = 0
        self._by_caller: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()

    async def take(self, caller: str, size: int, *, patient: bool = False) -> int:
        """Takes ``size`` bytes, or half of all if that is less, and returns how many.

        Args:
            caller: Whose share they are of.
            size: How many.
            patient: Wait for as long as it takes.

        Raises:
            Overloaded: They did not become free in time.
        """
        size = min(size, self._share)
        if caller not in self._waiting and self._fits(caller, size):
            self.add(caller, size)
            return size
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append((size, turn))
        self._grant()  # others may wait for what this caller does not need
        try:
            async with asyncio.timeout(None if patient else self._patience):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():  # granted in the same moment
                self.add(caller, -size)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise Overloaded(
                f"the service holds as many bytes of messages as it may; try again in {RETRY_SECONDS:g} s",
                RETRY_SECONDS,
            ) from error
        finally:
            turn.cancel()
            self._grant()
        return size

    def add(self, caller: str, size: int) -> None:
        """Takes or, below 0, gives back bytes without waiting."""
        self._used += size
        self._by_caller[caller] += size
        if self._by_caller[caller] <= 0:
            del self._by_caller[caller]
        BYTES.set(self._used)
        if size < 0:
            self._grant()

    def _fits(self, caller: str, size: int) -> bool:
        return self._used + size <= self._total and self._by_caller[caller] + size <= self._share

    def _grant(self) -> None:
        for caller in list(self._waiting):
            queue = self._waiting[caller]
            while queue and queue[0][1].done():  # gave up
                queue.popleft()
            while queue and self._fits(caller, queue[0][0]):
                size, turn = queue.popleft()
                if turn.done():
                    continue
                self.add(caller, size)
                turn.set_result(None)
                self._waiting.move_to_end(caller)
                break
            if not queue:
                del self._waiting[caller]


class Hold:
    """The bytes that one call, or one request of a stream, holds of a budget.

    Args:
        budget: Of the process; None counts nothing.
        caller: Whose share they are of.
    """

    def __init__(self, budget: Budget | None, caller: str) -> None:
        self._budget, self.caller, self._held = budget, caller, 0

    async def take(self, size: int, *, patient: bool = False) -> None:
        """Holds ``size`` bytes more; waits for them as long as it takes if ``patient``.

        Raises:
            Overloaded: They did not become free in time.
        """
        if self._budget is not None:
            self._held += await self._budget.take(self.caller, size, patient=patient)

    def settle(self, size: int) -> None:
        """Holds ``size`` bytes from now on, whatever it held."""
        if self._budget is not None and size != self._held:
            change, self._held = size - self._held, size
            self._budget.add(self.caller, change)

    def child(self) -> Hold:
        """An empty one of the same caller."""
        return Hold(self._budget, self.caller)


HOLD: ContextVar[Hold] = ContextVar("hold", default=Hold(None, ""))  # noqa: B039  # one of no budget never changes
"""Of the call, or the request of a stream, that is being answered."""


class Admission:
    """Calls and streams of requests at the same time: over all, and for each caller.

    Args:
        calls: Over all callers.
        calls_each: Of one caller.
        streams_each: Streams of requests of one caller.
    """

    def __init__(self, calls: int, calls_each: int, streams_each: int) -> None:
        self._most, self._calls_each, self._streams_each = calls, calls_each, streams_each
        self._total = 0
        self._calls: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()

    @contextmanager
    def enter(self, caller: str, *, streams: bool = False) -> Iterator[None]:
        """Counts a call while it is answered.

        Raises:
            Overloaded: There are too many.
        """
        if self._total >= self._most:
            raise Overloaded(f"{self._total} calls are being answered; try again later", RETRY_SECONDS)
        if self._calls[caller] >= self._calls_each:
            raise Overloaded(f"{caller} may make {self._calls_each} calls at the same time", RETRY_SECONDS)
        if streams and self._streams[caller] >= self._streams_each:
            raise Overloaded(f"{caller} may have {self._streams_each} streams at the same time", RETRY_SECONDS)
        self._total += 1
        self._calls[caller] += 1
        self._streams[caller] += streams
        try:
            yield
        finally:
            self._total -= 1
            for counter, by in ((self._calls, 1), (self._streams, int(streams))):
                counter[caller] -= by
                if counter[caller] <= 0:
                    del counter[caller]


class Quota:
    """Token buckets by caller name.

    Args:
        per_second: Tokens that come back each second; None means no quota.
        burst: Size of a bucket.
        clock: Seconds from a monotonic clock.
    """

    def __init__(self, per_second: float | None, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = per_second, float(burst), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Takes one token.

        Raises:
            QuotaExceeded: The bucket is empty; says when the next token is there.
        """
        delay = self._try(caller)
        if delay > 0:
            raise QuotaExceeded(
                f"{caller} may make {self._rate:g} requests a second ({self._burst:g} at once); "
                f"try again in {delay:.3f} s",
                delay,
            )

    async def wait(self, caller: str) -> None:
        """Takes one token, waiting for it: on a stream, flow control does what an error does elsewhere."""
        while (delay := self._try(caller)) > 0:
            await asyncio.sleep(delay)

    def _try(self, caller: str) -> float:
        """Takes a token and returns 0, or returns the seconds until there is one."""
        if self._rate is None:
            return 0.0
        now = self._clock()
        level, then = self._buckets.pop(caller, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._rate)
        taken = level >= 1.0
        self._buckets[caller] = (level - 1.0 if taken else level, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1.0 - level) / self._rate
