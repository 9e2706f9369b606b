"""The compression service by the Open Inference Protocol V2: gRPC with bytes, REST with base64."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as oip_grpc

from eoforge.data.bands import GROUPS, S1_BANDS
from services.compression.work import Work
from tests.services._runtime.oip.test_retrieval import outputs, request
from tests.services.compression.fixtures import CompressionFixture, compression_server
from tests.services.support import Running, details, running

NAME = "eoforge-compression"


@pytest.fixture(scope="module")
def server(archive: CompressionFixture) -> Iterator[Running]:
    with running(compression_server(archive, codec_queue=4, stream_window=4)) as run:
        yield run


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield oip_grpc.GRPCInferenceServiceStub(channel)


def columns(archive: CompressionFixture, modality: str, patches: int = 2) -> dict[str, Any]:
    names = [g.column for g in GROUPS if (g.column == "s1") == (modality == "s1")]
    return {c: np.stack([getattr(pair, c) for pair in archive.pairs[:patches]]) for c in names}


@pytest.mark.parametrize("modality", ["s1", "s2"])
def test_round_trip_by_grpc(stub: Any, archive: CompressionFixture, modality: str) -> None:
    given = columns(archive, modality)
    made = outputs(stub.ModelInfer(request(f"{NAME}-compress-{modality}", given | {"quality": f32(3)}), timeout=60))
    expected = archive.codecs.coder.named().compress([archive.raster(i).only(modality) for i in range(2)], 3)
    back = outputs(stub.ModelInfer(request(f"{NAME}-decompress-{modality}", {"stream": made["stream"]}), timeout=60))
    for decoded, group in zip(archive.codecs.coder.decompress(expected), range(2), strict=True):
        for g in GROUPS:
            if g.column in back:
                stacked = np.stack([decoded.bands[b] for b in g.bands])
                assert np.abs(back[g.column][group].astype(np.float64) - stacked).max() <= 1
    hashed = outputs(stub.ModelInfer(request(f"{NAME}-hash-{modality}", {"stream": made["stream"]}), timeout=60))
    np.testing.assert_array_equal(hashed["code"], made["code"])


def f32(value: float) -> Any:
    return np.array([value], np.float32)


def test_lossless_by_rest(server: Running, archive: CompressionFixture) -> None:
    image = columns(archive, "s1", 1)["s1"]
    tensors = [
        {"name": "s1", "shape": list(image.shape), "datatype": "FP32", "data": image.ravel().tolist()},
        {"name": "max_error", "shape": [1], "datatype": "FP32", "data": [0.0]},
    ]
    url = f"{server.rest}/v2/models/{NAME}"
    made = httpx.post(f"{url}-compress-s1/infer", json={"inputs": tensors}, timeout=60).json()["outputs"]
    text = next(o for o in made if o["name"] == "stream")["data"][0]
    assert base64.b64decode(text, validate=True)[:4] == b"EOFC"
    again = [{"name": "stream", "shape": [1], "datatype": "BYTES", "data": [text]}]
    back = httpx.post(f"{url}-decompress-s1/infer", json={"inputs": again}, timeout=60).json()["outputs"]
    np.testing.assert_array_equal(np.array(back[0]["data"], np.float32).reshape(image.shape), image)


def test_refusals_and_their_reasons(stub: Any, archive: CompressionFixture) -> None:
    good = columns(archive, "s2")
    part = archive.codecs.coder.named().compress([archive.raster(0).window(0, 0, 60, 60)], 3)
    radar = archive.codecs.coder.named().compress([archive.raster(0).only("s1")], 3)
    cases: dict[str, tuple[oip_pb2.ModelInferRequest, str]] = {
        "missing input": (request(f"{NAME}-compress-s2", {"s2_10m": good["s2_10m"]}), "INVALID_ARGUMENT"),
        "unequal numbers": (
            request(f"{NAME}-compress-s2", good | {"s2_20m": good["s2_20m"][:1]}),
            "INVALID_ARGUMENT",
        ),
        "two rates": (
            request(f"{NAME}-compress-s2", good | {"quality": f32(1), "max_error": f32(1)}),
            "INVALID_ARGUMENT",
        ),
        "too many patches": (request(f"{NAME}-compress-s2", columns(archive, "s2", 5)), "LIMIT_EXCEEDED"),
        "no whole patch": (request(f"{NAME}-decompress-s2", {"stream": objects(part)}), "INVALID_ARGUMENT"),
        "damaged": (request(f"{NAME}-decompress-s2", {"stream": objects([b"EOFC"])}), "DATA_REFUSED"),
        "other sensor": (request(f"{NAME}-hash-s2", {"stream": objects(radar)}), "DATA_REFUSED"),
    }
    for name, (message, reason) in cases.items():
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(message, timeout=60)
        assert details(caught.value)["reason"] == reason, (name, caught.value.details())


def objects(streams: list[bytes]) -> Any:
    out = np.empty(len(streams), dtype=object)
    out[:] = streams
    return out


def test_metadata_of_inputs(stub: Any) -> None:
    found = stub.ModelMetadata(oip_pb2.ModelMetadataRequest(name=f"{NAME}-compress-s2"), timeout=60)
    assert [(t.name, t.datatype) for t in found.inputs][:2] == [("s2_10m", "UINT16"), ("s2_20m", "UINT16")]
    assert [t.name for t in found.outputs] == ["stream", "code"]
    assert stub.ModelReady(oip_pb2.ModelReadyRequest(name=f"{NAME}-hash-s1"), timeout=60).ready


def test_pixels_by_rest(server: Running, archive: CompressionFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON holds the pixels of one patch; more come as binary data, and are refused as JSON before they are decoded."""
    streams = archive.codecs.coder.named().compress([archive.raster(i).only("s2") for i in range(2)], 3)
    url = f"{server.rest}/v2/models/{NAME}-decompress-s2/infer"

    def body(count: int, **further: Any) -> dict[str, Any]:
        texts = [base64.b64encode(stream).decode() for stream in streams[:count]]
        return {"inputs": [{"name": "stream", "shape": [count], "datatype": "BYTES", "data": texts}], **further}

    one = {o["name"]: o["data"] for o in httpx.post(url, json=body(1), timeout=60).json()["outputs"]}
    answer = httpx.post(url, json=body(2, parameters={"binary_data_output": True}), timeout=60)
    length = int(answer.headers["inference-header-content-length"])
    at, found = length, {}
    for output in json.loads(answer.content[:length])["outputs"]:
        end = at + output["parameters"]["binary_data_size"]
        found[output["name"]] = np.frombuffer(answer.content[at:end], np.uint16).reshape(output["shape"])
        at = end
    assert at == len(answer.content)
    for column, pixels in found.items():
        assert pixels[0].ravel().tolist() == one[column]
    monkeypatch.setattr(Work, "decompress", None)
    refused = httpx.post(url, json=body(2), timeout=60)
    assert (refused.status_code, "binary_data_output" in refused.text) == (413, True)


