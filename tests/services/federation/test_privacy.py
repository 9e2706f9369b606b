"""Privacy and robustness end to end, and refused combinations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.base import RemoteError
from eoforge.client.federation import FederationClient
from eoforge.errors import DataRefused
from eoforge.federated.privacy import secagg
from eoforge.federated.strategy import LocalResult, Task
from eoforge.methods.federated_launch import strategy_of
from eoforge.storage.tensorfile import Array, read_file
from services.federation.silos import masking
from tests.federated.quadratic import SHAPES, Quadratic, centre, spec, write_model
from tests.services.federation.helpers import SiloThread, coordinator_of
from tests.services.support import Running, until

PULL = 1 - 0.75**2
"""How far two steps of rate 1/4 bring a silo towards its centre."""


class Fixed(Quadratic):
    """Sends the same number everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def train(self, task: Task, state: Mapping[str, Array]) -> LocalResult:
        shapes = {n.removeprefix("model/"): t.shape for n, t in task.tensors.items()}
        deltas = {f"delta/{n}": np.full(s, self.value, np.float32) for n, s in shapes.items()}
        return LocalResult(deltas, self.samples, 1)


def play(served: Running, folder: Path, name: str, trainers: Mapping[str, Any], **changes: Any) -> tuple[pb.Run, Any]:
    """Runs one run with these silos and returns it with its model."""
    runners = [SiloThread(served.target, silo, folder, t, strategies=strategy_of) for silo, t in trainers.items()]
    try:
        with FederationClient(served.target) as client:
            model = client.put_model(write_model(folder / "model.safetensors"))
            policy = {"rounds": 1, "min_silos": len(trainers)} | changes.pop("policy", {})
            client.create_run(spec(model, policy=policy, silos=sorted(trainers), **changes), name)
            list(client.watch(name))
            run = client.run(name)
            client.get_model(name, str(folder / "got.safetensors"))
            return run, read_file(folder / "got.safetensors")
    finally:
        for runner in runners:
            runner.silo.stop()
        for runner in runners:
            runner.thread.join(60)


def test_masked_updates_give_the_plain_average(served: Running, tmp_path: Path) -> None:
    names = ["m1", "m2", "m3"]
    run, got = play(
        served, tmp_path, "masked", {n: Quadratic() for n in names},
        privacy={"secure_aggregation": True, "fraction_bits": 30}, data=pb.DataContract(max_update_norm=100.0),
    )  # fmt: skip
    assert run.status == pb.RUN_STATUS_FINISHED, run.failure
    for name, shape in SHAPES.items():
        mean = np.mean([centre(s, name, shape) for s in names], axis=0)
        np.testing.assert_allclose(got[name], PULL * mean, atol=1e-6)


def test_a_silo_that_vanishes_after_it_masked_is_taken_out_of_the_sum(served: Running, tmp_path: Path) -> None:
    """It has deposited its shares, then fails to train: the others' shares remove what is left of its masks."""

    def vanish(task: Task) -> None:
        from eoforge.errors import DataRefused

        raise DataRefused("the disk is gone")

    trainers = {"v1": Quadratic(), "v2": Quadratic(), "v3": Quadratic(), "v4": Quadratic(before=vanish)}
    run, got = play(
        served, tmp_path, "vanished", trainers, policy={"quorum": 3},
        privacy={"secure_aggregation": True, "threshold": 3}, data=pb.DataContract(max_update_norm=100.0),
    )  # fmt: skip
    assert run.status == pb.RUN_STATUS_FINISHED, run.failure
    assert list(run.history[0].silos) == ["v1", "v2", "v3"]
    for name, shape in SHAPES.items():
        mean = np.mean([centre(s, name, shape) for s in ("v1", "v2", "v3")], axis=0)
        np.testing.assert_allclose(got[name], PULL * mean, atol=1e-5)


@pytest.mark.parametrize("robust", [pb.ROBUST_MEDIAN, pb.ROBUST_TRIMMED_MEAN, pb.ROBUST_MULTI_KRUM])
def test_one_liar_does_not_move_a_robust_model(served: Running, tmp_path: Path, robust: int) -> None:
    honest = {f"h{robust}{i}": Fixed(1.0) for i in range(4)}
    run, got = play(
        served, tmp_path, f"robust-{robust}", {**honest, f"h{robust}-liar": Fixed(1e6)},
        privacy={"robust": robust, "byzantine_share": 0.2},
    )  # fmt: skip
    assert run.status == pb.RUN_STATUS_FINISHED, run.failure
    assert all(np.allclose(tensor, 1.0) for tensor in got.values())


