"""Cooperative cancellation of a silo's task: the coordinator sets it, the trainer checks it between two steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from eoforge.errors import EoforgeError


class TaskCancelled(EoforgeError):
    """Cancelled task: its round goes on without this silo, or its run has ended."""


_CANCELLED: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)


def raise_if_cancelled() -> None:
    """Check for trainers; nothing happens outside of :func:`cancellation_by`.

    Raises:
        TaskCancelled: The coordinator cancelled the task; its result is of no use.
    """
    cancelled = _CANCELLED.get()
    if cancelled is not None and cancelled.is_set():
        raise TaskCancelled("the coordinator cancelled this task; the round goes on without its result")


@contextmanager
def cancellation_by(cancelled: threading.Event) -> Iterator[None]:
    """Context in which :func:`raise_if_cancelled` checks ``cancelled``, on this thread."""
    token = _CANCELLED.set(cancelled)
    try:
        yield
    finally:
        _CANCELLED.reset(token)
