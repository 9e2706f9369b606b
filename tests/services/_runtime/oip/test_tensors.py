"""Foreign tensors: numbers are taken as they are or refused, and refusals quote nothing."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc
from typing import Any

import httpx
import numpy as np
import pytest
from kserve import InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2

from eoforge.client import FederationClient
from eoforge.errors import LimitExceeded, UsageError
from services._runtime.oip.requests import request_of
from services._runtime.oip.tensors import input_array, input_number, input_texts
from tests.federated.quadratic import spec, write_model
from tests.services.support import Running

MARK = "payload"


def rest(datatype: str, data: Any, shape: list[Any] | None = None) -> InferRequest:
    tensor = {"name": "x", "shape": [len(data)] if shape is None else shape, "datatype": datatype, "data": data}
    body = json.dumps({"inputs": [tensor]}).encode()
    return request_of(body, len(body), "model")


def binary(datatype: str, raw: bytes, shape: list[int], size: Any = None) -> InferRequest:
    parameters = {"binary_data_size": len(raw) if size is None else size}
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "parameters": parameters}
    text = json.dumps({"inputs": [tensor]}).encode()
    return request_of(text + raw, len(text), "model")


def typed(datatype: str, field: str, values: list[Any]) -> InferRequest:
    contents = oip_pb2.InferTensorContents(**{field: values})
    tensor = oip_pb2.ModelInferRequest.InferInputTensor(
        name="x", datatype=datatype, shape=[len(values)], contents=contents
    )
    return InferRequest.from_grpc(oip_pb2.ModelInferRequest(model_name="model", inputs=[tensor]))


REFUSED: dict[str, tuple[str, InferRequest]] = {
    "a fraction for an integer": ("INT32", rest("INT32", [1.5])),
    "a whole fraction for an integer": ("INT32", rest("INT32", [1.0])),
    "a truth value": ("INT32", rest("INT32", [True])),
    "null": ("INT32", rest("INT32", [None])),
    "null for a number": ("FP32", rest("FP32", [None])),
    "a text for a number": ("FP32", rest("FP32", [MARK])),
    "above the range": ("UINT8", rest("UINT8", [256])),
    "below the range": ("UINT8", rest("UINT8", [-1])),
    "infinite in 32 bits": ("FP32", rest("FP32", [1e300])),
    "nested of other size": ("INT32", rest("INT32", [[1, 2], [3]], [2])),
    "an object": ("INT32", rest("INT32", [{"a": 1}])),
    "a number for a text": ("BYTES", rest("BYTES", [5])),
    "above the range by gRPC": ("UINT8", typed("UINT8", "uint_contents", [300])),
    "NaN by gRPC": ("FP32", typed("FP32", "fp32_contents", [math.nan])),
    "too few bytes": ("INT32", binary("INT32", b"\0" * 3, [1])),
    "too many bytes": ("INT32", binary("INT32", b"\0" * 8, [1])),
    "a length beyond the end": ("BYTES", binary("BYTES", struct.pack("<I", 99) + b"ab", [1])),
    "half a length": ("BYTES", binary("BYTES", b"\1\0", [1])),
    "fewer texts than declared": ("BYTES", binary("BYTES", struct.pack("<I", 1) + b"a", [2])),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    datatype, request = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        input_array(request, "x", datatype, (), 4)
    assert MARK not in str(caught.value)


def test_no_more_data_is_read_than_the_shape_says() -> None:
    read: list[int] = []

    class Data(list[Any]):
        def __iter__(self) -> Any:
            for number in range(1000):
                read.append(number)
                yield number

    request = rest("INT32", [1, 2])
    request.inputs[0].data = Data()
    with pytest.raises(UsageError, match="do not fill"):
        input_array(request, "x", "INT32", (), 4)
    assert len(read) == 3


def test_no_more_texts_are_made_than_the_shape_says() -> None:
    """Short texts take ten times their bytes: 16 MiB of them were 150 MiB and a second of the interpreter's lock."""
    request = binary("BYTES", (struct.pack("<I", 2) + b"ab") * 500_000, [1])
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="do not fill"):
            input_array(request, "x", "BYTES", (), 4)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [-1, 5, "4", None, 1.0, True, 2**70])
