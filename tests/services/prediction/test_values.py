"""The prediction service with a bundle that regresses: value and interval by gRPC and REST, and its description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import torch
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as oip_grpc

from eoforge.bundle import Bundle, write_bundle
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.methods.dml_s2r.config import Config
from eoforge.methods.dml_s2r.inference import build as build_inference
from eoforge.methods.prediction import open_predictor
from services.prediction.settings import PredictionSettings
from services.prediction.state import load
from tests.services._runtime.oip.test_retrieval import outputs, request
from tests.services.prediction.fixtures import PATCHES, PredictionFixture, prediction_server
from tests.services.support import Running, running

NAME = "eoforge-predict-s2"
RANGE = (0.2, 0.8)


def value_bundle(runs: str) -> Bundle:
    """A bundle of ``dml_s2r`` with initial weights and ten random references."""
    config = replace(Config.tiny(), width=8, hidden=8, embedding=8, unit="m")
    inference, draw = build_inference(config), torch.Generator().manual_seed(0)
    inference.remember(
        torch.randn(10, 8, generator=draw),
        torch.randn(10, generator=draw),
        torch.zeros(0, 8),
    )
    bands = {sensor: list(names) for sensor, names in config.sensor_bands.items()}
    facts = {
        "method": "dml_s2r",
        "config": asdict(config),
        "bands": bands,
        "normalisation": {band: [1500.0, 1000.0] for band in bands["s2"]},
        "seed": 0,
        "patches": None,
        "code_revision": "none",
        "tasks": ["regress"],
        "interpolation": config.interpolation,
        "values": {
            "name": "height",
            "unit": "m",
            "low": RANGE[0],
            "high": RANGE[1],
            "mean": 0.5,
            "deviation": 0.3,
            "intervals": {"level": 0.9, "factor": 0.5, "floor": 0.3, "held": 20, "kind": "conformal"},
        },
    }
    return write_bundle(runs, weights=inference.state_dict(), config=facts, metrics={}, readme="untrained")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PredictionFixture:
    bundle = value_bundle(str(tmp_path_factory.mktemp("values")))
    predictors = load(PredictionSettings(bundle_uris=bundle.uri))
    return PredictionFixture((bundle,), predictors, tuple(synthetic_pairs(PATCHES, seed=12)))


@pytest.fixture(scope="module")
def server(made: PredictionFixture) -> Iterator[Running]:
    with running(prediction_server(made)) as run:
        yield run


def expected(made: PredictionFixture) -> dict[str, Any]:
    from services.prediction.state import batch_of

    columns = made.columns("s2", slice(0, PATCHES))
    batch = batch_of([{name: array[i] for name, array in columns.items()} for i in range(PATCHES)])
    return open_predictor(made.bundles[0], "cpu").predict(batch)._asdict()


def test_the_model_describes_value_and_interval(server: Running) -> None:
    model = httpx.get(f"{server.rest}/v2/models/{NAME}").json()
    assert [(one["name"], one["datatype"], one["shape"]) for one in model["outputs"]] == [
        ("value", "FP32", [-1]),
        ("lower", "FP32", [-1]),
        ("upper", "FP32", [-1]),
        ("clipped", "UINT8", [-1]),
    ]
    about = model["outputs"][0]["parameters"]
    assert (about["target"], about["unit"], about["range"]) == ("height", "m", "0.2 to 0.8")
    assert "0.9 of the truth" in model["outputs"][1]["parameters"]["meaning"]


def test_values_by_grpc_and_rest_are_those_of_the_bundle(server: Running, made: PredictionFixture) -> None:
    truth = expected(made)
    assert len(set(truth["value"].tolist())) > 3
    with grpc.insecure_channel(server.target) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        got = outputs(stub.ModelInfer(request(NAME, made.columns("s2", slice(0, PATCHES))), timeout=60))
    for name, values in truth.items():
        np.testing.assert_allclose(got[name], values, atol=1e-5)
    assert (got["lower"] <= got["value"]).all()
    assert (got["value"] <= got["upper"]).all()
    assert got["value"].min() >= np.float32(RANGE[0])
    assert got["value"].max() <= np.float32(RANGE[1])
    columns = made.columns("s2", slice(0, 1))
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": "UINT16", "data": array.ravel().tolist()}
        for name, array in columns.items()
    ]
    answer = httpx.post(f"{server.rest}/v2/models/{NAME}/infer", json={"inputs": inputs}, timeout=60).json()
    found = {one["name"]: one["data"] for one in answer["outputs"]}
    assert found["value"] == pytest.approx([float(truth["value"][0])], abs=1e-5)
    assert found["clipped"] == [int(truth["clipped"][0])]
