"""FedProx (Li et al. 2020): FedAvg with ``(mu / 2) norm2(w_i - w)`` in the silo's loss.

Client: gradient ``g_i + mu (w_i - w)``. Communication and aggregation as in FedAvg; no state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eoforge.federated.strategies.base import Averaging
from eoforge.federated.strategies.objective import Local, Objective


@dataclass(frozen=True)
class FedProx(Averaging):
    """FedAvg with a proximal term.

    Attributes:
        mu: Weight of the proximal term; 0.001 to 1.
    """

    name: ClassVar[str] = "fedprox"

    mu: float = 0.01

    def objective(self, local: Local) -> Objective:
        """Proximal gradient."""
        return _Proximal(local, self.mu)


class _Proximal(Objective):
    def __init__(self, local: Local, mu: float) -> None:
        super().__init__(local)
        self.mu = mu

    def correct(self) -> None:
        for name, parameter in self.local.parameters().items():
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - self.local.anchor[name], alpha=self.mu)