def test_the_binary_part_must_fit(size: Any) -> None:
    text = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "parameters": {}}]}).encode()
    with pytest.raises(UsageError, match="binary_data_size"):
        request_of(text, len(text), "model")
    if size is not None:
        with pytest.raises(UsageError, match="binary_data_size"):
            binary("INT32", b"\0" * 4, [1], size)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"7", b"null", b"{", b"{}", b'{"inputs": {}}', b'{"inputs": [7]}', b"\xff"]
)
def test_other_forms_are_refused(body: bytes) -> None:
    with pytest.raises(UsageError):
        request_of(body, len(body), "model")


def test_a_datatype_and_shape_of_a_caller_are_not_quoted_at_length() -> None:
    long = "INT32" + "x" * 200
    with pytest.raises(UsageError) as caught:
        input_array(rest(long, [1]), "x", "INT32", (), 1)
    assert long not in str(caught.value)


def test_what_fits_is_taken_as_it_is() -> None:
    assert input_array(rest("UINT8", [0, 255]), "x", "UINT8", (), 4).tolist() == [0, 255]
    assert input_array(rest("FP32", [[1, 2.5]], [1, 2]), "x", "FP32", (2,), 4).tolist() == [[1.0, 2.5]]
    assert input_array(binary("FP32", np.float32(math.nan).tobytes(), [1]), "x", "FP32", (), 1).shape == (1,)
    assert input_number(rest("INT32", [7]), "x", "INT32") == 7
    assert input_number(rest("INT32", [7]), "y", "INT32") is None
    texts = b"".join(struct.pack("<I", len(t)) + t for t in (b"", b"ab", "é".encode()))
    assert input_texts(binary("BYTES", texts, [3]), "x", 3) == ["", "ab", "é"]
    raw = binary("BYTES", struct.pack("<I", 1) + b"\xff", [1])
    assert input_array(raw, "x", "BYTES", (), 1).tolist() == [b"\xff"]
    with pytest.raises(UsageError, match="UTF-8"):
        input_texts(raw, "x", 1)
    with pytest.raises(LimitExceeded):
        input_texts(rest("BYTES", ["a", "b"]), "x", 1)
    with pytest.raises(UsageError, match="finite"):
        input_number(binary("FP32", np.float32(math.inf).tobytes(), [1]), "x", "FP32")


def test_states_of_runs_by_rest(served: Running, client: FederationClient, tmp_path: Any) -> None:
    client.create_run(spec(client.put_model(write_model(tmp_path / "model")), silos=["nobody"]), "by-rest")
    url = f"{served.rest}/v2/models/eoforge-federation-runs/infer"

    def ask(data: list[Any]) -> httpx.Response:
        tensor = {"name": "run_id", "shape": [len(data)], "datatype": "BYTES", "data": data}
        return httpx.post(url, json={"inputs": [tensor]}, timeout=60)

    found = ask(["by-rest"]).json()
    assert {o["name"]: o["data"] for o in found["outputs"]} == {
        "status": ["RUNNING"],
        "round": [0],
        "rounds": [2],
        "bundle_uri": [""],
    }
    assert found["id"]
    for data, reason in (([5], "INVALID_ARGUMENT"), ([None], "INVALID_ARGUMENT"), (["none"], "NOT_FOUND")):
        assert ask(data).json()["reason"] == reason
    for answer in (httpx.get(f"{served.rest}/nothing"), httpx.delete(f"{served.rest}/v2/models")):
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert answer.json()["reason"] in ("NOT_FOUND", "INVALID_ARGUMENT")
