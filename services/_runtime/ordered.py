"""Bidirectional streams: requests overlap within a window, answers keep their order, a failed one does not end it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import structlog

from eoforge.errors import LimitExceeded
from services._runtime.errors import describe, duration
from services._runtime.interceptor import report

MAX_CORRELATION_BYTES = 128

Request = TypeVar("Request")
Answer = TypeVar("Answer")


async def in_order(
    requests: AsyncIterator[Request], answer: Callable[[Request], Awaitable[Answer]], window: int
) -> AsyncGenerator[Answer, None]:
    """Answers of a stream of requests, in their order; at most ``window`` are worked on at the same time.

    Close it (``contextlib.aclosing``): whoever stops listening stops the work.
    """
    slots = asyncio.Semaphore(window)
    running: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue()

    async def run(request: Request) -> Answer:
        return await answer(request)

    async def read() -> None:
        async for request in requests:
            await slots.acquire()
            running.put_nowait(asyncio.create_task(run(request)))

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: running.put_nowait(None))
    try:
        while (task := await running.get()) is not None:
            yield await task
            slots.release()
        await reader  # raises what ended the reading, if anything did
    finally:
        reader.cancel()
        while not running.empty():
            if (task := running.get_nowait()) is not None:
                task.cancel()


async def fill(answer: Any, request: Any, error_type: Any, result: Callable[[], Awaitable[Any]]) -> Any:
    """Puts the result of one request of a stream into its answer, or the error that a unary call would have ended with.

    Args:
        answer: Empty message with ``correlation_id``, ``result`` and ``error``.
        request: Message with ``correlation_id``.
        error_type: The API's ``Error`` message: code, reason, message, retry_delay.
        result: Does the work.
    """
    answer.correlation_id = request.correlation_id[:MAX_CORRELATION_BYTES]
    try:
        if len(request.correlation_id.encode()) > MAX_CORRELATION_BYTES:
            raise LimitExceeded(f"correlation_id may have {MAX_CORRELATION_BYTES} bytes")
        answer.result.CopyFrom(await result())
    except Exception as error:
        problem = describe(error, structlog.contextvars.get_contextvars().get("request_id", ""))
        report(problem, error)
        answer.error.CopyFrom(
            error_type(code=problem.entry.status.value[0], reason=problem.reason, message=problem.message)
        )
        if problem.retry_after is not None:
            answer.error.retry_delay.CopyFrom(duration(problem.retry_after))
    return answer


def deadline_of(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """``time.monotonic()`` at which the caller stops waiting, if it said so."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
