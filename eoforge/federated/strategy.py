"""Interface between a federated strategy and coordinator, silos and simulation.

A strategy is a description: which named tensors are downloaded and uploaded, and which linear combination of them the
server writes after a round. ``reduce.py`` alone computes it, chunk by chunk in float64 and in silo order, for service
and simulation: so both give the same bits, and memory does not grow with the number of silos.

Tensor names are ``<group>/<tensor>``: ``model/head.weight``, ``delta/head.weight``, ``control/head.weight``. Server
tensors of the group ``model`` are the global model. This module needs NumPy only: a coordinator runs without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from eoforge.storage.tensorfile import Array, Specs, TensorSpec

MODEL, DELTA = "model", "delta"


def name_of(group: str, tensor: str) -> str:
    """Full name ``group/tensor``."""
    return f"{group}/{tensor}"


def split_name(name: str) -> tuple[str, str]:
    """Group and tensor of a full name; the tensor's own name may hold further slashes."""
    group, _, tensor = name.partition("/")
    return group, tensor


class Range(NamedTuple):
    """Closed range of a number."""

    least: float
    most: float


@dataclass(frozen=True)
class SiloInfo:
    """A silo of the run, as it registered.

    Attributes:
        id: Unique id; every order over silos is the order of ids.
        examples: Number of training patches.
        modality: Modality of its patches, ``s1`` or ``s2``; empty for both.
    """

    id: str
    examples: int
    modality: str = ""


@dataclass(frozen=True)
class UpdateInfo:
    """Facts of an accepted update that are known without reading its tensors.

    Attributes:
        silo: Id of the sender.
        examples: Number of patches trained on.
        steps: Number of optimiser steps.
        scalars: Further numbers of the strategy (FedNova's ``normaliser``).
        names: Names of its tensors.
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
    """Changes of a round; server tensors in neither attribute keep their bytes.

    Attributes:
        outputs: Tensors computed from updates.
        values: Small tensors that the strategy itself computed (pFedLA's hypernetworks).
    """

    outputs: tuple[Output, ...]
    values: Mapping[str, Array] = field(default_factory=dict)


class Source(Protocol):
    """Reader of flat elements ``[start, stop)`` of stored tensors in their own dtype, without holding the rest."""

    def update(self, silo: str, name: str, start: int, stop: int) -> Array:
        """Elements of an accepted update of this round."""

    def state(self, name: str, start: int, stop: int) -> Array:
        """Elements of a server tensor before the round."""


class Strategy(Protocol):
    """Server half of a federated algorithm; stateless: all state is in server tensors."""

    @property
    def name(self) -> str:
        """Name in ``eoforge.federated.strategies.registry.STRATEGIES``."""

    @property
    def sum_type(self) -> bool:
        """Whether the server needs sums over silos only, so that secure aggregation is possible."""

    @property
    def closed(self) -> bool:
        """Whether no silo may join after the first round, because the size of server tensors depends on the silos."""

    @property
    def down(self) -> tuple[str, ...]:
        """Groups of tensors that a silo downloads, each about the size of the model."""

    @property
    def up(self) -> tuple[str, ...]:
        """Groups of tensors that a silo uploads."""

    @property
    def required_scalars(self) -> Mapping[str, Range]:
        """Numbers that every update must carry, by name, with their ranges; an update without them is refused."""

    def start(self, model: Specs, silos: Sequence[SiloInfo]) -> Mapping[str, Start]:
        """Server tensors beyond ``model/...`` at the start of a run (``model`` is keyed without its group)."""

    def download(self, silo: SiloInfo, state: Specs) -> Mapping[str, str]:
        """Tensors that ``silo`` downloads: name at the silo -> name of the server tensor."""

    def upload(self, silo: SiloInfo, state: Specs) -> Specs:
        """Tensors that ``silo`` uploads: exactly these names, shapes and dtypes; other updates are refused."""

    def task_scalars(self, silo: SiloInfo, silos: Sequence[SiloInfo]) -> Mapping[str, float]:
        """Numbers for the silo's objective (``relative_weight``)."""

    def reduction(self, info: RoundInfo, state: Specs, source: Source) -> Reduction:
        """Changes of server tensors after a round.

        An update that fulfils :meth:`upload` and ``required_scalars`` must not make it fail.

        Args:
            info: The sealed round.
            state: All server tensors, by full name.
            source: Elements, for strategies whose weights depend on them (pFedLA).

        Raises:
            UsageError: The round has no update.
        """


@dataclass(frozen=True)
class Task:
    """Input of a silo's round: tensors by the names of :meth:`Strategy.download`, and the strategy's numbers."""

    round: int
    silo: str
    tensors: Mapping[str, Array]
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalResult:
    """Result of a silo's training in one round.

    Attributes:
        tensors: By the names of :meth:`Strategy.upload`.
        examples: Number of patches trained on.
        steps: Number of optimiser steps.
        scalars: Numbers for the server's reduction.
        metrics: Figures for operators; never part of the reduction.
        state: State of the silo after the round. It replaces the old state only after the server has acknowledged the
            update: corrections of a silo whose update was dropped would else not match the server's.
    """

    tensors: Mapping[str, Array]
    examples: int
    steps: int
    scalars: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    state: Mapping[str, Array] = field(default_factory=dict)


class LocalTrainer(Protocol):
    """Training and evaluation on one silo's data."""

    @property
    def evaluates(self) -> bool:
        """Whether the silo has patches to evaluate on."""

    def train(self, task: Task, state: Mapping[str, Array]) -> LocalResult:
        """Result of training from ``task`` and the silo's ``state`` (empty before the first round).

        The result is a function of the arguments and the silo's data alone, so a silo that was killed may repeat the
        round.
        """

    def evaluate(self, task: Task, state: Mapping[str, Array]) -> Mapping[str, float]:
        """Figures of the received model on the silo's validation patches; ``examples`` is the number of patches."""


def wire_bytes(strategy: Strategy, silo: SiloInfo, state: Specs) -> tuple[int, int]:
    """Tensor bytes of one round for one silo, (down, up): the basis of a run's estimate before it starts."""
    down = sum(state[server_name].nbytes for server_name in strategy.download(silo, state).values())
    return down, sum(spec.nbytes for spec in strategy.upload(silo, state).values())
