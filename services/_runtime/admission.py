"""Admission of calls: bytes of messages in flight, calls and streams at the same time, calls a second; per caller."""

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
    """Budget of bytes over all calls of the process; one caller holds at most half of it.

    Calls beyond it wait: callers in turn, the calls of each in their order. A call that holds bytes and needs more goes
    before those that hold none, and one such call at a time goes beyond the bounds: otherwise calls that hold bytes
    would wait for each other.

    Args:
        total: Bytes.
        timeout: Seconds that a call waits.
    """

    def __init__(self, total: int, timeout: float) -> None:
        self._total, self._share, self._timeout = total, total // 2, timeout
        self._used = 0
        self._by_caller: Counter[str] = Counter()
        self._further, self._first = _Queues(), _Queues()
        self._beyond: Reservation | None = None

    async def take(self, holder: Reservation, size: int, *, unbounded: bool = False) -> int:
        """Takes ``size`` bytes, or half of all if that is less, and returns how many.

        Args:
            holder: Reservation that will hold them.
            size: How many.
            unbounded: Wait for as long as it takes.

        Raises:
            Overloaded: The bytes did not become free in time.
        """
        caller, size = holder.caller, min(size, self._share)
        queues = self._further if holder.held else self._first
        if holder is self._beyond or (caller not in queues and self._fits(caller, size)):
            self.add(caller, size)
            return size
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queues.setdefault(caller, deque()).append((holder, size, turn))
        self._grant()  # others may wait for what this caller does not need
        try:
            async with asyncio.timeout(None if unbounded else self._timeout):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():  # granted in the same moment
                self.add(caller, -size)
                self.within(holder)
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

    def within(self, holder: Reservation) -> None:
        """Ends the holder's right, if it has it, to go beyond the bounds."""
        if holder is self._beyond:
            self._beyond = None
            self._grant()

    def _fits(self, caller: str, size: int) -> bool:
        return self._used + size <= self._total and self._by_caller[caller] + size <= self._share

    def _grant(self) -> None:
        for queues in (self._further, self._first):
            for caller in list(queues):
                queue = queues[caller]
                while queue and queue[0][2].done():  # gave up
                    queue.popleft()
                if queue and (self._fits(caller, queue[0][1]) or (queues is self._further and self._beyond is None)):
                    holder, size, turn = queue.popleft()
                    if not self._fits(caller, size):
                        self._beyond = holder
                    self.add(caller, size)
                    turn.set_result(None)
                    queues.move_to_end(caller)
                if not queue:
                    del queues[caller]


class _Queues(OrderedDict[str, "deque[tuple[Reservation, int, asyncio.Future[None]]]"]):
    """Takes that wait, by caller."""


class Reservation:
    """Reservation of bytes of a budget, for one call or one request of a stream.

    Args:
        budget: Of the process; None counts nothing.
        caller: Name of the caller.
    """

    def __init__(self, budget: Budget | None, caller: str) -> None:
        self._budget, self.caller, self._held = budget, caller, 0

    async def take(self, size: int, *, unbounded: bool = False) -> None:
        """Holds ``size`` bytes more; waits for them as long as it takes if ``unbounded``.

        Raises:
            Overloaded: The bytes did not become free in time.
        """
        if self._budget is not None:
            self._held += await self._budget.take(self, size, unbounded=unbounded)

    @property
    def held(self) -> int:
        """Reserved bytes."""
        return self._held

    def resize(self, size: int) -> None:
        """Sets the reserved bytes to ``size``: of a message that was read, or of an answer that was made."""
        if self._budget is None:
            return
        if size != self._held:
            change, self._held = size - self._held, size
            self._budget.add(self.caller, change)
        self._budget.within(self)

    def child(self) -> Reservation:
        """Empty reservation of the same caller."""
        return Reservation(self._budget, self.caller)


RESERVATION: ContextVar[Reservation] = ContextVar("reservation", default=Reservation(None, ""))  # noqa: B039  # one of no budget never changes
"""Reservation of the current call, or of the current request of a stream."""


class Admission:
    """Bounds on calls and streams of requests at the same time: over all callers, and for each.

    Args:
        calls: Over all callers.
        calls_each: Of one caller.
        streams_each: Streams of requests of one caller.
    """

    def __init__(self, calls: int, calls_each: int, streams_each: int) -> None:
        self._limit, self._calls_each, self._streams_each = calls, calls_each, streams_each
        self._total = 0
        self._calls: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()

    @contextmanager
    def enter(self, caller: str, *, streams: bool = False) -> Iterator[None]:
        """Counts a call while it is answered.

        Raises:
            Overloaded: Too many calls or streams are open.
        """
        if self._total >= self._limit:
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
