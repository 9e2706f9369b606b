"""Server half that strategies share: selection of tensors by role, and weighted means over silos."""

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
    Range,
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
"""Roles of tensors that gradients change. Statistics are averaged too, but no control variate acts on them."""
RELATIVE_WEIGHT = "relative_weight"
"""Task scalar with the value of :func:`relative_weight`."""


@dataclass(frozen=True)
class Averaging:
    """Weighted average of the silos' models; strategies override what differs.

    Attributes:
        sum_type: See :attr:`eoforge.federated.strategy.Strategy.sum_type`.
        closed: See :attr:`eoforge.federated.strategy.Strategy.closed`.
        down: Groups of tensors from server to silo.
        up: Groups of tensors from silo to server.
        required_scalars: See :attr:`eoforge.federated.strategy.Strategy.required_scalars`.
        personal: Whether each silo uses a model of its own, to be evaluated apart from the global one.
        needs_sgd: Whether the client half is defined for plain SGD only.
        projection: Width of the projection head that the client half needs; 0 for none.
        weighting: Weight of a silo: its ``examples`` (the global loss is then the mean over patches), or ``uniform``.
    """

    name: ClassVar[str] = "averaging"
    sum_type: ClassVar[bool] = True
    closed: ClassVar[bool] = False
    down: ClassVar[tuple[str, ...]] = (MODEL,)
    up: ClassVar[tuple[str, ...]] = (DELTA,)
    required_scalars: ClassVar[Mapping[str, Range]] = {}
    personal: ClassVar[bool] = False
    needs_sgd: ClassVar[bool] = False
    projection: ClassVar[int] = 0

    weighting: Weighting = "examples"

    def start(self, model: Specs, silos: Sequence[SiloInfo]) -> Mapping[str, Start]:
        """No server tensors beyond those of the model."""
        return {}

    def download(self, silo: SiloInfo, state: Specs) -> Mapping[str, str]:
        """Every floating-point tensor of the groups in ``down``."""
        return {n: n for group in self.down for n in floats(state, group)}

    def upload(self, silo: SiloInfo, state: Specs) -> Specs:
        """A delta per floating-point tensor of the model."""
        return {name_of(DELTA, tensor_of(n)): spec for n, spec in floats(state, MODEL).items()}

    def task_scalars(self, silo: SiloInfo, silos: Sequence[SiloInfo]) -> Mapping[str, float]:
        """No scalars."""
        return {}

    def reduction(self, info: RoundInfo, state: Specs, source: Source) -> Reduction:
        """``w += sum p_i d_i``, tensor by tensor, over the silos that sent the tensor."""
        require_updates(info)
        return Reduction(tuple(o for n, s in floats(state, MODEL).items() for o in self.averaged(n, s, info.updates)))

    def averaged(self, name: str, spec: TensorSpec, updates: Sequence[UpdateInfo], step: float = 1.0) -> list[Output]:
        """``model/k += step * mean of delta/k`` over the silos that sent it; no output if none did."""
        delta = name_of(DELTA, tensor_of(name))
        senders = [u for u in updates if delta in u.names]
        if not senders:
            return []
        return [Output(name, spec, ((name, 1.0),), (mean(delta, senders, self.weighting, step),))]

    def objective(self, local: Local) -> Objective:
        """Client half of this strategy for one silo and round."""
        return Objective(local)


def floats(state: Specs, group: str) -> dict[str, TensorSpec]:
    """Tensors of ``group`` by full name, without integer counters, which cannot be averaged."""
    return {n: s for n, s in state.items() if split_name(n)[0] == group and s.role != "counter"}


def trained(state: Specs, group: str = MODEL) -> dict[str, TensorSpec]:
    """Parameters among :func:`floats`: tensors that gradients change."""
    return {n: s for n, s in floats(state, group).items() if s.role in TRAINED}


def tensor_of(name: str) -> str:
    """Name of a tensor without its group."""
    return split_name(name)[1]


def share(update: UpdateInfo, weighting: Weighting) -> float:
    """Weight of an update before normalisation."""
    return 1.0 if weighting == "uniform" else float(update.examples)


def mean(name: str, senders: Sequence[UpdateInfo], weighting: Weighting, step: float = 1.0) -> Add:
    """``step`` times the weighted mean of tensor ``name`` over ``senders``.

    Raises:
        UsageError: The senders have no examples.
    """
    shares = {u.silo: share(u, weighting) for u in senders}
    total = sum(shares.values())
    if not total > 0:
        raise UsageError(f"the silos that sent {name} report {total} examples together; expected more than 0")
    return Add(name, step / total, shares)


def require_updates(info: RoundInfo) -> None:
    """Check that a round has an update to reduce.

    Raises:
        UsageError: The round has none.
    """
    if not info.updates:
        raise UsageError(
            f"round {info.number} has no accepted update; expected at least one: set a quorum of 1 or more"
        )


def relative_weight(silo: SiloInfo, silos: Sequence[SiloInfo], weighting: Weighting) -> float:
    """Relative weight ``n_i``: a silo's share of all examples times the number of silos; its mean over silos is 1."""
    if weighting == "uniform":
        return 1.0
    return silo.examples * len(silos) / sum(s.examples for s in silos)


def like_model(model: Specs, group: str) -> dict[str, Start]:
    """Server tensors ``group/k`` of zeros, one per parameter of the model (``model`` is keyed without group)."""
    return {
        name_of(group, n): Start(TensorSpec(s.shape, s.dtype, "state")) for n, s in model.items() if s.role in TRAINED
    }
