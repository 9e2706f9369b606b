"""Waking everyone who waits for a change."""

from __future__ import annotations

import asyncio


class Signal:
    """Wakes all waiters at once. Take :meth:`current` before looking at what may change: then nothing is missed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def current(self) -> asyncio.Event:
        """Set at the next change."""
        return self._event

    def notify(self) -> None:
        """Something changed."""
        self._event.set()
        self._event = asyncio.Event()
