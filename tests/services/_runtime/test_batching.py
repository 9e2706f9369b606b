"""Batches of several requests: a request whose item failed takes no more of the others' time."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Hashable, Sequence
from typing import Any

import pytest

from eoforge.errors import UsageError
from services._runtime.auth import CALLER, Caller
from services._runtime.batching import Batcher, BatchMetrics
from services._runtime.errors import DeadlineExceeded, Overloaded

METRICS = BatchMetrics("batching_test", "things")


def work(seen: list[str]) -> Any:
    def do(key: Hashable, items: Sequence[str]) -> list[str | Exception]:
        seen.extend(items)
        return [UsageError(item) if item.startswith("bad") else item for item in items]

    return do


async def submitted(batcher: Batcher[Any, Any], *items: str, deadline: float | None = None, caller: str = "a") -> Any:
    CALLER.set(Caller(caller, "token"))
    return await batcher.submit([("key", item) for item in items], deadline)


def test_the_rest_of_a_failed_request_is_left_out() -> None:
    async def run() -> list[str]:
        seen: list[str] = []
        batcher: Batcher[Any, Any] = Batcher(work(seen), METRICS, 1, 0.0, 10)
        batcher.start()
        with pytest.raises(UsageError, match="bad"):
            await submitted(batcher, "bad", "second", "third")
        assert await submitted(batcher, "good", "too") == ["good", "too"]
        await batcher.stop()
        return seen

    assert asyncio.run(run()) == ["bad", "good", "too"]


def test_a_request_that_lost_its_place_leaves_it_whole() -> None:
    """The queue is full of one caller's items; another's takes the place of the last, and all its siblings go."""

    async def run() -> list[str]:
        seen: list[str] = []
        batcher: Batcher[Any, Any] = Batcher(work(seen), METRICS, 4, 0.0, 4)
        many = asyncio.create_task(submitted(batcher, "1", "2", "3", "4"))
        await asyncio.sleep(0)
        few = asyncio.create_task(submitted(batcher, "other", caller="b"))
        await asyncio.sleep(0)
        more = asyncio.create_task(submitted(batcher, "5", "6", "7", caller="c"))  # there is room again
        await asyncio.sleep(0)
        batcher.start()
        with pytest.raises(Overloaded):
            await many
        assert await few == ["other"]
        assert await more == ["5", "6", "7"]
        await batcher.stop()
        return sorted(seen)

    assert asyncio.run(run()) == ["5", "6", "7", "other"]


def test_late_items_fail_and_nothing_keeps_the_items_of_a_request() -> None:
    class Item(str):
        pass

    async def run() -> None:
        batcher: Batcher[Any, Any] = Batcher(lambda key, items: [len(i) for i in items], METRICS, 4, 0.0, 4)
        batcher.start()
        with pytest.raises(DeadlineExceeded):
            await submitted(batcher, "1", "2", deadline=0.0)
        item = Item("abc")
        kept = weakref.ref(item)
        gc.disable()
        try:
            assert await batcher.submit([("key", item)], None) == [3]
            del item
            await asyncio.sleep(0.01)
            assert kept() is None
        finally:
            gc.enable()
        await batcher.stop()

    asyncio.run(run())
