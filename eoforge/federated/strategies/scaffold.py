"""SCAFFOLD (Karimireddy et al. 2020), option II: control variates that remove the silos' drift from their gradients.

Client: steps with ``g_i - c_i + c``; afterwards ``c_i+ = c_i - c + (w - w_i) / (tau eta)``. Sends ``w_i - w`` and
``c_i+ - c_i``: twice the size of the model in both directions. Keeps c_i.
Server: ``w += eta_g sum p_i d_i`` over the round's silos S; ``c += sum over S of q_i (c_i+ - c_i)`` with q_i = 1 / N
over **all** N silos (uniform), or n_i over all examples: then c stays the weighted mean of all c_i. Keeps w and c.

tau is the number of optimiser steps, not of epochs (a known wrong copy takes the epochs). With momentum the model moved
by ``eta norm1(a)`` mean gradients, so that replaces ``tau eta`` (*ours*; equal for plain SGD). Running statistics have
no gradient and are averaged as in FedAvg.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from eoforge.federated.strategies.base import Averaging, floats, like_model, require_updates, share, tensor_of, trained
from eoforge.federated.strategies.objective import Effort, Local, Objective, Sent
from eoforge.federated.strategy import DELTA, MODEL, Add, Output, Reduction, RoundInfo, SiloInfo, Source, Start, name_of
from eoforge.storage.tensorfile import Specs

CONTROL = "control"


@dataclass(frozen=True)
class Scaffold(Averaging):
    """Control variates.

    Attributes:
        server_step: Step size eta_g of the server.
    """

    name: ClassVar[str] = "scaffold"
    down: ClassVar[tuple[str, ...]] = (MODEL, CONTROL)
    up: ClassVar[tuple[str, ...]] = (DELTA, CONTROL)
    needs_sgd: ClassVar[bool] = True

    server_step: float = 1.0

    def start(self, model: Specs, silos: Sequence[SiloInfo]) -> Mapping[str, Start]:
        """Control variate c = 0."""
        return like_model(model, CONTROL)

    def upload(self, silo: SiloInfo, state: Specs) -> Specs:
        """Deltas of the model and of the control variate."""
        return {**super().upload(silo, state), **floats(state, CONTROL)}

    def reduction(self, info: RoundInfo, state: Specs, source: Source) -> Reduction:
        """Reduction as in the head of this module."""
        require_updates(info)
        parameters = trained(state)
        everyone = len(info.silos) if self.weighting == "uniform" else sum(s.examples for s in info.silos)
        shares = {u.silo: share(u, self.weighting) for u in info.updates}
        outputs = []
        for name, spec in floats(state, MODEL).items():
            step = self.server_step if name in parameters else 1.0
            outputs += self.averaged(name, spec, info.updates, step)
        for name in parameters:
            control = name_of(CONTROL, tensor_of(name))
            add = Add(control, 1.0 / everyone, shares)
            outputs.append(Output(control, state[control], ((control, 1.0),), (add,)))
        return Reduction(tuple(outputs))

    def objective(self, local: Local) -> Objective:
        """Corrected gradient."""
        return _Controlled(local)


class _Controlled(Objective):
    def __init__(self, local: Local) -> None:
        super().__init__(local)
        names = local.parameters()
        self.own = {name: local.remembered(CONTROL, name) for name in names}
        self.all = {name: local.received[name_of(CONTROL, name)] for name in names}

    def correct(self) -> None:
        for name, parameter in self.local.parameters().items():
            if parameter.grad is not None:
                parameter.grad.add_(self.all[name] - self.own[name])

    def finish(self, effort: Effort) -> Sent:
        sent = Sent()
        for name, parameter in self.local.parameters().items():
            moved = self.local.anchor[name] - parameter.detach()
            change = moved / (effort.normaliser * effort.learning_rate) - self.all[name]
            sent.tensors[name_of(CONTROL, name)] = change
            sent.state[name_of(CONTROL, name)] = self.own[name] + change
        return sent
