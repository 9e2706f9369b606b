"""What the strategies' server sides share: which tensors take part, and weights that sum to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from eoforge.errors import UsageError
from eoforge.federated.strategies.objective import Local, Objective
from eoforge.federated.strategy import (
    DELTA,
    MODEL,
    Add,
    Output,
    Reduction,
    RoundInfo,
    SiloInfo,
    Source,
    Start,
    UpdateInfo,
    name_of,
    split_name,
)
from eoforge.storage.tensorfile import Specs, TensorSpec

Weighting = Literal["uniform", "examples"]
TRAINED = ("weight", "norm")
"""Roles of parameters: what gradients change. Statistics are averaged, but no control variate acts on them."""


@dataclass(frozen=True)
class Averaging:
    """A strategy that averages what silos send; the others override what differs.

    Attributes:
        weighting: Silos count by their ``examples`` (the global loss is the mean over patches), or ``uniform``.
    """

    name: ClassVar[str] = "averaging"
    sum_type: ClassVar[bool] = True
    closed: ClassVar[bool] = False
    down: ClassVar[tuple[str, ...]] = (MODEL,)
    up: ClassVar[tuple[str, ...]] = (DELTA,)
    needs_sgd: ClassVar[bool] = False
    projection: ClassVar[int] = 0

    weighting: Weighting = "examples"

    def start(self, model: Specs, silos: Sequence[SiloInfo]) -> Mapping[str, Start]:
        """No server tensors beyond the model."""
        return {}

    def download(self, silo: SiloInfo, state: Specs) -> Mapping[str, str]:
        """Every floating-point tensor of the groups in ``down``."""
        return {n: n for group in self.down for n in floats(state, group)}

    def upload(self, silo: SiloInfo, state: Specs) -> Specs:
        """A delta per floating-point tensor of the model."""
        return {name_of(DELTA, tensor_of(n)): spec for n, spec in floats(state, MODEL).items()}

    def task_scalars(self, silo: SiloInfo, silos: Sequence[SiloInfo]) -> Mapping[str, float]:
        """Nothing."""
        return {}

    def reduction(self, info: RoundInfo, state: Specs, source: Source) -> Reduction:
        """``w += sum p_i d_i``, tensor by tensor, over the silos that sent the tensor."""
        require_updates(info)
        return Reduction(tuple(o for n, s in floats(state, MODEL).items() for o in self.averaged(n, s, info.updates)))

    def averaged(self, name: str, spec: TensorSpec, updates: Sequence[UpdateInfo], step: float = 1.0) -> list[Output]:
        """``model/k += step * mean of delta/k`` over those who sent it; nothing if no one did."""
        delta = name_of(DELTA, tensor_of(name))
        senders = [u for u in updates if delta in u.names]
        if not senders:
            return []
        return [Output(name, spec, ((name, 1.0),), (mean(delta, senders, self.weighting, step),))]

    def objective(self, local: Local) -> Objective:
        """What this strategy does at a silo."""
        return Objective(local)


def floats(state: Specs, group: str) -> dict[str, TensorSpec]:
    """Tensors of ``group`` by full name, without counters: an average of integers is none."""
    return {n: s for n, s in state.items() if split_name(n)[0] == group and s.role != "counter"}


def trained(state: Specs, group: str = MODEL) -> dict[str, TensorSpec]:
    """Those of :func:`floats` that gradients change."""
    return {n: s for n, s in floats(state, group).items() if s.role in TRAINED}


def tensor_of(name: str) -> str:
    """The name without its group."""
    return split_name(name)[1]


def share(update: UpdateInfo, weighting: Weighting) -> float:
    """What an update counts before normalisation."""
    return 1.0 if weighting == "uniform" else float(update.examples)


def mean(name: str, senders: Sequence[UpdateInfo], weighting: Weighting, step: float = 1.0) -> Add:
    """``step`` times the weighted mean of tensor ``name`` over ``senders``.

    Raises:
        UsageError: Together they have no examples.
    """
    shares = {u.silo: share(u, weighting) for u in senders}
    total = sum(shares.values())
    if not total > 0:
        raise UsageError(f"the silos that sent {name} report {total} examples together; expected more than 0")
    return Add(name, step / total, shares)


def require_updates(info: RoundInfo) -> None:
    """A round is reduced over at least one update.

    Raises:
        UsageError: There is none.
    """
    if not info.updates:
        raise UsageError(
            f"round {info.number} has no accepted update; expected at least one: set a quorum of 1 or more"
        )


def relative_weight(silo: SiloInfo, silos: Sequence[SiloInfo], weighting: Weighting) -> float:
    """``n_i``: the silo's share of all examples times the number of silos, so that the mean over silos is 1."""
    if weighting == "uniform":
        return 1.0
    return silo.examples * len(silos) / sum(s.examples for s in silos)


def like_model(model: Specs, group: str) -> dict[str, Start]:
    """Server tensors ``group/k`` of zeros, one per trained tensor of the model (keyed without group)."""
    return {
        name_of(group, n): Start(TensorSpec(s.shape, s.dtype, "state")) for n, s in model.items() if s.role in TRAINED
    }
