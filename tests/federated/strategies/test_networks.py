"""What federated strategies do to whole networks: buffers, batch norm, bytes, what silos remember."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from eoforge.errors import UsageError
from eoforge.federated import simulate
from eoforge.federated.strategies.objective import Local
from eoforge.federated.strategies.registry import make_strategy
from eoforge.federated.strategy import wire_bytes
from eoforge.federated.training.local import SiloTrainer
from eoforge.federated.training.specs import specs_of
from eoforge.methods.fl_rs.config import ALGORITHMS
from tests.federated.training.federations import (
    BatchNormNetwork,
    GaussianData,
    NetworkFederation,
    QuadraticFederation,
    three_silos,
)


def test_roles_of_tensors() -> None:
    roles = {name: spec.role for name, spec in specs_of(BatchNormNetwork()).items()}
    assert roles["first.weight"] == roles["head.bias"] == "weight"
    assert roles["norm.weight"] == roles["norm.bias"] == "norm"
    assert roles["norm.running_mean"] == roles["norm.running_var"] == "statistic"
    assert roles["norm.num_batches_tracked"] == "counter"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_counters_never_travel_and_statistics_are_averaged(name: str) -> None:
    federation = NetworkFederation(name)
    for silo in federation.silos:
        travels = {
            *federation.strategy.download(silo, federation.state.specs),
            *federation.strategy.upload(silo, federation.state.specs),
        }
        assert not any(n.endswith("num_batches_tracked") for n in travels)
    federation.round()
    assert federation.state.tensors["model/norm.num_batches_tracked"] == 0
    assert federation.state.tensors["model/norm.num_batches_tracked"].dtype == np.int64
    assert (
        np.abs(federation.state.tensors["model/norm.running_mean"]).max() > 0
    )  # a mean over silos, whoever's model it is


@pytest.mark.parametrize("name", ["scaffold", "feddc", "feddyn", "fednova"])
def test_statistics_take_the_plain_mean_whatever_acts_on_parameters(name: str) -> None:
    plain, other = NetworkFederation("fedavg", weighting="uniform"), NetworkFederation(name, weighting="uniform")
    plain.round()
    other.round()
    # In the first round every silo trains as under FedAvg, but for pulls towards w, so statistics are nearly equal.
    for tensor in ("model/norm.running_mean", "model/norm.running_var"):
        assert np.allclose(other.state.tensors[tensor], plain.state.tensors[tensor], atol=1e-4)
    state = other.state.specs
    assert not any("running" in n for n in state if not n.startswith("model/"))


FACTORS = {
    # multiples of the model: (down, up), parameters and statistics counted apart below
    **dict.fromkeys(("fedavg", "fedprox", "fednova", "moon", "feddyn", "pfedla"), (1, 1)),
    **dict.fromkeys(("scaffold", "feddc"), (2, 2)),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_declared_bytes_are_the_tensors_that_travel(name: str) -> None:
    federation = NetworkFederation(name)
    travelled: dict[str, list[int]] = {"down": [], "up": []}

    class Spy:
        def __init__(self, inner: SiloTrainer) -> None:
            self.inner = inner

        def train(self, task: Any, state: Any) -> Any:
            result = self.inner.train(task, state)
            travelled["down"].append(sum(t.nbytes for t in task.tensors.values()))
            travelled["up"].append(sum(t.nbytes for t in result.tensors.values()))
            return result

        def evaluate(self, task: Any, state: Any) -> Any:
            return self.inner.evaluate(task, state)

    federation.trainers = {i: Spy(t) for i, t in federation.trainers.items()}  # type: ignore[assignment]
    figures = federation.round()
    assert (figures.down, figures.up) == (sum(travelled["down"]), sum(travelled["up"]))
    parameters = sum(s.nbytes for s in federation.specs.values() if s.role in ("weight", "norm"))
    statistics = sum(s.nbytes for s in federation.specs.values() if s.role == "statistic")
    home = sum(s.nbytes for s in federation.specs.values() if s.role in ("norm", "statistic"))
    for silo in federation.silos:
        down, up = wire_bytes(federation.strategy, silo, federation.state.specs)
        if name == "fedbn":
            assert (down, up) == (parameters + statistics - home, parameters + statistics)
        else:
            expected = FACTORS[name]
            assert (down, up) == (expected[0] * parameters + statistics, expected[1] * parameters + statistics)
    assert tuple(map(len, (federation.strategy.down, federation.strategy.up))) == FACTORS.get(name, (1, 1))


def test_batch_norm_never_reaches_another_silo_under_fedbn() -> None:
    for unseen in ("average", "none"):
        federation = NetworkFederation("fedbn", unseen=unseen, weighting="uniform")
        federation.round()
        own = [federation.state.silos[s.id]["own/norm.weight"] for s in federation.silos]
        assert not np.allclose(own[0], own[1])
        first = federation.state.tensors["model/norm.weight"].copy()
        assert np.allclose(first, np.mean(own, axis=0) if unseen == "average" else 1.0)
        # What a silo goes on with is its own, not the average: poison the average and nothing changes at the silo.
        task = simulate.task_for(federation.strategy, federation.state, federation.silos[0], federation.silos)
        assert not any("norm" in n for n in task.tensors)
        before = federation.trainers["silo-0"].train(task, federation.state.silos["silo-0"])
        federation.state.tensors["model/norm.weight"] += 5
        task = simulate.task_for(federation.strategy, federation.state, federation.silos[0], federation.silos)
        again = federation.trainers["silo-0"].train(task, federation.state.silos["silo-0"])
        assert all(np.array_equal(again.tensors[n], t) for n, t in before.tensors.items())
    uploads = NetworkFederation("fedbn", unseen="none").strategy.upload(federation.silos[0], federation.state.specs)
    assert not any("norm" in n for n in uploads)


HOME = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")


def test_the_unseen_average_of_fedbn_follows_the_weighting() -> None:
    for weighting in ("uniform", "examples"):
        federation = NetworkFederation("fedbn", weighting=weighting)
        federation.round()
        sizes = [1.0 if weighting == "uniform" else float(s.examples) for s in federation.silos]
        for tensor in HOME:
            own = [federation.state.silos[s.id][f"own/{tensor}"] for s in federation.silos]
            expected = np.average(own, axis=0, weights=sizes)
            assert np.allclose(federation.state.tensors[f"model/{tensor}"], expected, rtol=1e-5), (weighting, tensor)


def test_running_statistics_stay_at_the_silo_under_fedbn() -> None:
    """Other silos' statistics, however wrong, change nothing of what a silo trains and evaluates."""
    federation = NetworkFederation("fedbn")
    federation.round()
    silo, trainer = federation.silos[0], federation.trainers["silo-0"]
    state = federation.state.silos["silo-0"]
    task = simulate.task_for(federation.strategy, federation.state, silo, federation.silos)
    before, figures = trainer.train(task, state), trainer.evaluate(task, state)
    for tensor in ("norm.running_mean", "norm.running_var"):
        others = [federation.state.silos[s.id][f"own/{tensor}"] for s in federation.silos[1:]]
        assert not any(np.allclose(state[f"own/{tensor}"], other, rtol=1e-3) for other in others)
        federation.state.tensors[f"model/{tensor}"] += 100
        assert f"delta/{tensor}" not in before.tensors
    task = simulate.task_for(federation.strategy, federation.state, silo, federation.silos)
    again = trainer.train(task, state)
    assert all(np.array_equal(again.tensors[n], t) for n, t in before.tensors.items())
    assert trainer.evaluate(task, state) == figures
    assert np.array_equal(again.state["own/norm.running_mean"], before.state["own/norm.running_mean"])


