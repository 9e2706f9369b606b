"""What a caller may send: nothing is taken before it is known who calls, and then within limits, on both ports."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import httpx
import psutil
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as oip_grpc

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.errors import UsageError
from services._runtime import wire
from services._runtime.admission import BYTES, RESERVATION
from services._runtime.fair import FairPool
from services._runtime.server import Server
from tests.services._runtime.failing_service import NAME, make
from tests.services.support import Running, Signer, details, ended, running, until

GET, STREAM = f"/{NAME}/GetPatch", f"/{NAME}/SearchStream"


@pytest.fixture(scope="module")
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target, [("grpc.max_send_message_length", -1)]) as opened:
        yield opened


def refused(channel: grpc.Channel, method: str, body: bytes, **options: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(body, timeout=60, **options)
    return caught.value.code(), details(caught.value).get("reason", "")


def test_nothing_is_parsed_for_a_stranger(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    original = wire.parse

    def counted(raw: bytes, *args: Any) -> Any:
        parsed.append(len(raw))
        return original(raw, *args)

    monkeypatch.setattr(wire, "parse", counted)
    signer = Signer(tmp_path_factory.mktemp("token"))
    with running(lambda: make(**signer.settings)) as run, grpc.insecure_channel(run.target) as channel:
        for method in (GET, STREAM, "/inference.GRPCInferenceService/ModelInfer"):
            assert refused(channel, method, b"\xff" * 100) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert parsed == []
        answer = httpx.post(f"{run.rest}/v2/models/echo/infer", content=b"\xff" * 100, timeout=60)
        assert answer.json()["reason"] == "UNAUTHENTICATED"
        known = (("authorization", f"Bearer {signer.token()}"),)
        call = channel.unary_unary(GET)(pb.GetPatchRequest(patch_id="x").SerializeToString(), metadata=known)
        assert pb.GetPatchResponse.FromString(call).patch.patch_id == "x"
        assert len(parsed) == 1


def test_the_first_byte_of_a_strangers_body_gets_the_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    signer = Signer(tmp_path_factory.mktemp("token"))
    with (
        running(lambda: make(**signer.settings)) as run,
        socket.create_connection(("127.0.0.1", run.server.rest_port), timeout=60) as line,
    ):
        line.sendall(b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n{")
        assert line.recv(64).startswith(b"HTTP/1.1 401")


def test_malformed_and_oversized_messages_are_the_callers_mistake(channel: grpc.Channel) -> None:
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert refused(channel, GET, b"\x0a\xff") == (invalid, "INVALID_ARGUMENT")
    assert refused(channel, GET, b"\x0a\x02\xff\xff") == (invalid, "INVALID_ARGUMENT")
    assert refused(channel, GET, b"\x0a\x00" * 100_000) == (invalid, "LIMIT_EXCEEDED")
    assert refused(channel, GET, bytes([0x7A, 0x80, 0x80, 0x40]) + bytes(1 << 20)) == (invalid, "LIMIT_EXCEEDED")


def test_tensors_as_numbers_are_bounded(channel: grpc.Channel) -> None:
    tensor = oip_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="UINT32", shape=[1])
    tensor.contents.uint_contents.extend([1] * 100_000)
    with pytest.raises(grpc.RpcError) as caught:
        oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
            oip_pb2.ModelInferRequest(model_name="echo", inputs=[tensor]), timeout=60
        )
    assert details(caught.value)["reason"] == "LIMIT_EXCEEDED"
    assert "raw_input_contents" in caught.value.details()


def test_compressed_messages_are_refused(server: Running, channel: grpc.Channel) -> None:
    code, _ = refused(channel, GET, bytes(1 << 16), compression=grpc.Compression.Gzip)
    assert code is grpc.StatusCode.UNIMPLEMENTED
    answer = httpx.post(
        f"{server.rest}/v2/models/echo/infer", content=b"x", headers={"content-encoding": "gzip"}, timeout=60
    )
    assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_ARGUMENT")


def test_a_health_check_takes_no_large_message(channel: grpc.Channel) -> None:
    assert refused(channel, "/grpc.health.v1.Health/Check", bytes([0x0A, 0x80, 0x40]) + bytes(1 << 13)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "LIMIT_EXCEEDED",
    )


@pytest.mark.parametrize(
    "body",
    [b'{"inputs":[' + b",".join([b"{}"] * 20_000) + b"]}", b'{"inputs":' + b"[" * 100 + b"]" * 100 + b"}"],
    ids=["objects", "nested"],
)
def test_json_that_costs_far_more_than_its_bytes_is_refused(server: Running, body: bytes) -> None:
    answer = httpx.post(f"{server.rest}/v2/models/echo/infer", content=body, timeout=60)
    assert (answer.status_code, answer.json()["reason"]) == (413, "LIMIT_EXCEEDED")


@pytest.mark.parametrize("body", [{}, {"inputs": 3}, {"inputs": [{}]}, {"inputs": [3]}, [1], None])
def test_json_of_another_form_is_the_callers_mistake(server: Running, body: Any) -> None:
    answer = httpx.post(f"{server.rest}/v2/models/echo/infer", content=json.dumps(body), timeout=60)
    assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_ARGUMENT")


def test_the_message_of_a_failed_call_is_freed_at_once() -> None:
    pool = FairPool(1, 8, "test calls")

    async def failing(request: pb.GetPatchRequest, context: Any) -> None:
        def look() -> None:
            raise UsageError(f"no patch {request.patch_id}")

        await pool.run(look)

    def made() -> Server:
        server = make()
        server.servicer.GetPatch = failing  # type: ignore[attr-defined]
        return server

    def kept() -> int:
        return sum(type(o) is pb.GetPatchRequest and o.patch_id.startswith("freed") for o in gc.get_objects())

    body = pb.GetPatchRequest(patch_id="freed").SerializeToString()
    with running(made) as served, grpc.insecure_channel(served.target) as line:
        gc.collect()
        gc.disable()  # no collection of circles
        try:
            for _ in range(5):
                assert refused(line, GET, body)[0] is grpc.StatusCode.INVALID_ARGUMENT
            until(lambda: not kept(), 10.0)
        finally:
            gc.enable()
    pool.stop()


def test_an_answer_that_nobody_reads_stays_in_its_callers_share() -> None:
    size, before = 8 << 20, ended(GET, "CANCELLED")
    answered = threading.Event()

    async def large(request: pb.GetPatchRequest, context: Any) -> pb.GetPatchResponse:
        await RESERVATION.get().take(size)
        asyncio.get_running_loop().call_later(0.5, answered.set)
        return pb.GetPatchResponse(patch=pb.PatchMetadata(patch_id="x" * size))

    def made() -> Server:
        server = make()
        server.servicer.GetPatch = large  # type: ignore[attr-defined]
        return server

    def held() -> float:
        [metric] = BYTES.collect()
        return metric.samples[0].value

    with running(made) as served, grpc.insecure_channel(served.target) as line:
        call = line.unary_stream(GET)(b"", timeout=60)  # as a stream, whose message is read when it is asked for
        assert answered.wait(60)
        assert held() >= size
        call.cancel()
        until(lambda: held() < size)
    assert ended(GET, "CANCELLED") == before + 1


def test_calls_of_one_caller_at_the_same_time_are_bounded() -> None:
    with running(lambda: make(max_calls_per_caller=2)) as run, grpc.insecure_channel(run.target) as channel:
        stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        held = [stub.GetPatch.future(pb.GetPatchRequest(patch_id=f"hold:{i}"), timeout=60) for i in range(2)]
        until(lambda: len(run.server.servicer.held) == 2)
        answer = httpx.get(f"{run.rest}/v2/models", timeout=60)
        with grpc.insecure_channel(run.target, [("grpc.use_local_subchannel_pool", 1)]) as other:
            code, reason = refused(other, GET, b"")
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert answer.status_code == 200, "REST callers go by address alone, without gRPC's prefix"
        run.loop.call_soon_threadsafe(run.server.servicer.release.set)
        assert [call.result().patch.patch_id for call in held] == ["hold:0", "hold:1"]


def test_streams_are_bounded_and_idle_ones_end() -> None:
    settings = {"max_streams_per_caller": 1, "stream_idle_seconds": 0.5}
    with running(lambda: make(**settings)) as run, grpc.insecure_channel(run.target) as channel:
        done = threading.Event()

        def requests() -> Iterator[bytes]:
            yield b""
            done.wait(60)

        first = channel.stream_stream(STREAM)(requests(), timeout=60)
        assert next(first) is not None
        with pytest.raises(grpc.RpcError) as caught:
            next(channel.stream_stream(STREAM)(iter([b""]), timeout=60))
        assert details(caught.value)["reason"] == "OVERLOADED"
        with pytest.raises(grpc.RpcError) as caught:
            next(first)
        assert details(caught.value)["reason"] == "DEADLINE_EXCEEDED"
        done.set()


def test_half_sent_requests_end() -> None:
    with running(lambda: make(receive_seconds=0.5)) as run:
        for sent, expected in (
            (b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{", b"HTTP/1.1 504"),
            (b"POST /v2/models/echo/infer HTTP/1.1\r\nHost", b""),
            (b"", b""),
        ):
            with socket.create_connection(("127.0.0.1", run.server.rest_port), timeout=60) as line:
                line.sendall(sent)
                assert line.recv(12) == expected


def test_a_body_that_breaks_off_is_not_answered_as_a_whole_one(server: Running) -> None:
    host, _, port = server.rest.removeprefix("http://").partition(":")
    before = ended("REST unknown", "400")  # requests that never reached a route
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    until(lambda: ended("REST unknown", "400") == before + 1, 10.0)


def test_a_declared_length_binds_a_body_in_chunks(server: Running) -> None:
    """Chunks would go before the length, so one that declares three bytes could send any number of them."""
    host, _, port = server.rest.removeprefix("http://").partition(":")
    head = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(head + b"5\r\nhello\r\n")  # no end: an answer means that the body is not waited for
        answer = line.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"x-request-id" in answer


def test_answers_that_nobody_reads_end_with_their_connection() -> None:
    """Pipelined requests fill the socket; the call ends at its limit and the connection with it."""
    with running(lambda: make(receive_seconds=0.5, max_call_seconds=0.5)) as run:
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(0.2)
        line.connect(("127.0.0.1", run.server.rest_port))
        with line:
            with suppress(TimeoutError, ConnectionError):
                while True:
                    line.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
            until(lambda: not _held(run.server.rest_port), 30.0)


def _held(port: int) -> bool:
    """Whether this process holds a connection that was accepted at ``port``."""
    held = psutil.Process().connections(kind="tcp")
    return any(c.laddr.port == port and c.status != psutil.CONN_LISTEN for c in held)


def test_connections_are_bounded() -> None:
    with running(lambda: make(max_connections=2, health_port=0)) as run:
        for port in (run.server.rest_port, run.server.health_port):
            lines = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(3)]
            try:
                assert _cut(lines[2])
            finally:
                for line in lines:
                    line.close()
        until(lambda: _serves(run.rest))


def test_a_silent_connection_to_the_health_checks_ends() -> None:
    with (
        running(lambda: make(receive_seconds=0.5, health_port=0)) as run,
        socket.create_connection(("127.0.0.1", run.server.health_port), timeout=30) as line,
    ):
        while not _cut(line):  # gRPC's settings come first
            pass


def _cut(line: socket.socket) -> bool:
    try:
        return line.recv(1) == b""
    except ConnectionError:
        return True


def _serves(rest: str) -> bool:
    try:
        return httpx.get(f"{rest}/v2/health/live", timeout=60).status_code == 200
    except httpx.TransportError:
        return False
