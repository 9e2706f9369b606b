"""Bytes of strangers, counted before they are parsed; and threads, bytes and calls that callers share."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.errors import LimitExceeded, StoreError, UsageError
from services._runtime.admission import BYTES, Admission, Budget, Reservation
from services._runtime.auth import CALLER, Caller
from services._runtime.errors import Overloaded, describe
from services._runtime.fair import EXPENSIVE_BYTES, FairPool
from services._runtime.wire import Limits, check_json, count_elements, parse

FEW = Limits(1000, depth=4)


def test_empty_messages_and_packed_numbers_are_counted() -> None:
    empties = pb.EncodeRequest(images=[pb.Image()] * 900).SerializeToString()
    assert count_elements(empties, pb.EncodeRequest.DESCRIPTOR, FEW) == 900
    with pytest.raises(LimitExceeded):
        parse(empties + b"\x0a\x00" * 200, pb.EncodeRequest, FEW)
    for name in ("uint_contents", "fp32_contents", "fp64_contents", "bool_contents"):
        tensor = oip_pb2.ModelInferRequest.InferInputTensor()
        getattr(tensor.contents, name).extend([1] * 1001)
        with pytest.raises(LimitExceeded):
            parse(oip_pb2.ModelInferRequest(inputs=[tensor]).SerializeToString(), oip_pb2.ModelInferRequest, FEW)
    raw = oip_pb2.ModelInferRequest(raw_input_contents=[bytes(1 << 20)])
    assert parse(raw.SerializeToString(), oip_pb2.ModelInferRequest, FEW)[0] == raw


def test_depth_is_bounded() -> None:
    box = pb.BoundingBox(lon_min=1.0)
    message = pb.SearchStreamRequest(search=pb.SearchRequest(filter=pb.Filter(bounds=box)))
    raw = message.SerializeToString()
    assert parse(raw, pb.SearchStreamRequest, FEW)[0] == message
    with pytest.raises(LimitExceeded):
        parse(raw, pb.SearchStreamRequest, Limits(1000, depth=3))


@given(st.binary(max_size=200))
def test_whatever_bytes_come_they_are_counted_or_refused(raw: bytes) -> None:
    try:
        message, size = parse(raw, pb.SearchRequest, FEW)
    except UsageError:
        return
    assert message == pb.SearchRequest.FromString(raw)
    assert size >= len(raw)


@pytest.mark.parametrize(
    "text",
    [b"[" * 40 + b"]" * 40, b"[" + b"{}," * 20 + b"{}]", b"[" + b"1," * 2000 + b"1]"],
    ids=["nested", "objects", "numbers"],
)
def test_json_is_counted(text: bytes) -> None:
    with pytest.raises(LimitExceeded):
        check_json(text, FEW)
    check_json(b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT32","data":[1]}]}', FEW)


def test_the_budget_is_shared_and_bounded() -> None:
    async def main() -> None:
        budget = Budget(100, timeout=0.05)
        greedy, modest = Reservation(budget, "greedy"), Reservation(budget, "modest")
        await greedy.take(50)
        with pytest.raises(Overloaded) as caught:
            await greedy.child().take(1)
        assert caught.value.retry_after > 0
        await modest.take(50)
        waiting = asyncio.create_task(greedy.child().take(10, unbounded=True))
        await asyncio.sleep(0)
        assert not waiting.done()
        greedy.resize(0)
        await waiting
        modest.resize(0)

    asyncio.run(main())


def test_calls_that_hold_bytes_do_not_wait_for_each_other() -> None:
    async def main() -> None:
        budget, most = Budget(100, timeout=0.5), 0.0
        calls = [Reservation(budget, "a") for _ in range(3)]
        for call in calls:
            await call.take(16)
        new = Reservation(budget, "a")
        waiting = asyncio.create_task(new.take(16))
        await asyncio.sleep(0)

        async def answer(call: Reservation) -> None:
            nonlocal most
            await call.take(20)
            await call.take(3)
            most = max(most, BYTES._value.get())
            await asyncio.sleep(0)
            call.resize(0)

        await asyncio.gather(*map(answer, calls), waiting)
        assert most == 3 * 16 + 23  # one at a time goes beyond half of all
        new.resize(0)
        assert BYTES._value.get() == 0
        with pytest.raises(Overloaded):  # and nobody that holds nothing
            await asyncio.gather(*(Reservation(budget, "a").take(26) for _ in range(2)))

    asyncio.run(main())


def test_calls_and_streams_of_one_caller_are_bounded() -> None:
    admission = Admission(calls=3, calls_each=2, streams_each=1)
    with admission.enter("a", streams=True):
        with pytest.raises(Overloaded), admission.enter("a", streams=True):
            pass
        with admission.enter("a"):
            with pytest.raises(Overloaded), admission.enter("a"):
                pass
            with admission.enter("b"), pytest.raises(Overloaded), admission.enter("c"):
                pass
    with admission.enter("a", streams=True):
        pass


async def _as(name: str, pool: FairPool, function: Any, cost: float) -> Any:
    CALLER.set(Caller(name, "token"))
    return await pool.run(function, cost=cost)


@pytest.mark.parametrize("workers", [1, 2])
def test_dear_calls_of_one_caller_do_not_hold_a_cheap_one_of_another(workers: int) -> None:
    gate = threading.Event()

    async def main() -> None:
        pool = FairPool(workers, 20, "calls")
        dear = [asyncio.create_task(_as("mallory", pool, gate.wait, EXPENSIVE_BYTES)) for _ in range(12)]
        await asyncio.sleep(0)
        try:
            assert await asyncio.wait_for(_as("alice", pool, lambda: "done", 1.0), 30) == "done"
        finally:
            gate.set()
        assert all(await asyncio.gather(*dear))
        pool.stop()

    asyncio.run(main())


def test_callers_take_turns_and_a_full_queue_costs_the_one_who_filled_it() -> None:
    gate, order = threading.Event(), []

    async def main() -> None:
        pool = FairPool(1, 4, "calls")
        first = asyncio.create_task(_as("mallory", pool, gate.wait, 1.0))
        await asyncio.sleep(0)
        many = [
            asyncio.create_task(_as("mallory", pool, lambda i=i: order.append(f"mallory {i}"), 1.0)) for i in range(4)
        ]
        await asyncio.sleep(0)
        one = asyncio.create_task(_as("alice", pool, lambda: order.append("alice"), 1.0))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, one)
        results = await asyncio.gather(*many, return_exceptions=True)
        assert [isinstance(r, Overloaded) for r in results] == [False, False, False, True]
        assert order.index("alice") <= 1
        pool.stop()

    asyncio.run(main())


def test_a_store_that_does_not_answer_is_unavailable() -> None:
    gate = threading.Event()

    async def main() -> None:
        pool = FairPool(1, 4, "reads", timeout=0.05)
        with pytest.raises(StoreError):
            await pool.run(gate.wait)
        gate.set()
        pool.stop()

    asyncio.run(main())
    assert describe(OSError("LanceError(IO): s3://bucket/secret"), "1").reason == "STORE_UNAVAILABLE"
    assert "secret" not in describe(OSError("LanceError(IO): s3://bucket/secret"), "1").message
