"""Timing of calls to a service: one client, and several concurrent clients."""

from __future__ import annotations

import asyncio
import multiprocessing
import queue
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

SECONDS = 5.0
START_S = 300.0

Call = Callable[[Any], Awaitable[Any]]


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


async def one_by_one(call: Call, items: Sequence[Any]) -> list[float]:
    """Seconds per call, one in flight."""
    times = []
    for item in items:
        start = time.perf_counter()
        await call(item)
        times.append(time.perf_counter() - start)
    return times


async def together(call: Call, clients: int, items: Sequence[Any]) -> dict[str, float]:
    """Calls a second and latencies with ``clients`` in flight."""
    times: list[float] = []
    end = time.perf_counter() + SECONDS

    async def client(number: int) -> None:
        turn = number
        while time.perf_counter() < end:
            start = time.perf_counter()
            await call(items[turn % len(items)])
            times.append(time.perf_counter() - start)
            turn += clients

    start = time.perf_counter()
    await asyncio.gather(*(client(i) for i in range(clients)))
    return {"calls_per_second": round(len(times) / (time.perf_counter() - start), 1), **percentiles(times)}


@contextmanager
def process_of(serve: Callable[..., None], *arguments: Any) -> Iterator[Callable[[], str]]:
    """Runs ``serve(*arguments, ready)`` in a process of its own.

    Yields:
        A function that waits for the port that ``serve`` puts into ``ready``, and gives the address.

    Raises:
        SystemExit: The process ended before that.
    """
    context = multiprocessing.get_context("spawn")
    ready: Any = context.Queue()
    process = context.Process(target=serve, args=(*arguments, ready), daemon=True)
    process.start()

    def address() -> str:
        end = time.monotonic() + START_S
        while time.monotonic() < end and process.is_alive():
            with suppress(queue.Empty):
                return f"127.0.0.1:{ready.get(timeout=1.0)}"
        raise SystemExit(f"the service did not start (exit code {process.exitcode})")

    try:
        yield address
    finally:
        process.terminate()
        process.join()
