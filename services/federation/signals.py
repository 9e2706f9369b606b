"""Signal of changes for all waiting streams."""

from __future__ import annotations

import asyncio


class Signal:
    """Events that wake all waiters at once: those that want every change, or those that wait for tasks.

    A waiter takes :meth:`current` or :meth:`current_task` before it reads the state, so that it misses no change.
    """

    def __init__(self) -> None:
        self._any, self._task = asyncio.Event(), asyncio.Event()

    def current(self) -> asyncio.Event:
        """Event that the next change sets."""
        return self._any

    def current_task(self) -> asyncio.Event:
        """Event that the next change sets after which a silo may have another task."""
        return self._task

    def notify(self, *, tasks: bool = True) -> None:
        """Wakes all waiters; without ``tasks`` not those that wait for tasks, of whom there may be a thousand."""
        self._any.set()
        self._any = asyncio.Event()
        if tasks:
            self._task.set()
            self._task = asyncio.Event()
