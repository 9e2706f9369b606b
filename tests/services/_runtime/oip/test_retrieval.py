"""Open Inference Protocol V2: metadata by REST, inference by gRPC and REST, the same codes as the typed API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf import json_format
from kserve import InferInput, InferRequest, InferResponse
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as oip_grpc

from eoforge.api.oip.v1 import oip_pb2 as further_pb2
from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.index.catalog import IndexSnapshot
from eoforge.storage.addresses import TableRef
from services._runtime.oip.tensors import DATATYPES
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import BITS, DIM, RetrievalFixture
from tests.services.support import Running, details, running

NAME = "eoforge-retrieval"
IMAGES = 3


@pytest.fixture(scope="module")
def server(archive: RetrievalFixture) -> Iterator[Running]:
    with running(server_for(archive, max_images=4)) as run:
        yield run


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield oip_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def snapshot(archive: RetrievalFixture) -> IndexSnapshot:
    return IndexSnapshot.open(TableRef(archive.codes))


def inputs(archive: RetrievalFixture, modality: str, count: int = IMAGES) -> dict[str, Any]:
    columns = ["s1"] if modality == "s1" else ["s2_10m", "s2_20m"]
    return {c: np.stack([getattr(p, c) for p in archive.pairs[:count]]) for c in columns}


def request(model: str, arrays: dict[str, Any]) -> oip_pb2.ModelInferRequest:
    tensors = []
    for name, array in arrays.items():
        tensor = InferInput(name, list(array.shape), DATATYPES[array.dtype.name])
        tensor.set_data_from_numpy(array, binary_data=True)
        tensors.append(tensor)
    return InferRequest(model, tensors).to_grpc()


def outputs(response: oip_pb2.ModelInferResponse) -> dict[str, Any]:
    parsed = InferResponse.from_grpc(response)
    return {o.name: o.as_numpy() for o in parsed.outputs}


def test_metadata_by_rest_is_complete(server: Running) -> None:
    encode = httpx.get(f"{server.rest}/v2/models/{NAME}-encode-s2").json()
    said = {"unit": "digital number: reflectance x 10000", "range": "1 to 65535; 0 is no data"}
    bands = [said | {"bands": "B02,B03,B04,B08", "grid": "10 m"}]
    bands.append(said | {"bands": "B05,B06,B07,B8A,B11,B12", "grid": "20 m"})
    assert encode["inputs"] == [
        {"name": "s2_10m", "datatype": "UINT16", "shape": [-1, 4, 120, 120], "parameters": bands[0]},
        {"name": "s2_20m", "datatype": "UINT16", "shape": [-1, 6, 60, 60], "parameters": bands[1]},
    ]
    assert encode["versions"] == ["1"]
    assert {o["name"]: o["shape"] for o in encode["outputs"]} == {"code": [-1, BITS // 8], "embedding": [-1, DIM]}
    assert set(httpx.get(f"{server.rest}/v2/models").json()["models"]) == {
        f"{NAME}-{what}-{m}" for what in ("encode", "search") for m in ("s1", "s2")
    }
    for model in httpx.get(f"{server.rest}/v2/models").json()["models"]:
        found = httpx.get(f"{server.rest}/v2/models/{model}").json()
        assert found["inputs"]
        assert found["outputs"]
        assert httpx.get(f"{server.rest}/v2/models/{model}/ready").json()["ready"] is True
        for entry in (*found["inputs"], *found["outputs"]):
            assert {"unit", "range", "order", "needs"} & entry["parameters"].keys(), entry


def test_metadata_by_grpc_is_the_same(server: Running, stub: Any) -> None:
    name = f"{NAME}-encode-s1"
    found = stub.ModelMetadata(oip_pb2.ModelMetadataRequest(name=name), timeout=60)
    rest = httpx.get(f"{server.rest}/v2/models/{name}").json()
    whole = further_pb2.ModelMetadataResponse.FromString(found.SerializeToString())  # KServe's type has no parameters
    assert [{k: v.string_param for k, v in i.parameters.items()} for i in whole.inputs] == [
        i["parameters"] for i in rest["inputs"]
    ]
    assert rest["inputs"][0]["parameters"]["bands"] == "VV,VH"
    assert rest["inputs"][0]["parameters"]["unit"] == "dB"
    assert [(i.name, i.datatype, list(i.shape)) for i in found.inputs] == [
        (i["name"], i["datatype"], i["shape"]) for i in rest["inputs"]
    ]
    assert stub.ServerReady(oip_pb2.ServerReadyRequest(), timeout=60).ready


@pytest.mark.parametrize("modality", ["s1", "s2"])
def test_encode_by_grpc(stub: Any, archive: RetrievalFixture, snapshot: IndexSnapshot, modality: str) -> None:
    found = outputs(stub.ModelInfer(request(f"{NAME}-encode-{modality}", inputs(archive, modality)), timeout=60))
    expected = np.stack([snapshot.code_of(p.meta.patch_id, modality) for p in archive.pairs[:IMAGES]])
    np.testing.assert_array_equal(found["code"], expected)
    assert found["embedding"].shape == (IMAGES, DIM)


@pytest.mark.parametrize(("source", "target"), [("s1", "s2"), ("s2", "s1")])
def test_search_by_grpc(
    stub: Any, archive: RetrievalFixture, snapshot: IndexSnapshot, source: str, target: str
) -> None:
    codes = np.stack([snapshot.code_of(p.meta.patch_id, source) for p in archive.pairs[:IMAGES]])
    arrays = {"code": codes, "k": np.array([5], np.int32)}
    found = outputs(stub.ModelInfer(request(f"{NAME}-search-{target}", arrays), timeout=60))
    distances, rows, *_ = snapshot.search(target, codes, 5)
    ids = snapshot.metadata().column("patch_id").to_pylist()
    np.testing.assert_array_equal(found["distance"], distances)
    texts = [[x.decode() if isinstance(x, bytes) else x for x in row] for row in found["patch_id"]]
    assert texts == [[ids[r] for r in row] for row in rows]


def test_encode_and_search_by_rest(server: Running, archive: RetrievalFixture, snapshot: IndexSnapshot) -> None:
    image = inputs(archive, "s1", 1)["s1"]
    tensor = {"name": "s1", "shape": list(image.shape), "datatype": "FP32", "data": image.ravel().tolist()}
    encoded = httpx.post(f"{server.rest}/v2/models/{NAME}-encode-s1/infer", json={"inputs": [tensor]}, timeout=60)
    by_name = {o["name"]: o for o in encoded.json()["outputs"]}
    code = snapshot.code_of(archive.pairs[0].meta.patch_id, "s1")
    assert by_name["code"]["data"] == code.tolist()
    query = {"name": "code", "shape": [1, len(code)], "datatype": "UINT8", "data": code.tolist()}
    found = httpx.post(f"{server.rest}/v2/models/{NAME}-search-s1/infer", json={"inputs": [query]}, timeout=60).json()
    ids = next(o for o in found["outputs"] if o["name"] == "patch_id")
    assert ids["shape"] == [1, 10]
    assert ids["data"][0] == archive.pairs[0].meta.patch_id


def test_what_is_refused(server: Running, stub: Any, archive: RetrievalFixture) -> None:
    encode, search = f"{NAME}-encode-s2", f"{NAME}-search-s1"
    good = inputs(archive, "s2")
    code = np.zeros((1, BITS // 8), np.uint8)
    cases: dict[str, tuple[oip_pb2.ModelInferRequest, str]] = {
        "missing input": (request(encode, {"s2_10m": good["s2_10m"]}), "INVALID_ARGUMENT"),
        "wrong type": (request(encode, good | {"s2_20m": good["s2_20m"].astype("f4")}), "INVALID_ARGUMENT"),
        "wrong shape": (request(encode, {c: a[:, :1] for c, a in good.items()}), "INVALID_ARGUMENT"),
        "unequal numbers": (request(encode, good | {"s2_20m": good["s2_20m"][:1]}), "INVALID_ARGUMENT"),
        "too many images": (request(encode, inputs(archive, "s2", 5)), "LIMIT_EXCEEDED"),
        "nodata": (request(encode, {c: a * 0 for c, a in good.items()}), "DATA_REFUSED"),
        "no backscatter": (
            request(encode.replace("s2", "s1"), {"s1": inputs(archive, "s1", 1)["s1"] * 1e30}),
            "DATA_REFUSED",
        ),
        "unknown model": (request("nobody", good), "NOT_FOUND"),
        "k too large": (request(search, {"code": code, "k": np.array([5000], np.int32)}), "LIMIT_EXCEEDED"),
        "k of none": (request(search, {"code": code, "k": np.array([0], np.int32)}), "INVALID_ARGUMENT"),
        "no codes": (request(search, {"code": code[:0]}), "INVALID_ARGUMENT"),
        "unknown input": (request(search, {"code": code, "kk": np.array([1], np.int32)}), "INVALID_ARGUMENT"),
        "code of other bits": (request(search, {"code": code[:, :3]}), "INVALID_ARGUMENT"),
        "too many codes": (request(search, {"code": np.repeat(code, 5, axis=0)}), "LIMIT_EXCEEDED"),
    }
    for name, (message, reason) in cases.items():
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(message, timeout=60)
        assert details(caught.value)["reason"] == reason, (name, caught.value.details())
    lying = request(search, {"code": code})
    lying.inputs[0].shape[0] = 4  # says four codes, brings the bytes of one
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(lying, timeout=60)
    assert details(caught.value)["reason"] == "INVALID_ARGUMENT"
    response = httpx.post(f"{server.rest}/v2/models/{encode}/infer", json={"inputs": []}, timeout=60)
    assert response.status_code == 400
    assert response.json()["reason"] == "INVALID_ARGUMENT"


def test_nobody_takes_the_model_away(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryModelUnload(oip_pb2.RepositoryModelUnloadRequest(model_name=f"{NAME}-encode-s1"), timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert stub.ModelReady(oip_pb2.ModelReadyRequest(name=f"{NAME}-encode-s1"), timeout=60).ready


FILTERS: dict[str, Any] = {
    "none": {},
    "split": {"splits": ["train"]},
    "labels": {"labelsAny": ["Pastures", "Arable land"], "excludeCloud": True},
    "time and place": {
        "acquiredFrom": "2017-01-01T00:00:00Z",
        "bounds": {"lonMin": -10, "latMin": 30, "lonMax": 40, "latMax": 70},
    },
    "nothing passes": {"acquiredUntil": "1999-01-01T00:00:00Z"},
}


@pytest.mark.parametrize("case", FILTERS)
def test_search_by_patch_with_a_filter_finds_what_the_typed_api_finds(
    server: Running, stub: Any, archive: RetrievalFixture, case: str
) -> None:
    """Ids, order and distances are the same, by gRPC and by REST."""
    names = [p.meta.patch_id for p in archive.pairs[:2]]
    wanted = json_format.ParseDict(FILTERS[case], pb.Filter())
    with grpc.insecure_channel(server.target) as channel:
        typed = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        kinds = {"query_modality": pb.MODALITY_S1, "target_modality": pb.MODALITY_S2}
        answers = [
            typed.Search(pb.SearchRequest(patch_id=n, filter=wanted, page_size=5, **kinds), timeout=60) for n in names
        ]
    expected = [[(h.patch.patch_id, h.distance) for h in answer.hits] for answer in answers]
    assert all(expected) == (case != "nothing passes")
    parameters = {"query_modality": "s1", "filter": json.dumps(FILTERS[case])}
    tensors = [
        {"name": "patch_id", "shape": [2], "datatype": "BYTES", "data": names},
        {"name": "k", "shape": [1], "datatype": "INT32", "data": [5]},
    ]
    url = f"{server.rest}/v2/models/{NAME}-search-s2/infer"
    rest = httpx.post(url, json={"inputs": tensors, "parameters": parameters}, timeout=60).json()["outputs"]
    by_name = {o["name"]: np.array(o["data"]).reshape(o["shape"]).tolist() for o in rest}
    pairs = zip(by_name["patch_id"], by_name["distance"], strict=True)
    assert [list(zip(*found, strict=True)) for found in pairs] == expected
    message = request(f"{NAME}-search-s2", {"patch_id": np.array(names, object), "k": np.array([5], np.int32)})
    for key, value in parameters.items():
        message.parameters[key].string_param = value
    by_grpc = outputs(stub.ModelInfer(message, timeout=60))
    assert by_grpc["distance"].tolist() == by_name["distance"]
    assert [[x.decode() for x in row] for row in by_grpc["patch_id"].tolist()] == by_name["patch_id"]


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({}, 400),
        ({"query_modality": "s3"}, 400),
        ({"query_modality": 1}, 400),
        ({"query_modality": "s1", "filter": "[]"}, 400),
        ({"query_modality": "s1", "filter": "[" * 30_000}, 413),
        ({"query_modality": "s1", "filter": '{"country": ["x"]}'}, 400),
        ({"query_modality": "s1", "filter": '{"labelsAny": ["Moon"]}'}, 400),
        ({"query_modality": "s1", "filter": '{"bounds": 7}'}, 400),
        ({"query_modality": "s1", "filter": "{"}, 400),
        ({"query_modality": "s1", "filter": " " * 40_000}, 413),
    ],
)
def test_parameters_of_a_search_that_are_refused(
    server: Running, archive: RetrievalFixture, parameters: dict[str, Any], status: int
) -> None:
    url = f"{server.rest}/v2/models/{NAME}-search-s2/infer"
    query = {"name": "patch_id", "shape": [1], "datatype": "BYTES", "data": [archive.pairs[0].meta.patch_id]}
    answer = httpx.post(url, json={"inputs": [query], "parameters": parameters}, timeout=60)
    assert answer.status_code == status, answer.text


def test_a_patch_that_is_not_there_and_two_kinds_of_query(server: Running, archive: RetrievalFixture) -> None:
    url = f"{server.rest}/v2/models/{NAME}-search-s2/infer"
    query = {"name": "patch_id", "shape": [1], "datatype": "BYTES", "data": ["nowhere"]}
    code = {"name": "code", "shape": [1, BITS // 8], "datatype": "UINT8", "data": [0] * (BITS // 8)}
    absent = httpx.post(url, json={"inputs": [query], "parameters": {"query_modality": "s1"}}, timeout=60)
    assert (absent.status_code, str(archive.codes) in absent.text) == (404, False)
    both = httpx.post(url, json={"inputs": [query, code], "parameters": {"query_modality": "s1"}}, timeout=60)
    assert both.json()["reason"] == "INVALID_ARGUMENT"
