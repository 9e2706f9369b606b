"""FedNova (Wang et al. 2020): normalised averaging, so that silos with more steps do not bias the global model.

Client: plain local training; sends ``d_i = (w_i - w) / norm1(a_i)`` and ``norm1(a_i)`` (see
:func:`~eoforge.federated.strategies.objective.normaliser`).
Server: ``tau_eff = sum p_i norm1(a_i)``, ``w += tau_eff sum p_i d_i``. Running statistics are averaged as in FedAvg.

With Adam a_i is not defined; the number of steps stands for it (*ours*).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from eoforge.federated.strategies.base import Averaging, floats, require_updates, share, tensor_of, trained
from eoforge.federated.strategies.objective import Effort, Local, Objective, Sent
from eoforge.federated.strategy import DELTA, MODEL, Range, Reduction, RoundInfo, Source, UpdateInfo, name_of
from eoforge.storage.tensorfile import Specs

NORMALISER = "normaliser"
MAX_NORMALISER = 1e9
"""A million steps with a momentum of 0.999; one step has 1, whatever the momentum."""


@dataclass(frozen=True)
class FedNova(Averaging):
    """Normalised averaging."""

    name: ClassVar[str] = "fednova"
    required_scalars: ClassVar[Mapping[str, Range]] = {NORMALISER: Range(1.0, MAX_NORMALISER)}

    def reduction(self, info: RoundInfo, state: Specs, source: Source) -> Reduction:
        """Reduction as in the head of this module."""
        require_updates(info)
        outputs = []
        for name, spec in floats(state, MODEL).items():
            senders = [u for u in info.updates if name_of(DELTA, tensor_of(name)) in u.names]
            step = self._effective_steps(senders) if senders and name in trained(state) else 1.0
            outputs += self.averaged(name, spec, senders, step)
        return Reduction(tuple(outputs))

    def _effective_steps(self, senders: list[UpdateInfo]) -> float:
        total = weighted = 0.0
        for update in senders:
            total += share(update, self.weighting)
            weighted += share(update, self.weighting) * update.scalars[NORMALISER]
        return weighted / total

    def objective(self, local: Local) -> Objective:
        """Delta divided by the normaliser."""
        return _Normalised(local)


class _Normalised(Objective):
    def finish(self, effort: Effort) -> Sent:
        anchor = self.local.anchor
        deltas = {
            name_of(DELTA, name): (parameter.detach() - anchor[name]) / effort.normaliser
            for name, parameter in self.local.parameters().items()
        }
        return Sent(deltas, {NORMALISER: effort.normaliser})
