"""Progress of long work: a bar on a terminal, structured log lines elsewhere (a pod, a pipe, CI)."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_INTERVAL_S = 10.0


class Tracker(Protocol):
    """Receiver of progress."""

    def advance(self, steps: int = 1) -> None:
        """Adds ``steps`` completed steps."""


class _BarTracker:
    def __init__(self, progress: Progress, total: int | None, what: str) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=total)

    def advance(self, steps: int = 1) -> None:
        self._progress.advance(self._task, steps)


class _LogTracker:
    """Log lines at even intervals, by a thread of its own: a single step may take minutes."""

    def __init__(self, total: int | None, what: str) -> None:
        self._log = structlog.get_logger("progress").bind(what=what, total=total)
        self._start = time.monotonic()
        self._done = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report_until_end, name="progress", daemon=True)
        self._thread.start()

    def advance(self, steps: int = 1) -> None:
        self._done += steps

    def end(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join()

    def _report_until_end(self) -> None:
        while not self._ended.wait(LOG_INTERVAL_S):
            self.report("progress")

    def report(self, event: str) -> None:
        elapsed = time.monotonic() - self._start
        self._log.info(
            event, done=self._done, seconds=round(elapsed, 1), per_second=round(self._done / max(elapsed, 1e-9), 1)
        )


@contextmanager
def track(what: str, total: int | None = None) -> Iterator[Tracker]:
    """Progress of ``what`` on standard error until the block ends.

    Args:
        what: Short description for the user ("ingesting patches").
        total: Number of steps, if known.
    """
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            yield _BarTracker(progress, total, what)
        return
    tracker = _LogTracker(total, what)
    try:
        yield tracker
    finally:
        tracker.end()
    tracker.report("done")
