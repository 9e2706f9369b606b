"""The silo's side of a strategy: what it adds to the loss, does to gradients, sends and remembers.

Nothing here imports torch: tensors bring their own arithmetic, and a coordinator reads strategies without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from eoforge.federated.training.local import SiloData
    from eoforge.nn.classifier import Network

Tensors = dict[str, "Tensor"]


@dataclass
class Local:
    """One silo in one round.

    Attributes:
        model: The network, with what was received loaded into it.
        anchor: Float tensors of the received model by name, w in the formulas; constant during the round.
        received: Tensors beyond the model by full name, on the model's device.
        state: What the silo remembers, by full name, on the model's device; empty before its first round.
        data: The silo's patches, for objectives that send something derived from them.
        scalars: The server's numbers for this silo.
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
        """State tensor ``group/name``; zeros like the model's tensor before the first round."""
        full = f"{group}/{name}"
        return self.state[full] if full in self.state else self.anchor[name] * 0


@dataclass(frozen=True)
class Effort:
    """How much a silo trained.

    Attributes:
        steps: Optimiser steps tau.
        learning_rate: Step size eta.
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
    """What a silo sends beyond the plain delta, and what it remembers.

    Attributes:
        tensors: By full name; a ``delta/...`` here replaces the plain one.
        scalars: For the server.
        state: The silo's whole state after the round.
    """

    tensors: Tensors = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    state: Tensors = field(default_factory=dict)


class Objective:
    """FedAvg's: the supervised loss alone. Strategies override what differs."""

    def __init__(self, local: Local) -> None:
        self.local = local

    def penalty(self, given: Any, representation: Any) -> Tensor | None:
        """A further summand of the loss of this batch, or None.

        Args:
            given: What :meth:`SiloData.loss` says the network was given: images, for FL-RS.
            representation: What its last linear layer was given, with gradient: ``[B, D]``, for FL-RS.
        """
        return None

    def correct(self) -> None:
        """Changes the parameters' gradients after the backward pass, before clipping and the step."""

    def finish(self, effort: Effort) -> Sent:
        """Called once after the last step, with the trained model in place."""
        return Sent()
