"""A share per caller: one token bucket each, in bounded memory."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from services._runtime.errors import QuotaExceeded

MAX_CALLERS = 10_000
"""Buckets kept; beyond that the caller unseen for longest starts afresh."""


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
