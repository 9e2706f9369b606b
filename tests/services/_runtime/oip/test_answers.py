"""Answers of the Open Inference Protocol: what was asked for, in the form that was asked for, within bounds."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as oip_grpc

from eoforge.api.oip.v1 import oip_pb2 as further_pb2
from services._runtime.admission import BYTES
from services._runtime.oip import answers
from services._runtime.settings import RuntimeSettings
from tests.services._runtime.failing_service import Counted, make
from tests.services.support import Running, details, running, until

MODEL = "/v2/models/counting"
LENGTH = "inference-header-content-length"


@pytest.fixture(scope="module")
def http(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.rest, timeout=60, headers={"accept-encoding": "identity"}) as client:
        yield client


@pytest.fixture(scope="module")
def oip(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield oip_grpc.GRPCInferenceServiceStub(channel)


def body(n: int, **further: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "n", "shape": [1], "datatype": "INT32", "data": [n]}], **further}


def message(n: int, outputs: list[str] | None = None, **further: Any) -> oip_pb2.ModelInferRequest:
    tensor = oip_pb2.ModelInferRequest.InferInputTensor(name="n", datatype="INT32", shape=[1])
    asked = [oip_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs or []]
    raw = np.array([n], np.int32).tobytes()
    return oip_pb2.ModelInferRequest(
        model_name="counting", inputs=[tensor], outputs=asked, raw_input_contents=[raw], **further
    )


def parts(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    """Outputs by name, and the binary data behind the JSON."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get(LENGTH, len(answer.content)))
    outputs = json.loads(answer.content[:length])["outputs"]
    return {output["name"]: output for output in outputs}, answer.content[length:]


def test_only_the_outputs_that_were_asked_for_come_in_that_order(http: httpx.Client, oip: Any) -> None:
    assert list(parts(http.post(f"{MODEL}/infer", json=body(3)))[0]) == ["numbers", "texts"]
    asked = [{"name": "texts"}, {"name": "numbers"}]
    assert list(parts(http.post(f"{MODEL}/infer", json=body(3, outputs=asked)))[0]) == ["texts", "numbers"]
    found, _ = parts(http.post(f"{MODEL}/infer", json=body(3, outputs=[{"name": "texts"}])))
    assert found["texts"]["data"] == ["é0", "é1", "é2"]
    assert list(found) == ["texts"]
    answered = oip.ModelInfer(message(3, ["texts"]), timeout=60)
    assert [output.name for output in answered.outputs] == ["texts"]
    assert len(answered.raw_output_contents) == 1


def test_unknown_outputs_and_inputs_are_refused_by_name(http: httpx.Client, oip: Any) -> None:
    for outputs in ([{"name": "digits"}], [{"name": "texts"}, {"name": "digits"}]):
        answer = http.post(f"{MODEL}/infer", json=body(3, outputs=outputs))
        assert (answer.status_code, "'digits'" in answer.text) == (400, True)
    with pytest.raises(grpc.RpcError, match="digits") as caught:
        oip.ModelInfer(message(3, ["digits"]), timeout=60)
    assert details(caught.value)["reason"] == "INVALID_ARGUMENT"
    twice = http.post(f"{MODEL}/infer", json=body(3, outputs=[{"name": "texts"}] * 2))
    assert (twice.status_code, "twice" in twice.text) == (400, True)
    wrong = body(3)
    wrong["inputs"].append(wrong["inputs"][0] | {"name": "m"})
    assert "'m'" in http.post(f"{MODEL}/infer", json=wrong).json()["error"]
    for parameter in ({"classification": 2}, {"shared_memory_region": "x"}, {"binary_data": 1}):
        outputs = [{"name": "texts", "parameters": parameter}]
        assert http.post(f"{MODEL}/infer", json=body(3, outputs=outputs)).status_code == 400


