"""Signal of changes for all waiting streams."""

from __future__ import annotations

import asyncio


class Signal:
    """Event that wakes all waiters at once.

    A waiter takes :meth:`current` before it reads the state, so that it misses no change.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def current(self) -> asyncio.Event:
        """Event that the next change sets."""
        return self._event

    def notify(self) -> None:
        """Wakes all waiters."""
        self._event.set()
        self._event = asyncio.Event()
