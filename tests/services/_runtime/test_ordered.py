"""Streams: answers keep their order, a slow reader holds up its own requests, one who leaves stops the work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from services._runtime.ordered import in_order

WINDOW = 4


async def endless() -> AsyncIterator[int]:
    number = 0
    while True:
        await asyncio.sleep(0)
        yield number
        number += 1


def test_a_slow_reader_holds_up_nobody_s_memory() -> None:
    """However long a reader pauses, no more than a window of its requests is worked on or waits to be read."""
    started: list[int] = []

    async def answer(number: int) -> int:
        started.append(number)
        return number

    async def read() -> None:
        async with aclosing(in_order(endless(), answer, WINDOW)) as answers:
            for taken in range(3):
                assert await anext(answers) == taken
                for _ in range(100):  # the reader pauses, the server could work on
                    await asyncio.sleep(0)
                assert len(started) <= taken + WINDOW

    asyncio.run(read())
    assert len(started) >= WINDOW


def test_who_leaves_stops_the_work() -> None:
    ended: list[int] = []

    async def answer(number: int) -> int:
        try:
            await asyncio.sleep(0 if number == 0 else 3600)
        except asyncio.CancelledError:
            ended.append(number)
            raise
        return number

    async def read() -> None:
        async with aclosing(in_order(endless(), answer, WINDOW)) as answers:
            assert await anext(answers) == 0
            for _ in range(100):
                await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)

    asyncio.run(read())
    assert ended == list(range(1, WINDOW))


def test_answers_keep_their_order_and_a_broken_source_is_heard() -> None:
    async def three() -> AsyncIterator[int]:
        for number in range(3):
            yield number
        raise RuntimeError("the caller vanished")

    async def answer(number: int) -> int:
        await asyncio.sleep(0.01 * (3 - number))
        return number

    got: list[int] = []

    async def read() -> None:
        async for number in in_order(three(), answer, WINDOW):
            got.append(number)

    with pytest.raises(RuntimeError, match="vanished"):
        asyncio.run(read())
    assert got == [0, 1, 2]
