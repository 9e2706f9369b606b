"""The compression service by the Open Inference Protocol V2: gRPC with bytes, REST with base64."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as oip_grpc

from eoforge.data.bands import GROUPS
from tests.services._runtime.test_oip import outputs, request
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
