"""Share of a caller in the threads that answer pages: so many requests at the same time, the others in their turn."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.console.live import MAX_PER_CALLER

AT_ONCE = 8 + MAX_PER_CALLER
"""Requests of one caller that are answered at the same time, its live pages included; there are 40 threads for all."""


class Shares:
    """Places of all callers, for one event loop.

    Args:
        each: Places of a caller.
    """

    def __init__(self, each: int = AT_ONCE) -> None:
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
