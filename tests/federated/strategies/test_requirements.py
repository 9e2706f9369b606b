"""Requirements of the strategies on updates: an update that passes the checks never makes a reduction fail."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoforge.errors import DataRefused
from eoforge.federated.checks import check_numbers, check_tensors
from eoforge.federated.simulate import MemorySource, begin
from eoforge.federated.strategies.registry import STRATEGIES, make_strategy
from eoforge.federated.strategy import LocalResult, RoundInfo, SiloInfo, Task, UpdateInfo
from eoforge.storage.tensorfile import TensorSpec

MODEL = {
    "encoders.s1.weight": TensorSpec((4, 3)),
    "encoders.s2.weight": TensorSpec((4, 3)),
    "norm.weight": TensorSpec((4,), role="norm"),
    "norm.running_var": TensorSpec((4,), role="statistic"),
    "norm.count": TensorSpec((), "int64", "counter"),
}
SILOS = (SiloInfo("a", 10, "s1"), SiloInfo("b", 30, "s2"), SiloInfo("c", 5))
OPTIONS = {"mm_fl": {"slots": 5, "embedding": 2}}


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@given(
    senders=st.sets(st.sampled_from(SILOS), min_size=1),
    scalars=st.dictionaries(st.sampled_from(["normaliser", "other"]), st.floats()),
    dropped=st.sampled_from(["", "delta/", "control/", "gradient/", "unseen/"]),
    samples=st.integers(0, 40),
)
def test_an_accepted_update_never_fails_a_reduction(
    name: str, senders: set[SiloInfo], scalars: dict[str, float], dropped: str, samples: int
) -> None:
    strategy = make_strategy(name, OPTIONS.get(name))
    values = {tensor: np.ones(spec.shape, spec.dtype) for tensor, spec in MODEL.items()}
    federation = begin(strategy, MODEL, values, SILOS)
    updates = {}
    for silo in senders:
        expected = strategy.upload(silo, federation.specs)
        sent = {n: s for n, s in expected.items() if not dropped or not n.startswith(dropped)}
        try:
            check_tensors(sent, expected)
            check_numbers(samples, silo.examples, scalars, strategy.required_scalars)
        except DataRefused:
            continue
        updates[silo.id] = {n: np.ones(s.shape, s.dtype) for n, s in sent.items()}
    infos = tuple(UpdateInfo(s, samples, 1, frozenset(t), scalars) for s, t in sorted(updates.items()))
    if infos:
        source = MemorySource(federation.tensors, updates)
        reduction = strategy.reduction(RoundInfo(0, SILOS, infos), federation.specs, source)
        assert reduction.outputs or reduction.values


@pytest.mark.parametrize(
    ("scalars", "reason"),
    [
        ({}, "normaliser, 1 to 1e\\+09; none came"),
        ({"normaliser": 0.0}, "got 0"),
        ({"normaliser": -3.0}, "got -3"),
        ({"normaliser": 1e300}, "got 1e\\+300"),
    ],
)
def test_what_fednova_divides_by_is_checked_at_hand_in(scalars: dict[str, float], reason: str) -> None:
    with pytest.raises(DataRefused, match=reason):
        check_numbers(5, 10, scalars, make_strategy("fednova").required_scalars)
    check_numbers(5, 10, {"normaliser": 2.0}, make_strategy("fednova").required_scalars)


def test_a_simulation_checks_what_the_service_checks() -> None:
    from eoforge.federated.simulate import run_round

    strategy = make_strategy("fednova")
    model = {"w": TensorSpec((3,))}
    federation = begin(strategy, model, {"w": np.zeros(3, np.float32)}, SILOS[:1])

    class Without:
        def train(self, task: Task, state: object) -> LocalResult:
            return LocalResult({"delta/w": np.ones(3, np.float32)}, 10, 1)

        def evaluate(self, task: Task, state: object) -> dict[str, float]:
            return {}

    with pytest.raises(DataRefused, match="none came"):
        run_round(strategy, federation, SILOS[:1], {"a": Without()})
