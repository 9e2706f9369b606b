"""Pool of spawned processes that end with their parent (Lance is not fork-safe)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from eoforge.errors import EoforgeError, UsageError
from eoforge.logs import configure_logs

T = TypeVar("T")


def in_processes(function: Callable[..., T], calls: Sequence[tuple[Any, ...]], workers: int) -> Iterator[T]:
    """Results of ``function(*call)`` in the order of the calls; with one worker in this process, else in spawned ones.

    Args:
        function: A module-level function.
        calls: Arguments of each call.
        workers: Limit of processes.

    Raises:
        UsageError: ``workers`` is not positive.
        EoforgeError: A worker process was killed, usually by lack of memory.
        Exception: The first exception of ``function``; calls that did not start are dropped.
    """
    if workers < 1:
        raise UsageError(f"workers must be at least 1; got {workers}")
    workers = min(workers, len(calls))
    if workers <= 1:
        for call in calls:
            yield function(*call)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        futures = [pool.submit(function, *call) for call in calls]
        try:
            for future in futures:
                yield future.result()
        except BrokenProcessPool as error:
            raise EoforgeError(
                f"one of {workers} worker processes was killed, usually by lack of memory. Finished shards are kept: "
                "run the command again with fewer workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Ends this worker when its parent ends: the workers of an executor outlive a killed parent."""
    # Ctrl-C reaches the whole process group; the parent reports to the user, the workers end silently.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    configure_logs(as_json=not sys.stderr.isatty())  # a new process would log to standard output
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
