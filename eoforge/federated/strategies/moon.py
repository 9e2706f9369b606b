"""MOON (Li et al. 2021): model-contrastive learning between the global model and the silo's previous one.

Client: ``L_sup + mu l_con``, ``l_con = -log( e^(s(z, z_glob) / T) / (e^(s(z, z_glob) / T) + e^(s(z, z_prev) / T)) )``,
s the cosine, z the output of a **projection head** (which a known wrong copy lacks), z_glob of the received model,
z_prev of the silo's model at the end of its own last round. Keeps that model. Before a silo's first round z_prev would
be z_glob: the term is then log 2 with no gradient, and is left out. Both other models run in evaluation mode (as in the
authors' code).
Server: FedAvg.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from eoforge.federated.strategies.base import Averaging
from eoforge.federated.strategies.objective import Effort, Local, Objective, Sent
from eoforge.federated.strategy import name_of

if TYPE_CHECKING:
    from torch import Tensor

    from eoforge.nn.classifier import Network

PREVIOUS = "previous"


@dataclass(frozen=True)
class Moon(Averaging):
    """Model-contrastive learning.

    Attributes:
        mu: Weight of the contrastive term.
        temperature: Temperature T of the contrastive term.
    """

    name: ClassVar[str] = "moon"
    projection: ClassVar[int] = 256

    mu: float = 1.0
    temperature: float = 0.5

    def objective(self, local: Local) -> Objective:
        """Contrastive term."""
        return _Contrast(local, self)


class _Contrast(Objective):
    def __init__(self, local: Local, strategy: Moon) -> None:
        super().__init__(local)
        self.strategy = strategy
        previous = {n: local.state[name_of(PREVIOUS, n)] for n in local.anchor if name_of(PREVIOUS, n) in local.state}
        self.others = [_frozen(local.model, tensors) for tensors in (local.anchor, previous)] if previous else []

    def penalty(self, given: Any, representation: Any) -> Tensor | None:
        if not self.others:
            return None
        import torch

        with torch.no_grad():
            towards, away = (other.represent(given) for other in self.others)
        return self.strategy.mu * contrast(representation, towards, away, self.strategy.temperature)

    def finish(self, effort: Effort) -> Sent:
        tensors = self.local.model.state_dict()
        return Sent(state={name_of(PREVIOUS, n): tensors[n].detach().clone() for n in self.local.anchor})


def _frozen(model: Network, tensors: dict[str, Tensor]) -> Network:
    other = copy.deepcopy(model)
    other.load_state_dict(tensors, strict=False)
    return other.eval().requires_grad_(False)


def contrast(z_BD: Tensor, towards_BD: Tensor, away_BD: Tensor, temperature: float) -> Tensor:
    """``l_con``, mean over the batch: the cross entropy of picking ``towards`` out of the two."""
    from torch.nn import functional

    near_B = functional.cosine_similarity(z_BD.float(), towards_BD.float(), dim=1)
    far_B = functional.cosine_similarity(z_BD.float(), away_BD.float(), dim=1)
    # -log(e^a / (e^a + e^b)) = log(1 + e^(b - a))
    return functional.softplus((far_B - near_B) / temperature).mean()
