"""Runs of the federation service, end to end: a real server, real silos, real bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.bundle import load_bundle
from eoforge.client_federation import FederationClient
from eoforge.federated.tensorfile import read_file
from tests.federated.quadratic import RATE, SHAPES, STEPS, centre, spec, write_model
from tests.services.federation_world import server_for, silos
from tests.services.support import Running, running


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Running]:
    with running(server_for(tmp_path / "store")) as run:
        yield run


def test_a_run_gives_the_average_and_ends_as_a_bundle(served: Running, tmp_path: Path) -> None:
    with FederationClient(served.target) as client, silos(served.target, tmp_path, ["a", "b", "c"]):
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        run = client.create_run(spec(model, policy={"rounds": 3, "min_silos": 3, "evaluate_every": 1}), "first")
        events = list(client.watch(run.run_id))
        done = client.run(run.run_id)
        assert done.status == pb.RUN_STATUS_FINISHED, done.failure
        assert [e.sequence for e in events] == list(range(1, len(events) + 1))
        assert client.get_model("first", str(tmp_path / "got.safetensors")) == 3
        got = read_file(tmp_path / "got.safetensors")
        pull = (1 - (1 - RATE) ** STEPS)
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
