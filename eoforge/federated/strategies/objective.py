"""Client half of a strategy: extra loss terms, gradient corrections, what a silo sends and what it keeps.

This module and the strategies import torch only inside functions or for type checks: a coordinator, which needs the
server half alone, runs without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from eoforge.federated.strategy import name_of, split_name

if TYPE_CHECKING:
    from torch import Tensor

    from eoforge.nn.classifier import Network

Tensors = dict[str, "Tensor"]
LOCAL, UNSEEN = "own", "unseen"
"""Groups of :class:`LocalTensors`: kept by the silo, and sent for the global model alone."""


class SiloData(Protocol):
    """Labelled patches of one silo, their loss and their evaluation."""

    @property
    def examples(self) -> int:
        """Number of training patches."""

    @property
    def evaluates(self) -> bool:
        """Whether there are held-out patches."""

    def batches(self, round_number: int, epoch: int) -> Iterator[Any]:
        """Batches of one pass in shuffled order; a function of seed, silo, round and epoch."""

    def loss(self, network: Network, batch: Any) -> tuple[Tensor, Any, Any]:
        """Scalar loss, the network's input, and its representation (with gradient)."""

    def evaluate(self, network: Network) -> Mapping[str, float]:
        """Figures of ``network`` on held-out patches, with their number as ``examples``."""


@dataclass
class Local:
    """State of one silo in one round.

    Attributes:
        model: Network with the received tensors loaded.
        anchor: Float tensors of the received model by name (w in the formulas); constant during the round.
        received: Received tensors beyond the model, by full name, on the model's device.
        state: Tensors kept from the silo's last round, by full name, on the model's device; empty before its first one.
        data: Patches of the silo, for objectives that send something derived from them.
        scalars: Numbers from the server for this silo.
    """

    model: Network
    anchor: Tensors
    received: Tensors
    state: Tensors
    data: SiloData
    scalars: Mapping[str, float] = field(default_factory=dict)

    def parameters(self) -> Tensors:
        """Trained parameters of the model by name."""
        return dict(self.model.named_parameters())

    def remembered(self, group: str, name: str) -> Tensor:
        """State tensor ``group/name``; zeros in the shape of model tensor ``name`` before the silo's first round."""
        full = name_of(group, name)
        return self.state[full] if full in self.state else self.anchor[name] * 0


@dataclass(frozen=True)
class Effort:
    """Amount of training in one round.

    Attributes:
        steps: Number of optimiser steps, tau.
        learning_rate: Step size, eta.
        normaliser: ``norm1(a)``: how often, in total, the gradients of the round entered the model. tau for plain SGD;
            with momentum rho ``(tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho)`` (FedNova).
    """

    steps: int
    learning_rate: float
    normaliser: float


def normaliser(steps: int, momentum: float) -> float:
    """``norm1(a)`` of :class:`Effort`."""
    if momentum == 0:
        return float(steps)
    geometric = momentum * (1 - momentum**steps) / (1 - momentum)
    return (steps - geometric) / (1 - momentum)


@dataclass
class Sent:
    """Result of an objective: what a silo sends beyond the plain delta, and the state that it keeps.

    Attributes:
        tensors: By full name; a ``delta/...`` here replaces the plain one.
        scalars: Numbers for the server.
        state: Whole state of the silo after the round.
    """

    tensors: Tensors = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    state: Tensors = field(default_factory=dict)


class Objective:
    """Objective of FedAvg: the supervised loss alone. Strategies override what differs."""

    def __init__(self, local: Local) -> None:
        self.local = local

    def penalty(self, given: Any, representation: Any) -> Tensor | None:
        """Extra term of the loss of one batch, or None.

        Args:
            given: Input of the network as :meth:`SiloData.loss` returns it; for FL-RS the images ``[B, C, S, S]``.
            representation: Input of the last linear layer, with gradient; for FL-RS ``[B, D]``.
        """
        return None

    def correct(self) -> None:
        """Correction of the parameters' gradients: after the backward pass, before clipping and the step."""

    def finish(self, effort: Effort) -> Sent:
        """Result of the round, with the trained model in place; called once after the last step."""
        return Sent()


class LocalTensors(Objective):
    """Base of objectives that keep some tensors of the model at the silo (local batch statistics and the like).

    The tensors are loaded from the silo's last round at the start and kept under ``own/`` at the end.
    """

    def __init__(self, local: Local) -> None:
        super().__init__(local)
        own = {split_name(n)[1]: t for n, t in local.state.items() if split_name(n)[0] == LOCAL}
        local.model.load_state_dict(own, strict=False)

    def is_local(self, name: str, tensor: Tensor) -> bool:
        """Whether tensor ``name`` of the model stays at the silo."""
        raise NotImplementedError

    def keep(self, send: bool = True) -> Sent:
        """The local tensors as state; with ``send`` also as ``unseen/...`` for the server's average."""
        tensors = self.local.model.state_dict()
        local = {n: t.detach().clone() for n, t in tensors.items() if self.is_local(n, t)}
        sent = {name_of(UNSEEN, n): t for n, t in local.items()} if send else {}
        return Sent(sent, state={name_of(LOCAL, n): t for n, t in local.items()})