def test_fedbn_refuses_a_model_without_batch_norm() -> None:
    with pytest.raises(UsageError, match="choose another backbone"):
        QuadraticFederation(make_strategy("fedbn"), three_silos())


def test_silo_state_survives_a_restart_of_the_silo() -> None:
    for name in ("scaffold", "feddc", "feddyn", "moon", "fedbn"):
        whole, restarted = NetworkFederation(name), NetworkFederation(name)
        whole.round()
        restarted.round()
        kept = {i: {n: a.copy() for n, a in state.items()} for i, state in restarted.state.silos.items()}
        fresh = NetworkFederation(name)  # new trainers know nothing: all that silos remember is in these arrays
        fresh.state.tensors, fresh.state.round, fresh.state.silos = restarted.state.tensors, 1, kept
        whole.round()
        fresh.round()
        for tensor, values in whole.state.tensors.items():
            assert np.array_equal(fresh.state.tensors[tensor], values), (name, tensor)


def test_a_silo_that_sends_other_tensors_is_named() -> None:
    federation = NetworkFederation("fedavg")

    class Short:
        def __init__(self, inner: SiloTrainer) -> None:
            self.inner = inner

        def train(self, task: Any, state: Any) -> Any:
            result = self.inner.train(task, state)
            return type(result)({"delta/head.bias": result.tensors["delta/head.bias"]}, result.examples, result.steps)

    federation.trainers["silo-1"] = Short(federation.trainers["silo-1"])  # type: ignore[assignment]
    with pytest.raises(UsageError, match="silo silo-1 sent other tensors"):
        federation.round()


def test_local_state_starts_at_zero() -> None:
    local = Local(BatchNormNetwork(), {"w": torch.ones(3)}, {}, {}, GaussianData(0))
    assert torch.equal(local.remembered("control", "w"), torch.zeros(3))