def test_binary_data_for_each_output_or_for_all(http: httpx.Client) -> None:
    one = [{"name": "numbers", "parameters": {"binary_data": True}}, {"name": "texts"}]
    found, raw = parts(http.post(f"{MODEL}/infer", json=body(3, outputs=one)))
    assert found["numbers"]["parameters"] == {"binary_data_size": len(raw)}
    assert np.frombuffer(raw, np.float32).tolist() == [0, 1, 2]
    assert found["texts"]["data"] == ["é0", "é1", "é2"]
    answer = http.post(f"{MODEL}/infer", json=body(2, parameters={"binary_data_output": True}))
    found, raw = parts(answer)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert [output["parameters"]["binary_data_size"] for output in found.values()] == [8, 14]
    assert raw[8:] == b"\x03\0\0\0\xc3\xa90\x03\0\0\0\xc3\xa91"
    exception = [{"name": "numbers", "parameters": {"binary_data": False}}, {"name": "texts"}]
    all_but_one = body(2, outputs=exception, parameters={"binary_data_output": True})
    found, raw = parts(http.post(f"{MODEL}/infer", json=all_but_one))
    assert found["numbers"]["data"] == [0, 1]
    assert len(raw) == 14


def test_json_needs_neither_its_length_nor_a_content_type(http: httpx.Client) -> None:
    text = json.dumps(body(2)).encode()
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/octet-stream"}):
        answer = http.post(f"{MODEL}/infer", content=text, headers=headers)
        assert parts(answer)[0]["numbers"]["data"] == [0, 1]
    assert http.post(f"{MODEL}/infer", content=text, headers={LENGTH: str(len(text))}).status_code == 200


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_requests_and_answers(http: httpx.Client, coding: str, pack: Any) -> None:
    text = json.dumps(body(5000)).encode()
    with http.stream(
        "POST",
        f"{MODEL}/infer",
        content=pack(text),
        headers={"content-encoding": coding, "accept-encoding": f"br, {coding};q=0.5"},
    ) as answer:
        assert answer.headers["content-encoding"] == coding
        raw = b"".join(answer.iter_raw())
    assert json.loads(zlib.decompress(raw, wbits=47))["outputs"][0]["data"] == list(range(5000))
    with http.stream("POST", f"{MODEL}/infer", content=text, headers={"accept-encoding": f"{coding};q=0"}) as answer:
        assert "content-encoding" not in answer.headers
    binary = {LENGTH: str(len(text)), "content-encoding": coding}
    assert http.post(f"{MODEL}/infer", content=pack(text), headers=binary).status_code == 200


def test_compressed_bodies_are_bounded_and_whole(http: httpx.Client) -> None:
    text = json.dumps(body(2)).encode()
    cases = {
        "bomb": (gzip.compress(bytes(32 << 20)), "gzip", 413),
        "cut off": (gzip.compress(text)[:-4], "gzip", 400),
        "followed": (gzip.compress(text) + b"x", "gzip", 400),
        "no gzip": (text, "gzip", 400),
        "unknown": (text, "br", 400),
        "twice": (gzip.compress(gzip.compress(text)), "gzip, gzip", 400),
    }
    for name, (content, coding, status) in cases.items():
        answer = http.post(f"{MODEL}/infer", content=content, headers={"content-encoding": coding})
        assert answer.status_code == status, name
    assert BYTES._value.get() == 0


def test_versions_in_the_path_and_in_messages(http: httpx.Client, oip: Any) -> None:
    assert http.get(MODEL).json()["versions"] == ["1"]
    answered = http.post(f"{MODEL}/versions/1/infer", json=body(2)).json()
    assert answered["model_version"] == "1"
    assert http.get(f"{MODEL}/versions/1").json() == http.get(MODEL).json()
    assert http.get(f"{MODEL}/versions/1/ready").status_code == 200
    assert oip.ModelInfer(message(2, model_version="1"), timeout=60).model_version == "1"
    assert oip.ModelReady(oip_pb2.ModelReadyRequest(name="counting", version="1"), timeout=60).ready
    for path in (f"{MODEL}/versions/2", f"{MODEL}/versions/2/ready", "/v2/models/nobody", "/v2/models/nobody/ready"):
        assert http.get(path).status_code == 404, path
    assert http.post(f"{MODEL}/versions/2/infer", json=body(2)).status_code == 404
    with pytest.raises(grpc.RpcError, match="version 1") as caught:
        oip.ModelInfer(message(2, model_version="2"), timeout=60)
    assert details(caught.value)["reason"] == "NOT_FOUND"


