"""What a federated algorithm says to coordinator, silos and simulation.

A strategy is a description: which named tensors go down and up, and which linear combination of them the server writes
after a round. ``reduce.py`` alone computes it, chunk by chunk in float64 and in silo order, for the service and for the
simulation alike: so both give the same bits, and memory does not grow with the number of silos.

Tensor names are ``<group>/<tensor>``: ``model/head.weight``, ``delta/head.weight``, ``control/head.weight``. Server
tensors of the group ``model`` are the global model. This module needs NumPy only: a coordinator runs without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from eoforge.storage.tensorfile import Array, Specs, TensorSpec

MODEL, DELTA = "model", "delta"


def name_of(group: str, tensor: str) -> str:
    """``group/tensor``."""
    return f"{group}/{tensor}"


def split_name(name: str) -> tuple[str, str]:
    """``group/tensor`` to its two parts; the tensor's own name may hold further slashes."""
    group, _, tensor = name.partition("/")
    return group, tensor


@dataclass(frozen=True)
class SiloInfo:
    """A silo of the run, as it registered.

    Attributes:
        id: Unique; every order over silos is the order of ids.
        examples: Training patches it holds.
        modality: What it holds, ``s1`` or ``s2``; empty for both.
    """

    id: str
    examples: int
    modality: str = ""


@dataclass(frozen=True)
class UpdateInfo:
    """What the server knows of an accepted update without reading its tensors.

    Attributes:
        silo: Who sent it.
        examples: Patches it was trained on.
        steps: Optimiser steps it took.
        scalars: Further numbers of the strategy (FedNova's ``normaliser``).
        names: Tensors it holds.
    """

    silo: str
    examples: int
    steps: int
    names: frozenset[str]
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundInfo:
    """A sealed round: its number, all silos of the run, and the accepted updates; both ordered by silo id."""

    number: int
    silos: tuple[SiloInfo, ...]
    updates: tuple[UpdateInfo, ...]


@dataclass(frozen=True)
class Start:
    """A server tensor at the start of a run: ``values``, else a copy of server tensor ``copy_of``, else zeros."""

    spec: TensorSpec
    copy_of: str | None = None
    values: Array | None = None


@dataclass(frozen=True)
class Add:
    """``scale * sum over silos of shares[silo] * update[silo][name]``.

    For a strategy of sum type a silo's share is the same in every ``Add`` and depends on its own numbers alone, so a
    silo can multiply before it masks (secure aggregation); ``scale`` is the server's.
    """

    name: str
    scale: float
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Output:
    """One server tensor after the round: ``sum of coefficient * old[name] over keep`` plus the ``add`` terms.

    Computed in float64: first ``keep`` in its order, then each ``Add`` with silos in id order; rounded once to the
    dtype of the tensor. Old values are those before the round, whatever other outputs write.
    """

    name: str
    spec: TensorSpec
    keep: tuple[tuple[str, float], ...]
    add: tuple[Add, ...]


@dataclass(frozen=True)
class Reduction:
    """All that a round changes; server tensors that are named by neither keep their bytes.

    Attributes:
        outputs: Tensors computed from updates.
        values: Small tensors that the strategy computed itself (pFedLA's hypernetworks).
    """

    outputs: tuple[Output, ...]
    values: Mapping[str, Array] = field(default_factory=dict)


class Source(Protocol):
    """Reads flat elements ``[start, stop)`` of stored tensors in their own dtype; nothing else is held in memory."""

    def update(self, silo: str, name: str, start: int, stop: int) -> Array:
        """Of an accepted update of this round."""

    def state(self, name: str, start: int, stop: int) -> Array:
        """Of a server tensor as before the round."""


class Strategy(Protocol):
    """One federated algorithm, seen from the server; stateless: what it remembers are server tensors."""

    @property
    def name(self) -> str:
        """As in ``eoforge.federated.strategies.registry.STRATEGIES``."""

    @property
    def sum_type(self) -> bool:
        """Whether the server needs sums over silos only, so that secure aggregation is possible."""

    @property
    def closed(self) -> bool:
        """Whether the silos of the first round are all that ever take part: what the server keeps is sized by them."""

    @property
    def down(self) -> tuple[str, ...]:
        """Groups that go down to a silo, each about the size of the model."""

    @property
    def up(self) -> tuple[str, ...]:
        """Groups that come up."""

    def start(self, model: Specs, silos: Sequence[SiloInfo]) -> Mapping[str, Start]:
        """Server tensors beyond ``model/...`` at the start of a run (``model`` is keyed without its group)."""

    def download(self, silo: SiloInfo, state: Specs) -> Mapping[str, str]:
        """What ``silo`` receives: name for the silo -> name of the server tensor."""

    def upload(self, silo: SiloInfo, state: Specs) -> Specs:
        """What ``silo`` sends: exactly these names, shapes and dtypes."""

    def task_scalars(self, silo: SiloInfo, silos: Sequence[SiloInfo]) -> Mapping[str, float]:
        """Numbers that a silo needs for its objective (``relative_weight``)."""

    def reduction(self, info: RoundInfo, state: Specs, source: Source) -> Reduction:
        """What the server writes after ``info``.

        Args:
            info: The sealed round.
            state: All server tensors, by full name.
            source: For strategies that must look at elements before they know their weights (pFedLA).

        Raises:
            UsageError: The round has no update, or a silo's numbers are unusable.
        """


@dataclass(frozen=True)
class Task:
    """A silo's work for one round: tensors by the names of :meth:`Strategy.download`, and the strategy's numbers."""

    round: int
    silo: str
    tensors: Mapping[str, Array]
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalResult:
    """What a silo made of a task.

    Attributes:
        tensors: By the names of :meth:`Strategy.upload`.
        examples: Patches trained on.
        steps: Optimiser steps taken.
        scalars: For the server's reduction.
        metrics: For people; never part of the reduction.
        state: The silo's state after the round. It counts only once the server has acknowledged the update: a silo
            whose update was dropped goes on from the state before, or its corrections would not match the server's.
    """

    tensors: Mapping[str, Array]
    examples: int
    steps: int
    scalars: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    state: Mapping[str, Array] = field(default_factory=dict)


class LocalTrainer(Protocol):
    """What runs beside a silo's data."""

    def train(self, task: Task, state: Mapping[str, Array]) -> LocalResult:
        """Trains from ``task`` and the silo's ``state`` (empty before the first round).

        A function of its arguments and the silo's data: the same task gives the same result, so a silo that was
        killed may simply do its round again.
        """

    def evaluate(self, task: Task, state: Mapping[str, Array]) -> Mapping[str, float]:
        """Figures of the received model on the silo's validation data; ``examples`` is their number."""


def wire_bytes(strategy: Strategy, silo: SiloInfo, state: Specs) -> tuple[int, int]:
    """Tensor bytes of one round for one silo: (down, up). What a run is estimated with before it starts."""
    down = sum(state[server_name].nbytes for server_name in strategy.download(silo, state).values())
    return down, sum(spec.nbytes for spec in strategy.upload(silo, state).values())
