"""Runs of the federation service, end to end: a real server, real silos, real bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.bundle import load_bundle
from eoforge.client.federation import FederationClient
from eoforge.federated.strategy import LocalResult, Task
from eoforge.storage.tensorfile import Array, read_file
from tests.federated.quadratic import RATE, SHAPES, STEPS, centre, spec, write_model
from tests.services.federation.helpers import SiloThread, server_for, silo_threads
from tests.services.support import Running, running


@pytest.fixture
def served(store_uri: str) -> Iterator[Running]:
    """Once with its store in a folder, once on a real S3 server."""
    with running(server_for(store_uri)) as run:
        yield run


def test_a_run_gives_the_average_and_ends_as_a_bundle(served: Running, tmp_path: Path) -> None:
    with FederationClient(served.target) as client, silo_threads(served.target, tmp_path, ["a", "b", "c"]):
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        run = client.create_run(spec(model, policy={"rounds": 3, "min_silos": 3, "evaluate_every": 1}), "first")
        events = list(client.watch(run.run_id))
        done = client.run(run.run_id)
        assert done.status == pb.RUN_STATUS_FINISHED, done.failure
        assert [e.sequence for e in events] == list(range(1, len(events) + 1))
        assert client.get_model("first", str(tmp_path / "got.safetensors")) == 3
        got = read_file(tmp_path / "got.safetensors")
        pull = 1 - (1 - RATE) ** STEPS
        for name, shape in SHAPES.items():
            mean = np.mean([centre(s, name, shape) for s in "abc"], axis=0)
            np.testing.assert_allclose(got[name], mean * (1 - (1 - pull) ** 3), rtol=1e-5, atol=1e-6)
        bundle = load_bundle(done.bundle_uri)
        assert bundle.config["federation"]["silos"] == ["a", "b", "c"]
        for name, tensor in bundle.weights().items():
            assert np.array_equal(tensor.numpy(), got[name])
        distances = [s.evaluation["distance"] for s in done.history]
        assert len(distances) == 3
        assert distances[0] > distances[2]


SENSORS = {"encoders.s1.w": (3,), "encoders.s2.w": (2,), "head.w": (4,)}


class OneSensor:
    """Moves what it receives by its own number: so what was averaged over whom can be read off."""

    def __init__(self, value: float) -> None:
        self.value, self.names = value, set[str]()

    def train(self, task: Task, state: Mapping[str, Array]) -> LocalResult:
        self.names |= set(task.tensors)
        deltas = {n.replace("model/", "delta/"): np.full(t.shape, self.value, t.dtype) for n, t in task.tensors.items()}
        return LocalResult(deltas, 10, 1)

    def evaluate(self, task: Task, state: Mapping[str, Array]) -> Mapping[str, float]:
        return {}


def test_each_tensor_is_averaged_over_the_silos_that_hold_its_sensor(tmp_path: Path) -> None:
    """Two S1 silos and one S2 silo, then S1 silos alone: what nobody sends keeps its value."""
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        trainers = {"a": OneSensor(1.0), "b": OneSensor(3.0), "c": OneSensor(8.0)}
        holds = {"a": "s1", "b": "s1", "c": "s2"}
        made = [SiloThread(served.target, n, tmp_path, t, modalities=[holds[n]]) for n, t in trainers.items()]
        model = client.put_model(write_model(tmp_path / "model.safetensors", SENSORS))
        for silos_of, name in ((["a", "b", "c"], "both"), (["a", "b"], "radar")):
            policy = {"rounds": 1, "min_silos": len(silos_of)}
            client.create_run(spec(model, strategy="mm_fl", policy=policy, silos=silos_of), name)
            list(client.watch(name))
            assert client.run(name).status == pb.RUN_STATUS_FINISHED, client.run(name).failure
            client.get_model(name, str(tmp_path / name))
        for runner in made:
            runner.silo.stop()
        both, radar = read_file(tmp_path / "both"), read_file(tmp_path / "radar")
        assert [float(both[n][0]) for n in sorted(SENSORS)] == [2.0, 8.0, 4.0]
        assert [float(radar[n][0]) for n in sorted(SENSORS)] == [2.0, 0.0, 2.0]
        assert trainers["c"].names == {"model/encoders.s2.w", "model/head.w"}


def test_a_quorum_by_modality_is_waited_for(tmp_path: Path) -> None:
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        radar = [SiloThread(served.target, n, tmp_path, OneSensor(1.0), modalities=["s1"]) for n in "ab"]
        model = client.put_model(write_model(tmp_path / "model.safetensors", SENSORS))
        policy = {"rounds": 1, "min_silos": 2, "modality_quorum": {"s2": 1}}
        client.create_run(spec(model, strategy="mm_fl", policy=policy), "waits")
        assert client.run("waits").round.number == 0  # two silos are there, but none with S2
        optical = SiloThread(served.target, "c", tmp_path, OneSensor(1.0), modalities=["s2"])
        list(client.watch("waits"))
        assert list(client.run("waits").history[0].silos) == ["a", "b", "c"]
        for runner in (*radar, optical):
            runner.silo.stop()
