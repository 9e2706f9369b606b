"""Malformed requests to every RPC and REST route: never an internal error, never the payload in an answer or a log."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2
from structlog.testing import capture_logs

from eoforge.api.compression.v1 import compression_pb2
from eoforge.api.federation.v1 import federation_pb2
from eoforge.api.retrieval.v1 import retrieval_pb2
from tests.services.compression.fixtures import compression_server, make_compression_fixture
from tests.services.conftest import server_for as retrieval_server
from tests.services.federation.helpers import server_for as federation_server
from tests.services.retrieval.fixtures import make_retrieval_fixture
from tests.services.support import Running, details, running

MARK = "payload-of-a-caller"
LONG = "n" * 100 + MARK
"""A text that is too long for a name: at most its beginning may be quoted."""
OURS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS}
EXAMPLES = settings(
    max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)
PROTOS = {"retrieval": retrieval_pb2, "compression": compression_pb2, "federation": federation_pb2}
METHODS = [
    pytest.param(service, method, id=f"{service}-{method.full_name.rsplit('.', 1)[1]}")
    for service, module in PROTOS.items()
    for api in (*module.DESCRIPTOR.services_by_name.values(), *oip_pb2.DESCRIPTOR.services_by_name.values())
    for method in api.methods
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Running]]:
    """Server of a service, started when it is first asked for."""
    open_servers: dict[str, Any] = {}

    def server(service: str) -> Running:
        if service not in open_servers:
            folder = tmp_path_factory.mktemp(service)
            if service == "retrieval":
                make = retrieval_server(make_retrieval_fixture(folder), max_images=4)
            elif service == "compression":
                make = compression_server(make_compression_fixture(folder))
            else:
                make = federation_server(folder)
            context = running(make)
            open_servers[service] = (context, context.__enter__())
        found: Running = open_servers[service][1]
        return found

    yield server
    for context, _ in open_servers.values():
        context.__exit__(None, None, None)


TEXTS = st.sampled_from(["", "x", "s1", "s2", "é", "a/../b", "\x00", "../../etc/passwd", " ", LONG, "%s{}", "\n"])
BLOBS = st.one_of(st.sampled_from([b"", MARK.encode(), b"\x00" * 16]), st.binary(max_size=64))
INTEGERS = st.sampled_from([0, 1, 2, 7, 255, 256, 2**31 - 1, 2**32 - 1, 2**63 - 1])
FLOATS = st.sampled_from([0.0, -1.0, 0.5, 1e38, 1e300, math.nan, math.inf, -math.inf])
UNSIGNED_32 = (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32)
SIGNED = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return BLOBS if field.type == FieldDescriptor.TYPE_BYTES else TEXTS
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return FLOATS
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.enum_type is not None:
        return st.sampled_from([*(value.number for value in field.enum_type.values), 99])
    bits = 31 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM) else 32
    wide = kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
    limit = (2**63 if wide else 2**bits) - 1
    numbers = INTEGERS.map(lambda value: min(value, limit))
    return st.one_of(numbers, numbers.map(lambda value: -value)) if kind in SIGNED else numbers


def fill(draw: st.DrawFn, message: Any, depth: int = 0) -> Any:
    """Sets some fields of a message to odd values."""
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()) or (field.message_type is not None and depth > 4):
            continue
        here = getattr(message, field.name)
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            keys, value = draw(TEXTS), field.message_type.fields_by_name["value"]
            if field.message_type.fields_by_name["key"].cpp_type != FieldDescriptor.CPPTYPE_STRING:
                continue
            if value.message_type is None:
                here[keys] = draw(scalars(value))
            else:
                fill(draw, here[keys], depth + 1)
        elif field.is_repeated:
            for _ in range(draw(st.integers(0, 2))):
                if field.message_type is None:
                    here.append(draw(scalars(field)))
                else:
                    fill(draw, here.add(), depth + 1)
        elif field.message_type is None:
            setattr(message, field.name, draw(scalars(field)))
        else:
            here.SetInParent()
            fill(draw, here, depth + 1)
    return message


@st.composite
def bodies(draw: st.DrawFn, descriptor: Descriptor) -> bytes:
    """Bytes of a message: of its type with odd values, the same damaged, or any."""
    kind = draw(st.sampled_from(["valid", "valid", "valid", "cut", "flipped", "any"]))
    if kind == "any":
        return draw(st.binary(max_size=64))
    raw = bytearray(fill(draw, message_factory.GetMessageClass(descriptor)()).SerializeToString())
    if kind == "cut":
        return bytes(raw[: draw(st.integers(0, len(raw)))])
    if kind == "flipped" and raw:
        raw[draw(st.integers(0, len(raw) - 1))] ^= draw(st.integers(1, 255))
    return bytes(raw)


HEADERS = st.lists(
    st.sampled_from(
        [
            ("x-request-id", "a " + MARK),
            ("traceparent", "00-zz-" + MARK),
            ("baggage", "=;," + MARK),
            ("authorization", "Bearer " + MARK),
            ("x-eoforge-silo", "berlin"),
            ("x-eoforge-silo", LONG),
            ("x-bin-bin", b"\xff" + MARK.encode()),
            ("inference-header-content-length", "9" * 5000),
        ]
    ),
    max_size=3,
    unique_by=lambda pair: pair[0],
)


@pytest.mark.parametrize(("service", "method"), METHODS)
def test_every_rpc(
    servers: Callable[[str], Running], service: str, method: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    with grpc.insecure_channel(servers(service).target) as channel:
        call: Any = channel.stream_stream(path)  # type: ignore[call-arg]  # bytes need no serialiser

        @EXAMPLES
        @given(st.lists(bodies(method.input_type), min_size=1, max_size=2 if method.client_streaming else 1), HEADERS)
        def check(messages: list[bytes], headers: list[tuple[str, Any]]) -> None:
            ended = call(iter(messages), timeout=2 if method.server_streaming else 60, metadata=headers)
            with suppress(grpc.RpcError):
                for _ in ended:
                    pass
            assert ended.code() not in OURS, (ended.code(), ended.details(), messages)
            assert MARK not in (ended.details() or "")
            if ended.code() not in (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED):
                assert details(ended)["request_id"]

        with capture_logs() as lines:
            check()
        assert MARK not in repr(lines) + caplog.text


NUMBERS: st.SearchStrategy[Any] = st.one_of(INTEGERS, st.sampled_from([-1, 1.5, 1e300, True, None, "7", [1], {}, MARK]))
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["s1", "s2_10m", "code", "k", "stream", "quality", "max_error", "run_id", 7, LONG]),
        "shape": st.one_of(st.lists(st.sampled_from([0, 1, 2, 4, -1, 2**63, "1", 1.5, None]), max_size=4), NUMBERS),
        "datatype": st.sampled_from(["UINT8", "INT32", "FP32", "FP16", "BYTES", "BOOL", "uint8", LONG, None, 7]),
        "data": st.one_of(st.lists(NUMBERS, max_size=4), NUMBERS),
        "parameters": st.one_of(st.dictionaries(st.sampled_from(["binary_data_size"]), NUMBERS), NUMBERS),
    },
)
VALUES: tuple[Any, ...] = (None, 1.5, 2**40, -(2**40), 1e300, True, "7", MARK, [[]], {})
SCALAR_TENSORS = st.sampled_from(
    [
        {"name": name, "shape": [1], "datatype": datatype, "data": [value]}
        for name, datatype in (("k", "INT32"), ("quality", "FP32"), ("max_error", "FP32"), ("run_id", "BYTES"))
        for value in VALUES
    ]
)
REQUESTS = st.one_of(
    st.fixed_dictionaries({"inputs": st.lists(st.one_of(TENSOR, SCALAR_TENSORS), max_size=3)}),
    st.fixed_dictionaries(
        {},
        optional={
            "inputs": st.one_of(st.lists(st.one_of(TENSOR, NUMBERS), max_size=2), NUMBERS),
            "outputs": st.one_of(st.lists(st.one_of(TENSOR, NUMBERS), max_size=2), NUMBERS),
            "id": NUMBERS,
            "parameters": NUMBERS,
        },
    ),
)
TAILS = st.sampled_from([b"", b"\x05\x00\x00\x00ab", b"\xff" * 40, MARK.encode()])
REST_HEADERS = st.dictionaries(
    st.sampled_from(["inference-header-content-length", "content-type", "ce-id", "ce-specversion", "x-request-id"]),
    st.sampled_from(["0", "9" * 5000, "-1", "x", "application/cloudevents+json", "multipart/form-data", "a " + MARK]),
    max_size=3,
)


@pytest.mark.parametrize("service", list(PROTOS))
def test_every_rest_route(servers: Callable[[str], Running], service: str, caplog: pytest.LogCaptureFixture) -> None:
    server = servers(service)
    with httpx.Client(base_url=server.rest, timeout=60) as client:
        models = client.get("/v2/models").json()["models"]
        paths = [f"/v2/models/{model}{rest}" for model in [*models, LONG] for rest in ("/infer", "", "/ready")]
        paths += [f"/v2/models/{models[0]}/versions/{v}/{r}" for v in (1, LONG) for r in ("", "infer", "ready")]
        paths += ["/v2", "/v2/models", "/v2/repository/models/x/load", "/metrics", "/", f"/{LONG}", "/v2/health/ready"]

        def answered(answer: httpx.Response) -> None:
            assert answer.status_code in {200, 501} or 400 <= answer.status_code < 500, answer.text
            assert MARK not in answer.text
            if answer.status_code != 200:
                assert answer.json()["reason"], answer.text
                assert answer.json()["request_id"] == answer.headers["x-request-id"]

        @EXAMPLES
        @given(st.sampled_from(paths), st.sampled_from(["GET", "POST", "PUT", "DELETE"]), st.binary(max_size=32))
        def any_path(path: str, method: str, body: bytes) -> None:
            answered(client.request(method, path, content=body if method in ("POST", "PUT") else None))

        @settings(EXAMPLES, max_examples=150)
        @given(st.sampled_from(models), REQUESTS, TAILS, REST_HEADERS, st.booleans())
        def inference(model: str, request: Any, tail: bytes, headers: dict[str, str], fits: bool) -> None:
            text = json.dumps(request).encode()
            given_length = {"inference-header-content-length": str(len(text))} if fits else {}
            answered(client.post(f"/v2/models/{model}/infer", content=text + tail, headers=headers | given_length))

        with capture_logs() as lines:
            any_path()
            inference()
        assert MARK not in repr(lines) + caplog.text
