"""Circuit breaker: an owner that has not answered in time several times in a row is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Decision whether to ask one owner.

    It opens after ``limit`` time-outs in a row. After the pause one query is the probe: it is let through, and all
    others wait for another pause or for its answer, which closes the breaker.

    Args:
        limit: Time-outs in a row that open it.
        pause_seconds: Time without questions.
        clock: Seconds that never go back.
    """

    def __init__(self, limit: int, pause_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._pause, self._clock = limit, pause_seconds, clock
        self._late, self._until = 0, 0.0

    def wait(self, *, probe: bool = True) -> float:
        """0 where the owner may be asked now, and seconds until the next probe otherwise.

        Args:
            probe: Whether the query may be the probe: it has time enough to tell something.
        """
        if self._late < self._limit:
            return 0.0
        now = self._clock()
        if now < self._until:
            return self._until - now
        if not probe:
            return self._pause
        self._until = now + self._pause  # a probe that its caller gives up needs no clean-up: the next one follows
        return 0.0

    def record(self, late: bool) -> None:
        """Counts a time-out; every other outcome closes the breaker."""
        self._late = self._late + 1 if late else 0
        if self._late >= self._limit:
            self._until = self._clock() + self._pause
