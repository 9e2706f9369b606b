"""Bidirectional streams: requests overlap within a window, answers keep their order, a failed one does not end it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import grpc
import structlog

from eoforge.errors import LimitExceeded
from services._runtime.admission import RESERVATION, Reservation
from services._runtime.errors import describe, duration, forget, report
from services._runtime.wire import COPIES, field_head

MAX_CORRELATION_BYTES = 128
ANSWER_BYTES = 1 << 20
"""Reserved for an answer whose size is not known yet."""

Request = TypeVar("Request")
Answer = TypeVar("Answer")


async def in_order(
    requests: AsyncIterator[Request], answer: Callable[[Request], Awaitable[Answer]], window: int
) -> AsyncGenerator[Answer, None]:
    """Answers of a stream of requests, in their order; at most ``window`` are worked on at the same time.

    Requests that are worked on and answers that wait to be read count in the caller's share of bytes in flight; a
    stream whose share is used up goes on when its reader has read. Its one request that waits for that is not counted.

    Close the generator (``contextlib.aclosing``): that stops the work.
    """
    slots, parent = asyncio.Semaphore(window), RESERVATION.get()
    running: asyncio.Queue[tuple[asyncio.Task[Answer], Reservation] | None] = asyncio.Queue()

    async def run(request: Request, size: int, reservation: Reservation) -> Answer:
        RESERVATION.set(reservation)
        await reservation.take(size + ANSWER_BYTES, unbounded=True)
        found = await answer(request)
        reservation.resize(COPIES * _size(found))
        return found

    async def read() -> None:
        while True:
            await slots.acquire()
            try:
                request = await anext(requests)
            except StopAsyncIteration:
                return
            size, reservation = parent.held, parent.child()
            parent.resize(0)  # a request that has bytes while it waits for its turn would keep others from theirs
            running.put_nowait((asyncio.create_task(run(request, size, reservation)), reservation))
            del request

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: running.put_nowait(None))
    reservation = parent.child()
    try:
        while (taken := await running.get()) is not None:
            task, reservation = taken
            yield await task
            del taken, task
            reservation.resize(0)
            slots.release()
        await reader  # raises what ended the reading, if anything did
    finally:
        reservation.resize(0)
        reader.cancel()
        while not running.empty():
            if (taken := running.get_nowait()) is not None:
                taken[0].cancel()
                taken[0].add_done_callback(lambda _, left=taken[1]: left.resize(0))  # type: ignore[misc]


def _size(message: Any) -> int:
    if isinstance(message, bytes):
        return len(message)
    return int(message.ByteSize()) if hasattr(message, "ByteSize") else 0


async def fill(answer: Any, request: Any, error_type: Any, result: Callable[[], Awaitable[Any]]) -> Any:
    """Puts the result of one request of a stream into its answer, or the error that a unary call would have ended with.

    A result that was serialised, because it is large, makes a serialised answer.

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
        made = await result()
        if isinstance(made, bytes):
            number = answer.DESCRIPTOR.fields_by_name["result"].number
            return b"".join((answer.SerializeToString(), field_head(number, len(made)), made))
        answer.result.CopyFrom(made)
    except Exception as error:
        problem = describe(error, structlog.contextvars.get_contextvars().get("request_id", ""))
        report(problem, error)
        forget(error)
        answer.error.CopyFrom(
            error_type(code=problem.entry.status.value[0], reason=problem.reason, message=problem.message)
        )
        if problem.retry_after is not None:
            answer.error.retry_delay.CopyFrom(duration(problem.retry_after))
    return answer


async def answers_of(
    requests: AsyncIterator[Any],
    answer_type: Callable[[], Any],
    error_type: Any,
    result: Callable[[Any], Awaitable[Any]],
    window: int,
) -> AsyncGenerator[Any, None]:
    """Answers of a stream of requests in their order, each with a result or an error (:func:`in_order`, :func:`fill`).

    Args:
        requests: Messages with ``correlation_id``.
        answer_type: Message with ``correlation_id``, ``result`` and ``error``.
        error_type: The API's ``Error`` message.
        result: Result of one request.
        window: Limit of requests at the same time.
    """

    async def answer(request: Any) -> Any:
        return await fill(answer_type(), request, error_type, lambda: result(request))

    async with aclosing(in_order(requests, answer, window)) as answers:
        async for found in answers:
            yield found


def deadline_of(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """``time.monotonic()`` at which the caller stops waiting, if it said so."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
