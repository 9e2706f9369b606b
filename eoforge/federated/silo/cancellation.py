"""How whoever trains hears that nobody waits for the result any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from eoforge.errors import EoforgeError


class Abandoned(EoforgeError):
    """The round goes on without this task, or its run has ended."""


_TOLD: ContextVar[threading.Event | None] = ContextVar("abandoned", default=None)


def stop_if_told() -> None:
    """For trainers, between two steps: costs nothing until the coordinator calls the task off.

    Raises:
        Abandoned: It has; nothing that the task made is needed.
    """
    told = _TOLD.get()
    if told is not None and told.is_set():
        raise Abandoned("the coordinator called this task off; it goes on without its result")


@contextmanager
def listening(told: threading.Event) -> Iterator[None]:
    """Lets :func:`stop_if_told` look at ``told`` on this thread."""
    token = _TOLD.set(told)
    try:
        yield
    finally:
        _TOLD.reset(token)