def test_streams_as_binary_data_by_rest(server: Running, archive: CompressionFixture) -> None:
    image = columns(archive, "s1", 1)["s1"]
    tensors = [
        {
            "name": "s1",
            "shape": list(image.shape),
            "datatype": "FP32",
            "parameters": {"binary_data_size": image.nbytes},
        },
        {"name": "max_error", "shape": [1], "datatype": "FP32", "data": [0.0]},
    ]
    asked = [{"name": "stream", "parameters": {"binary_data": True}}]
    text = json.dumps({"inputs": tensors, "outputs": asked}).encode()
    answer = httpx.post(
        f"{server.rest}/v2/models/{NAME}-compress-s1/infer",
        content=text + image.tobytes(),
        headers={"inference-header-content-length": str(len(text))},
        timeout=60,
    )
    raw = answer.content[int(answer.headers["inference-header-content-length"]) :]
    assert int.from_bytes(raw[:4], "little") == len(raw) - 4
    [decoded] = archive.codecs.coder.decompress([raw[4:]])
    np.testing.assert_array_equal(np.stack([decoded.bands[band] for band in S1_BANDS]), image[0])
    asked[0]["name"] = "code"  # only learned streams have one
    text = json.dumps({"inputs": tensors, "outputs": asked}).encode()
    refused = httpx.post(
        f"{server.rest}/v2/models/{NAME}-compress-s1/infer",
        content=text + image.tobytes(),
        headers={"inference-header-content-length": str(len(text))},
        timeout=60,
    )
    assert (refused.status_code, "'code'" in refused.text) == (400, True)