def test_dp_at_the_server_clips_and_reports_epsilon(served: Running, tmp_path: Path) -> None:
    elements = sum(int(np.prod(s)) for s in SHAPES.values())
    run, got = play(
        served, tmp_path, "dp", {f"d{i}": Fixed(100.0) for i in range(3)}, options={"weighting": "uniform"},
        privacy={"dp": pb.DP_MODE_SERVER, "clip_norm": 1.0, "noise_multiplier": 1e-3},
    )  # fmt: skip
    assert run.status == pb.RUN_STATUS_FINISHED, run.failure
    norm = np.sqrt(sum(float((t**2).sum()) for t in got.values()))
    assert norm == pytest.approx(1.0, abs=0.01)
    assert len(np.unique(np.concatenate([t.reshape(-1) for t in got.values()]))) == elements  # there is noise
    assert run.epsilon > 1e3
    secret = Path(coordinator_of(served).store.root, "runs/dp/secret")
    until(lambda: not secret.exists())  # nobody who reads the store later can take the noise off


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"privacy": {"secure_aggregation": True, "robust": pb.ROBUST_MEDIAN}}, "robust"),
        ({"privacy": {"secure_aggregation": True}, "strategy": "pfedla"}, "pfedla"),
        (
            {"privacy": {"secure_aggregation": True}, "policy": {"late": pb.LATE_POLICY_FOLD, "late_discount": 1}},
            "late",
        ),
        ({"privacy": {"secure_aggregation": True, "dp": pb.DP_MODE_SERVER}}, "DP_MODE_SILO"),
        ({"privacy": {"secure_aggregation": True}, "strategy": "scaffold"}, "corrections (control)"),
        ({"privacy": {"secure_aggregation": True}, "strategy": "feddc"}, "corrections"),
        ({"privacy": {"secure_aggregation": True}, "strategy": "feddyn"}, "corrections"),
        ({"data": pb.DataContract(max_sample_ratio=0.5)}, "max_sample_ratio"),
        ({"privacy": {"dp": pb.DP_MODE_SERVER, "clip_norm": 1, "noise_multiplier": 1}}, "weighting=uniform"),
        (
            {"privacy": {"dp": pb.DP_MODE_SERVER, "clip_norm": 1, "noise_multiplier": 1}, "strategy": "scaffold"},
            "scaffold",
        ),
        ({"privacy": {"max_epsilon": 3}}, "max_epsilon"),
        (
            {"privacy": {"dp": pb.DP_MODE_SERVER, "clip_norm": 1, "noise_multiplier": 1, "max_epsilon": 0.5}},
            "one round costs 4.73",
        ),
        ({"policy": {"quorum": 5}}, "quorum"),
        ({"policy": {"rounds": 0}}, "rounds"),
        ({"policy": {"target_metric": "f1"}}, "evaluate_every"),
        ({"policy": {"over_selection": 0.5}}, "over_selection"),
        ({"options": {"weighting": "by mood"}}, "weighting"),
        ({"strategy": "fedguess"}, "fedguess"),
    ],
)
def test_what_does_not_compose_is_refused_with_the_reason(
    served: Running, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with FederationClient(served.target) as client:
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        with pytest.raises(RemoteError) as caught:
            client.create_run(spec(model, **changes))
    assert caught.value.remote_reason == "INVALID_ARGUMENT"
    assert reason in str(caught.value)


@pytest.mark.parametrize("key", [bytes(32), (1).to_bytes(32, "little")])
def test_a_key_that_nobody_can_agree_with_is_refused_at_once(key: bytes) -> None:
    """A point of small order: the round would fail when the first mask is made with it."""
    good = secagg.public_key(secagg.new_key())
    for keys in (pb.MaskKeys(share_key=key, mask_key=good), pb.MaskKeys(share_key=good, mask_key=key)):
        with pytest.raises(DataRefused, match="unusable"):
            masking.check(pb.Round(), "a", "keys", pb.AnswerRequest(keys=keys))
    masking.check(pb.Round(), "a", "keys", pb.AnswerRequest(keys=pb.MaskKeys(share_key=good, mask_key=good)))
