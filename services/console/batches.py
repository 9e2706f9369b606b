"""Choice of the next batches of annotation sessions in a worker process, while people answer."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import structlog

WORKERS = 1
"""Processes: choices of several sessions wait for each other, so that the work of the console stays bounded."""
MAX_WAITING = 32
AGAIN_SECONDS = 30.0
"""Time after a failure until a choice is tried again."""

log = structlog.get_logger("batches")


class Batches:
    """Choices that run or have failed, at most one for each session; thread-safe.

    A choice that is lost with its process is made again, by any console: a session stores each batch once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._running: dict[str, Future[None]] = {}
        self._failed: dict[str, float] = {}

    def ensure(self, address: str) -> None:
        """Starts the choice of a session's next batch, unless it runs, failed a moment ago, or too many wait."""
        with self._lock:
            failed = self._failed.get(address)
            if address in self._running or len(self._running) >= MAX_WAITING:
                return
            if failed is not None and time.monotonic() - failed < AGAIN_SECONDS:
                return
            if self._pool is None:
                self._pool = ProcessPoolExecutor(WORKERS, get_context("spawn"), _be_quiet)
            try:
                future = self._pool.submit(_select, address)
            except BrokenProcessPool:  # a worker was killed; the next call starts a new one
                self._pool = None
                return
            self._running[address] = future
        future.add_done_callback(lambda done: self._ended(address, done))

    def running(self, address: str) -> bool:
        """Whether the choice of a session's next batch waits or runs."""
        return address in self._running

    def failed(self, address: str) -> bool:
        """Whether the last choice of a session failed."""
        return address in self._failed

    def close(self) -> None:
        """Ends the worker at once; a choice that runs is lost and made again by the next console."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            # Without this the interpreter waits for the choice at its end; Python 3.14 has a public call for it.
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self, address: str, done: Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        with self._lock:
            self._running.pop(address, None)
            self._failed.pop(address, None)
            if error is not None:
                self._failed[address] = time.monotonic()
            if isinstance(error, BrokenProcessPool):
                self._pool = None
        if error is not None:
            log.error("choice of a batch failed", session=address, exc_info=error)


def _be_quiet() -> None:
    """Leaves processor time to the people's pages."""
    os.nice(10)


def _select(address: str) -> None:
    import torch

    from eoforge.methods.anneal.sessions import AnnotationSession

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    AnnotationSession.open(address).select_next()


BATCHES = Batches()
