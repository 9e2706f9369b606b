"""Large messages beside others: copies in turns of their own, answers serialised once, nothing loaded in vain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as oip_grpc

from eoforge.api.compression.v1 import compression_pb2 as pb
from services._runtime.admission import RESERVATION, Budget, Reservation
from services._runtime.ordered import ANSWER_BYTES, answers_of, in_order
from services._runtime.server import Server
from services._runtime.turns import TURN_SECONDS, InTurn, Turns
from tests.services._runtime.failing_service import Counting, make
from tests.services.support import details, running


def test_copies_that_end_together_are_made_in_turns_of_their_own() -> None:
    async def run() -> tuple[list[int], list[int]]:
        now = [0.0]
        loop, turns, turn = asyncio.get_running_loop(), Turns(lambda: now[0]), 0
        copied: list[int] = []
        arrived: asyncio.Future[None] = loop.create_future()

        def count() -> None:
            nonlocal turn
            turn += 1
            loop.call_soon(count)

        async def message(seconds: float) -> int:
            await arrived
            now[0] += seconds  # a copy, which holds the loop
            copied.append(turn)
            return turn

        async def read(caller: str, seconds: float) -> int:
            return await InTurn(message(seconds), turns, caller)

        count()
        large = [asyncio.create_task(read("a", 1.5 * TURN_SECONDS)) for _ in range(5)]
        await asyncio.sleep(0)
        arrived.set_result(None)
        first = await asyncio.gather(*large)
        small = [asyncio.create_task(read("b", 0.0)) for _ in range(5)]
        return first, await asyncio.gather(*small)

    large, small = asyncio.run(run())
    assert len(set(large)) == 5
    assert len(set(small)) == 1


def test_who_copies_much_leaves_others_as_much_time() -> None:
    async def run() -> list[str]:
        now, ended = [0.0], []
        turns = Turns(lambda: now[0])

        async def read(caller: str, seconds: float, turn_count: int) -> None:
            for _ in range(turn_count):  # an answer takes several turns

                async def step() -> None:
                    now[0] += seconds

                await InTurn(step(), turns, caller)
                await asyncio.sleep(0)
            ended.append(caller)

        large = [asyncio.create_task(read("many", 10 * TURN_SECONDS, 1)) for _ in range(4)]
        await asyncio.gather(*large, asyncio.create_task(read("one", 0.0, 5)))
        return ended

    assert asyncio.run(run()) == ["many", "one", "many", "many", "many"]


def test_errors_and_cancellation_reach_the_read() -> None:
    async def run() -> list[str]:
        seen: list[str] = []

        async def failing() -> None:
            await asyncio.sleep(0)
            raise ValueError("broken")

        async def endless() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        async def wrapped(work: Any) -> Any:
            return await InTurn(work, Turns(), "a")

        with pytest.raises(ValueError, match="broken"):
            await wrapped(failing())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await wrapped(endless())
        return seen

    assert asyncio.run(run()) == ["cancelled"]


async def _requests(*given: Any) -> AsyncIterator[Any]:
    for request in given:
        yield request


def test_a_serialised_result_of_a_stream_makes_a_serialised_answer() -> None:
    response = pb.DecompressResponse(raster=pb.Raster(bands=pb.BandRaster(patch_id="x" * 300)))

    async def result(request: Any) -> bytes:
        return response.SerializeToString()

    async def run() -> list[Any]:
        request = pb.DecompressStreamRequest(correlation_id="7")
        return [a async for a in answers_of(_requests(request), pb.DecompressStreamResponse, pb.Error, result, 4)]

    [answered] = asyncio.run(run())
    assert type(answered) is bytes
    expected = pb.DecompressStreamResponse(correlation_id="7", result=response)
    assert pb.DecompressStreamResponse.FromString(answered) == expected


def test_a_request_of_a_stream_is_not_serialised_to_learn_its_size() -> None:
    class Request:
        def ByteSize(self) -> int:
            raise AssertionError("this serialises the whole message on the event loop")

    async def run() -> int:
        parent = Reservation(Budget(1 << 30, 1.0), "a")
        parent.resize(5000)  # what the receiver of the message has found
        RESERVATION.set(parent)

        async def answer(request: Request) -> int:
            return RESERVATION.get().held

        [held] = [one async for one in in_order(_requests(Request()), answer, 4)]
        return held

    assert asyncio.run(run()) == 5000 + ANSWER_BYTES


def test_what_is_refused_does_not_load_kserve() -> None:
    loaded: list[str] = []

    def made() -> Server:
        def models() -> list[Any]:
            loaded.append("models")
            return [Counting()]

        server = make(reflection=False)
        server.service.models, server.service.inference_on_demand = models, True
        return server

    tensor = oip_pb2.ModelInferRequest.InferInputTensor(name="n", datatype="UINT32", shape=[1])
    tensor.contents.uint_contents.extend([1] * 100_000)
    with running(made) as run, grpc.insecure_channel(run.target) as channel:
        oip = oip_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            oip.ModelInfer(oip_pb2.ModelInferRequest(model_name="counting", inputs=[tensor]), timeout=60)
        assert details(caught.value)["reason"] == "LIMIT_EXCEEDED"
        assert oip.ServerLive(oip_pb2.ServerLiveRequest(), timeout=60).live
        assert oip.ServerReady(oip_pb2.ServerReadyRequest(), timeout=60).ready
        assert loaded == []
        del tensor.contents.uint_contents[1:]
        tensor.datatype = "INT32"
        tensor.contents.Clear()
        tensor.contents.int_contents.append(2)
        answered = oip.ModelInfer(oip_pb2.ModelInferRequest(model_name="counting", inputs=[tensor]), timeout=60)
        assert [output.name for output in answered.outputs] == ["numbers", "texts"]
        assert loaded == ["models"]
