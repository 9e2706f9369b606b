"""Known wrong copies of the algorithms, as regression tests: what they do is not what ours does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from eoforge.federated import simulate
from eoforge.federated.strategies.feddc import FedDC
from eoforge.federated.strategies.hypernet import HyperNet
from eoforge.federated.strategies.objective import Effort
from eoforge.federated.strategies.pfedla import PFedLA
from eoforge.federated.strategies.registry import make_strategy, strategy_type
from tests.federated.training.federations import (
    START,
    BatchNormNetwork,
    NetworkFederation,
    QuadraticData,
    QuadraticFederation,
    three_silos,
)


def test_feddc_with_the_wrong_sign_diverges_and_ours_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy in CV4RS adds (theta - w) / (tau eta) to g_i, and turns into NaN after a few rounds."""
    right = QuadraticFederation(FedDC("uniform", alpha=0.1), three_silos(steps=5))
    distance = np.abs(right.rounds(15) - START).max()
    assert distance < 10

    from eoforge.federated.strategies import feddc

    finish = feddc._Decoupled.finish

    def wrong(self: Any, effort: Effort) -> Any:
        sent = finish(self, effort)
        moved = self.local.parameters()["w"].detach() - self.local.anchor["w"]
        change = 2 * moved / (effort.normaliser * effort.learning_rate)
        sent.tensors["gradient/w"] += self.weight * change
        sent.state["gradient/w"] += change
        return sent

    monkeypatch.setattr(feddc._Decoupled, "finish", wrong)
    copied = QuadraticFederation(FedDC("uniform", alpha=0.1), three_silos(steps=5))
    assert np.abs(copied.rounds(25) - START).max() > 1e3


def test_feddc_sends_its_drifts_mean_with_the_model() -> None:
    """The other half of that copy leaves the mean of h_i out of the new model."""
    federation = QuadraticFederation(FedDC("uniform", alpha=0.1), three_silos())
    before = federation.w.copy()
    moved = [federation.trainers[s.id] for s in federation.silos]
    ends = [
        before
        + t.train(simulate.task_for(federation.strategy, federation.state, s, federation.silos), {}).tensors["delta/w"]
        for t, s in zip(moved, federation.silos, strict=True)
    ]
    after = federation.round()
    drift = federation.state.tensors["drift/w"]
    assert np.allclose(after, np.mean(ends, axis=0) + drift)
    assert np.abs(drift).max() > 0.01


def test_scaffold_divides_by_steps_not_by_epochs() -> None:
    """The copy in FL-bench counts epochs: with 6 steps in 2 epochs its control would be three times the gradient."""
    flat = QuadraticData([1e-9] * 3, START - 1e9 * np.array([1.0, -2.0, 3.0]), steps=3)
    federation = QuadraticFederation(make_strategy("scaffold"), [flat], epochs=2)
    federation.round()
    assert np.allclose(federation.remembered(0, "control"), [1.0, -2.0, 3.0], atol=1e-5)


def test_moon_has_a_projection_head_and_contrasts_its_output() -> None:
    assert strategy_type("moon").projection == 256
    federation = NetworkFederation("moon", mu=5.0)
    seen = []
    original = BatchNormNetwork.classify

    def spy(self: BatchNormNetwork, representation: Tensor) -> Tensor:
        seen.append(representation.shape[1])
        return original(self, representation)

    BatchNormNetwork.classify = spy  # type: ignore[method-assign]
    try:
        federation.round()
    finally:
        BatchNormNetwork.classify = original  # type: ignore[method-assign]
    assert set(seen) == {256}  # the classifier stands on the projection, as in the authors' network


def test_pfedla_moves_the_start_towards_the_end_of_training() -> None:
    """FL-bench's copy has the other sign: its next start would be further from where training went."""
    strategy = PFedLA("uniform", rate=0.5)
    federation = QuadraticFederation(strategy, three_silos())
    federation.round()  # now the silos' last models differ, so mixing matters
    state = federation.state
    names = ["silo-0", "silo-1", "silo-2"]
    last = {i: state.tensors[f"last/{i}/w"].copy() for i in names}
    nets = {i: _net(state.tensors, i) for i in names}
    starts = {i: state.tensors[f"personal/{i}/w"].copy() for i in names}
    federation.round()
    for i in names:
        mixed = {"before": nets[i].mixing(), "after": _net(state.tensors, i).mixing()}
        end = state.tensors[f"last/{i}/w"]
        away = {
            k: np.linalg.norm(sum(a * last[j] for a, j in zip(m[0], names, strict=True)) - end)
            for k, m in mixed.items()
        }
        assert np.allclose(sum(a * last[j] for a, j in zip(mixed["before"][0], names, strict=True)), starts[i])
        assert away["after"] < away["before"]


def _net(tensors: Mapping[str, np.ndarray], silo: str) -> HyperNet:
    prefix = f"hyper/{silo}/"
    return HyperNet({n.removeprefix(prefix): t.copy() for n, t in tensors.items() if n.startswith(prefix)})