def test_the_index_of_the_repository(server: Running, http: httpx.Client) -> None:
    expected = [{"name": n, "version": "1", "state": "READY", "reason": ""} for n in ("echo", "counting")]
    assert http.post("/v2/repository/index").json() == expected
    assert http.post("/v2/repository/index", json={"ready": True}).json() == expected
    for wrong in (b"{", b"[]", b'{"ready": 1}'):
        assert http.post("/v2/repository/index", content=wrong).status_code == 400
    assert http.post("/v2/repository/models/echo/unload").status_code == 501
    with grpc.insecure_channel(server.target) as channel:
        raw = channel.unary_unary("/inference.GRPCInferenceService/RepositoryIndex")(b"", timeout=60)
    models = further_pb2.RepositoryIndexResponse.FromString(raw).models
    assert [(m.name, m.version, m.state) for m in models] == [("echo", "1", "READY"), ("counting", "1", "READY")]


def test_what_json_cannot_say_is_refused_or_sent_as_binary_data(http: httpx.Client) -> None:
    refused = http.post(f"{MODEL}/infer", json=body(-1))
    assert (refused.status_code, "binary_data" in refused.text) == (400, True)
    _, raw = parts(http.post(f"{MODEL}/infer", json=body(-1, parameters={"binary_data_output": True})))
    assert np.isnan(np.frombuffer(raw, np.float32)).all()


def test_answers_in_json_are_bounded(server: Running, http: httpx.Client, oip: Any) -> None:
    most = server.server.settings.max_json_values
    refused = http.post(f"{MODEL}/infer", json=body(most + 1))
    assert refused.status_code == 413
    assert "binary_data_output" in refused.json()["error"]
    assert "gRPC" in refused.json()["error"]
    found, _ = parts(http.post(f"{MODEL}/infer", json=body(most, outputs=[{"name": "numbers"}])))
    assert found["numbers"]["data"] == list(range(most))
    _, raw = parts(http.post(f"{MODEL}/infer", json=body(most + 1, parameters={"binary_data_output": True})))
    assert np.array_equal(np.frombuffer(raw[: 4 * (most + 1)], np.float32), np.arange(most + 1))
    assert len(oip.ModelInfer(message(most + 1), timeout=60).raw_output_contents[0]) == 4 * (most + 1)


def test_no_answer_is_built_value_by_value_on_the_event_loop(server: Running, http: httpx.Client) -> None:
    async def thread() -> int:
        return threading.get_ident()

    Counted.threads.clear()
    assert http.post(f"{MODEL}/infer", json=body(5000)).status_code == 200
    assert server.call(thread()) not in Counted.threads


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "array",
    [
        np.full(100_000, -1.1754944e-38, np.float32),
        np.full(100_000, -(2**62), np.int64),
        np.full(100_000, 65_535, np.uint16),
        np.array([bytes(300_000)] * 5, dtype=object),
        np.array(["name of a patch"] * 50_000, dtype=object),
    ],
    ids=["FP32", "INT64", "UINT16", "streams", "texts"],
)
def test_the_bytes_reserved_before_are_enough(array: Any, binary: bool) -> None:
    answered = answers.response("m", InferRequest("m", []), {"x": array})
    reserved = answers.bytes_needed(answered, {"x": binary}, RuntimeSettings())
    tracemalloc.start()
    try:
        made, _ = answers.rest_body(answered, {"x": binary})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    copies = 2 if binary and array.dtype == object else 1  # texts are joined, and then the answer
    assert peak <= copies * reserved + 200_000
    assert len(made) <= reserved + 1000


def test_an_answer_counts_until_it_was_read() -> None:
    """The client reads nothing for a while; the bytes of its answer stay reserved."""
    count = 16 << 20
    with running(make) as run:
        text = json.dumps(body(count, outputs=[{"name": "numbers", "parameters": {"binary_data": True}}])).encode()
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(60)
        line.connect(("127.0.0.1", run.server.rest_port))
        with line:
            head = f"POST {MODEL}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
            line.sendall(head.encode() + text)
            assert line.recv(12) == b"HTTP/1.1 200"
            for _ in range(3):
                run.call(asyncio.sleep(0.05))  # time to send what the socket takes
            assert BYTES._value.get() >= 4 * count
            while line.recv(1 << 20):
                pass
        until(lambda: BYTES._value.get() == 0)
        with socket.create_connection(("127.0.0.1", run.server.rest_port), timeout=60) as gone:
            gone.sendall(head.encode() + text)
            assert gone.recv(12) == b"HTTP/1.1 200"
        until(lambda: BYTES._value.get() == 0)  # with the connection, the answer ends
