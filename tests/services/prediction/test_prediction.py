"""The prediction service: Open Inference Protocol V2 by gRPC, REST and KServe's client; refusals; settings."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as oip_grpc

from benchmarks.services.prediction import untrained_bundle
from eoforge.data.labels import CLASSES
from eoforge.errors import NotFound, UsageError
from scripts.settings_table import table
from services._runtime.check import empty_call
from services._runtime.errors import CATALOGUE
from services._runtime.wire import OIP_SERVICE
from services.prediction.settings import PredictionSettings
from services.prediction.state import batch_of, load
from tests.services._runtime.oip.test_retrieval import outputs, request
from tests.services.prediction.fixtures import (
    SCENES,
    PredictionFixture,
    make_prediction_fixture,
    prediction_server,
)
from tests.services.support import Running, Signer, details, running

NAME = "eoforge-predict"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PredictionFixture:
    return make_prediction_fixture(tmp_path_factory.mktemp("prediction"))


@pytest.fixture(scope="module")
def server(made: PredictionFixture) -> Iterator[Running]:
    with running(prediction_server(made, max_patches=4, predict_delay_seconds=0.02)) as run:
        yield run


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield oip_grpc.GRPCInferenceServiceStub(channel)


def expected(made: PredictionFixture, key: str, patches: slice = slice(0, 3)) -> Any:
    served = made.predictors[key]
    columns = made.columns(key, patches)
    count = len(next(iter(columns.values())))
    batch = batch_of([{name: array[i] for name, array in columns.items()} for i in range(count)])
    return served.predictor.predict(batch, served.sensors)


def test_models_of_all_sensors_are_served_with_their_metadata(server: Running, stub: Any) -> None:
    names = set(httpx.get(f"{server.rest}/v2/models").json()["models"])
    assert names == {f"{NAME}-{key}" for key in ("s1", "s2", "s1s2")}
    both = httpx.get(f"{server.rest}/v2/models/{NAME}-s1s2").json()
    assert [(t["name"], t["datatype"]) for t in both["inputs"]] == [
        ("s2_10m", "UINT16"),
        ("s2_20m", "UINT16"),
        ("s1", "FP32"),
    ]
    assert both["inputs"][2]["parameters"]["bands"] == "VV,VH"
    assert [t["name"] for t in both["outputs"]] == ["probabilities", "labels", "classes"]
    maps = stub.ModelMetadata(oip_pb2.ModelMetadataRequest(name=f"{NAME}-s2"), timeout=60)
    assert [t.name for t in maps.outputs] == ["probabilities", "labels", "classes", "pixel_map"]
    assert stub.ModelReady(oip_pb2.ModelReadyRequest(name=f"{NAME}-s1"), timeout=60).ready


@pytest.mark.parametrize("key", ["s1", "s2", "s1s2"])
def test_predictions_by_grpc_are_those_of_the_bundle(stub: Any, made: PredictionFixture, key: str) -> None:
    got = outputs(stub.ModelInfer(request(f"{NAME}-{key}", made.columns(key)), timeout=60))
    truth = expected(made, key)
    np.testing.assert_allclose(got["probabilities"], truth.probabilities, atol=1e-6)
    np.testing.assert_array_equal(got["labels"], truth.labels)
    assert [name.decode() for name in got["classes"]] == list(CLASSES)
    assert ("pixel_map" in got) is (key == "s2")
    if key == "s2":
        np.testing.assert_array_equal(got["pixel_map"], truth.pixel_map)


def test_predictions_by_rest(server: Running, made: PredictionFixture) -> None:
    image = made.columns("s1", slice(0, 1))["s1"]
    body = {"inputs": [{"name": "s1", "shape": list(image.shape), "datatype": "FP32", "data": image.ravel().tolist()}]}
    answer = httpx.post(f"{server.rest}/v2/models/{NAME}-s1/infer", json=body, timeout=60).json()
    got = {o["name"]: np.array(o["data"]).reshape(o["shape"]) for o in answer["outputs"]}
    truth = expected(made, "s1", slice(0, 1))
    np.testing.assert_allclose(got["probabilities"], truth.probabilities, atol=1e-6)
    np.testing.assert_array_equal(got["labels"], truth.labels)
    assert got["classes"].tolist() == list(CLASSES)


def test_predictions_by_the_client_of_kserve(server: Running, made: PredictionFixture) -> None:
    async def ask() -> Any:
        client = InferenceGRPCClient(server.target, timeout=60)
        tensors = []
        for name, array in made.columns("s1s2").items():
            tensor = InferInput(name, list(array.shape), {"uint16": "UINT16", "float32": "FP32"}[array.dtype.name])
            tensor.set_data_from_numpy(array, binary_data=True)
            tensors.append(tensor)
        assert await client.is_server_ready()
        answer = await client.infer(InferRequest(f"{NAME}-s1s2", tensors))
        await client.close()
        return answer

    answer = asyncio.run(ask())
    got = {o.name: o.as_numpy() for o in answer.outputs}
    np.testing.assert_allclose(got["probabilities"], expected(made, "s1s2").probabilities, atol=1e-6)


def test_predictions_by_the_clients_of_triton(server: Running, made: PredictionFixture, tmp_path: Path) -> None:
    np.save(tmp_path / "radar.npy", made.columns("s1")["s1"])
    addresses = [server.target, server.rest.removeprefix("http://")]
    command = [sys.executable, "-m", "tests.services.prediction.triton_process", *addresses]
    done = subprocess.run([*command, str(tmp_path / "radar.npy")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    truth = expected(made, "s1")
    for kind in ("grpc", "http"):
        np.testing.assert_allclose(found[kind]["probabilities"], truth.probabilities, atol=1e-6)
        np.testing.assert_array_equal(found[kind]["labels"], truth.labels)
        assert found[kind]["classes"] == list(CLASSES)


def test_patches_of_concurrent_callers_share_batches_and_get_their_own_answers(
    stub: Any, made: PredictionFixture
) -> None:
    truth = expected(made, "s1s2", slice(0, 8)).probabilities

    def ask(number: int) -> Any:
        one = made.columns("s1s2", slice(number, number + 1))
        return outputs(stub.ModelInfer(request(f"{NAME}-s1s2", one), timeout=60))["probabilities"][0]

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(ask, range(8)))
    np.testing.assert_allclose(np.stack(got), truth, atol=1e-6)


def test_refusals_and_their_reasons(stub: Any, made: PredictionFixture) -> None:
    good = made.columns("s1s2")
    dark, torn = good["s2_10m"].copy(), good["s1"].copy()
    dark[0, 2, 5, 5], torn[1, 0, 0, 0] = 0, np.nan
    far, linear = good["s1"].copy(), 10 ** (good["s1"] / 10)
    far[2, 1, 7, 7] = 3e38
    many = {name: np.concatenate([array, array]) for name, array in good.items()}
    cases = {
        "a sensor is missing": ({k: v for k, v in good.items() if k != "s1"}, "INVALID_ARGUMENT"),
        "unequal numbers": (good | {"s1": good["s1"][:1]}, "INVALID_ARGUMENT"),
        "another type": (good | {"s1": good["s1"].astype(np.int32)}, "INVALID_ARGUMENT"),
        "another size": (good | {"s1": good["s1"][..., :60, :60].copy()}, "INVALID_ARGUMENT"),
        "too many": (many, "LIMIT_EXCEEDED"),
        "no data": (good | {"s2_10m": dark}, "DATA_REFUSED"),
        "not a number": (good | {"s1": torn}, "DATA_REFUSED"),
        "no backscatter": (good | {"s1": far}, "DATA_REFUSED"),
        "another unit": (good | {"s1": linear.astype(np.float32)}, "DATA_REFUSED"),
    }
    for name, (arrays, reason) in cases.items():
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request(f"{NAME}-s1s2", arrays), timeout=60)
        assert details(caught.value)["reason"] == reason, (name, caught.value.details())
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request(f"{NAME}-s3", good), timeout=60)
    assert details(caught.value)["reason"] == "NOT_FOUND"


def test_health_reflection_and_the_check_of_helm(server: Running) -> None:
    with grpc.insecure_channel(server.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", OIP_SERVICE):
            found = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
            assert found.status == health_pb2.HealthCheckResponse.SERVING
        answer = empty_call(channel, f"{OIP_SERVICE}/ServerMetadata", None)
    assert answer["name"]


def test_callers_need_a_token_where_one_is_configured(made: PredictionFixture, signer: Signer) -> None:
    with running(prediction_server(made, **signer.settings)) as run, grpc.insecure_channel(run.target) as channel:
        call = request(f"{NAME}-s1", made.columns("s1"))
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(call, timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        metadata = (("authorization", f"Bearer {signer.token()}"),)
        assert outputs(stub.ModelInfer(call, timeout=60, metadata=metadata))["labels"].shape == (3, len(CLASSES))


def test_settings_and_bundles_that_cannot_be_served_are_named(made: PredictionFixture, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to serve"):
        PredictionSettings(bundle_uris=" ,").require_consistent()
    with pytest.raises(UsageError, match="can never be served"):
        PredictionSettings(bundle_uris="x", max_patches=8, predict_queue=4).require_consistent()
    twice = untrained_bundle(str(tmp_path), SCENES, seed=9)
    with pytest.raises(UsageError, match="read s1 and s2"):
        load(PredictionSettings(bundle_uris=f"{made.bundles[0].uri},{twice.uri}"))
    with pytest.raises(NotFound, match="no bundle at"):
        load(PredictionSettings(bundle_uris=str(tmp_path / "absent")))


def test_the_readme_lists_every_setting_and_the_errors_of_inference() -> None:
    readme = (ROOT / "services/prediction/README.md").read_text()
    assert table("services.prediction.settings") in readme, "run python -m scripts.settings_table and paste the result"
    listed = {
        reason for reason, entry in CATALOGUE.items() if f"| {reason} | {entry.status.name} | {entry.http} |" in readme
    }
    assert {"INVALID_ARGUMENT", "DATA_REFUSED", "LIMIT_EXCEEDED", "NOT_FOUND", "OVERLOADED", "INTERNAL"} <= listed
