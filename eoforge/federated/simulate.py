"""Simulation of federated rounds in one process, bit for bit equal to the service.

Silos train one after the other; their updates are reduced by the same :func:`~eoforge.federated.reduce.combine`. A
:class:`Federation` is arrays by name, so a run can be stored after any round and resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from eoforge.errors import UsageError
from eoforge.federated.checks import check_scalars
from eoforge.federated.reduce import Part, combine, require_finite
from eoforge.federated.strategy import (
    MODEL,
    LocalResult,
    LocalTrainer,
    RoundInfo,
    SiloInfo,
    Strategy,
    Task,
    UpdateInfo,
    name_of,
    split_name,
    wire_bytes,
)
from eoforge.nn.seeds import derive_seed
from eoforge.storage.tensorfile import Array, Specs, TensorSpec

_CHUNK = 1 << 20


@dataclass
class Federation:
    """State of a run after some round.

    Attributes:
        specs: Specs of all server tensors, by full name.
        tensors: Values of the same tensors.
        silos: Silo id -> its state.
        round: Number of finished rounds.
    """

    specs: dict[str, TensorSpec]
    tensors: dict[str, Array]
    silos: dict[str, dict[str, Array]] = field(default_factory=dict)
    round: int = 0

    def model(self) -> dict[str, Array]:
        """The global model, by names without group."""
        return {split_name(n)[1]: t for n, t in self.tensors.items() if split_name(n)[0] == MODEL}


@dataclass(frozen=True)
class RoundFigures:
    """Cost of one round.

    Attributes:
        round: Number of the round, from 0.
        silos: Ids of the participating silos.
        down: Bytes of tensors sent to all of them together.
        up: Bytes received from them.
        local_seconds: Training time by silo.
        aggregation_seconds: Time of the reduction.
        loss: Mean training loss over silos, by examples.
    """

    round: int
    silos: tuple[str, ...]
    down: int
    up: int
    local_seconds: Mapping[str, float]
    aggregation_seconds: float
    loss: float


class MemorySource:
    """Updates and server tensors as arrays; see :class:`eoforge.federated.strategy.Source`.

    Args:
        state: Server tensors by full name.
        updates: Tensors of each silo's update by full name.
    """

    def __init__(self, state: Mapping[str, Array], updates: Mapping[str, Mapping[str, Array]]) -> None:
        self._state, self._updates = state, updates

    def update(self, silo: str, name: str, start: int, stop: int) -> Array:
        """See :class:`eoforge.federated.strategy.Source`."""
        return self._updates[silo][name].reshape(-1)[start:stop]

    def state(self, name: str, start: int, stop: int) -> Array:
        """See :class:`eoforge.federated.strategy.Source`."""
        return self._state[name].reshape(-1)[start:stop]


def begin(strategy: Strategy, specs: Specs, model: Mapping[str, Array], silos: Sequence[SiloInfo]) -> Federation:
    """State before the first round.

    Args:
        strategy: Strategy of the run.
        specs: Specs of the model's tensors, by names without group.
        model: Values of the same tensors.
        silos: All silos of the run, in id order.

    Raises:
        UsageError: Silos are not in id order or have equal ids, or the strategy cannot work with this model.
    """
    ids = [s.id for s in silos]
    if ids != sorted(set(ids)):
        raise UsageError(f"silos must have distinct ids in ascending order; got {', '.join(ids)}")
    full = {name_of(MODEL, n): s for n, s in specs.items()}
    tensors = {name_of(MODEL, n): np.array(model[n]) for n in specs}
    for name, start in strategy.start(specs, silos).items():
        full[name] = start.spec
        if start.values is not None:
            tensors[name] = np.array(start.values, dtype=start.spec.dtype)
        elif start.copy_of is not None:
            tensors[name] = tensors[start.copy_of].copy()
        else:
            tensors[name] = np.zeros(start.spec.shape, start.spec.dtype)
    return Federation(full, tensors)


def run_round(
    strategy: Strategy,
    federation: Federation,
    silos: Sequence[SiloInfo],
    trainers: Mapping[str, LocalTrainer],
    selected: Sequence[str] | None = None,
) -> RoundFigures:
    """Cost of one round, whose result is in ``federation`` afterwards.

    Args:
        strategy: Strategy of the run.
        federation: State from :func:`begin` or an earlier round.
        silos: All silos of the run, in id order.
        trainers: Trainer of each silo.
        selected: Ids of the participating silos; all if None.

    Raises:
        UsageError: A silo sent other tensors than the strategy announced.
        DataRefused: A silo did not send a number that the strategy needs, or the new model is not finite.
    """
    chosen = [s for s in silos if selected is None or s.id in selected]
    results: dict[str, LocalResult] = {}
    seconds: dict[str, float] = {}
    down = up = 0
    for silo in chosen:
        task = task_for(strategy, federation, silo, silos)
        begun = time.perf_counter()
        result = trainers[silo.id].train(task, federation.silos.get(silo.id, {}))
        seconds[silo.id] = time.perf_counter() - begun
        _check(silo, result, strategy.upload(silo, federation.specs))
        check_scalars(result.scalars, strategy.required_scalars)
        results[silo.id] = result
        sent = wire_bytes(strategy, silo, federation.specs)
        down, up = down + sent[0], up + sent[1]
    updates = tuple(
        UpdateInfo(i, r.examples, r.steps, frozenset(r.tensors), dict(r.scalars)) for i, r in sorted(results.items())
    )
    begun = time.perf_counter()
    source = MemorySource(federation.tensors, {i: r.tensors for i, r in results.items()})
    reduction = strategy.reduction(RoundInfo(federation.round, tuple(silos), updates), federation.specs, source)
    new: dict[str, Array] = {}
    for output in reduction.outputs:
        values = np.empty(output.spec.size, output.spec.dtype)
        for start in range(0, output.spec.size, _CHUNK):
            stop = min(start + _CHUNK, output.spec.size)
            values[start:stop] = combine([Part(output, start, stop)], source)[0]
        new[output.name] = values.reshape(output.spec.shape)
    for name, value in reduction.values.items():
        new[name] = np.asarray(value, dtype=federation.specs[name].dtype)
        require_finite(name, new[name])
    aggregated = time.perf_counter() - begun
    federation.tensors.update(new)
    # A silo keeps its new state only if its update was accepted; in a simulation every update is.
    federation.silos.update({i: dict(r.state) for i, r in results.items()})
    figures = RoundFigures(
        federation.round,
        tuple(results),
        down,
        up,
        seconds,
        aggregated,
        loss=_mean({i: (r.metrics.get("loss", 0.0), r.examples) for i, r in results.items()}),
    )
    federation.round += 1
    return figures


def task_for(strategy: Strategy, federation: Federation, silo: SiloInfo, silos: Sequence[SiloInfo]) -> Task:
    """Task of ``silo`` in the next round, for training or for evaluation."""
    names = strategy.download(silo, federation.specs)
    tensors = {target: federation.tensors[name] for target, name in names.items()}
    return Task(federation.round, silo.id, tensors, strategy.task_scalars(silo, silos))


def select(silos: Sequence[SiloInfo], fraction: float, seed: int, round_number: int) -> list[str]:
    """Ids of a random ``fraction`` of the silos, at least one; a function of seed and round."""
    count = max(1, round(fraction * len(silos)))
    if count == len(silos):
        return [s.id for s in silos]
    return sorted(sorted((s.id for s in silos), key=lambda i: derive_seed("select", seed, round_number, i))[:count])


def run(
    strategy: Strategy,
    federation: Federation,
    silos: Sequence[SiloInfo],
    trainers: Mapping[str, LocalTrainer],
    rounds: int,
    *,
    fraction: float = 1.0,
    seed: int = 0,
    after: Callable[[Federation, RoundFigures], None] = lambda federation, figures: None,
) -> Federation:
    """State after ``rounds`` rounds, counting those that ``federation`` has behind it.

    Args:
        strategy: Strategy of the run.
        federation: State to continue from.
        silos: All silos of the run, in id order.
        trainers: Trainer of each silo.
        rounds: Total number of rounds.
        fraction: Share of silos per round.
        seed: Seed of the selection.
        after: Callback after every round, to evaluate, store or report.
    """
    while federation.round < rounds:
        selected = select(silos, fraction, seed, federation.round)
        after(federation, run_round(strategy, federation, silos, trainers, selected))
    return federation


def _check(silo: SiloInfo, result: LocalResult, expected: Specs) -> None:
    got = {n: (tuple(t.shape), str(t.dtype)) for n, t in result.tensors.items()}
    wanted = {n: (s.shape, s.dtype) for n, s in expected.items()}
    if got != wanted:
        wrong = sorted(n for n in got.keys() | wanted.keys() if got.get(n) != wanted.get(n))
        raise UsageError(
            f"silo {silo.id} sent other tensors than the strategy announced, for example {wrong[0]}: "
            f"expected {wanted.get(wrong[0])}, got {got.get(wrong[0])}"
        )


def _mean(parts: Mapping[str, tuple[float, int]]) -> float:
    total = sum(weight for _, weight in parts.values())
    return sum(value * weight for value, weight in parts.values()) / total if total else 0.0
