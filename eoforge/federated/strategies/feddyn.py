"""FedDyn (Acar et al. 2021): a dynamic regulariser that aligns the silos' optima with the global one.

Client: ``L_sup - <grad_i, theta> + (alpha_i / 2) norm2(theta - w)``, then ``grad_i -= alpha_i (theta_i - w)``, alpha_i
= alpha divided by the silo's relative weight. Sends ``theta_i - w``; keeps grad_i.
Server: ``h -= alpha (1 / N) sum over S of (theta_i - w)``; ``w <- mean over S of theta_i - h / alpha``. Keeps w and h.
Means over silos are uniform; running statistics are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from eoforge.errors import UsageError
from eoforge.federated.strategies.base import (
    RELATIVE_WEIGHT,
    Averaging,
    floats,
    like_model,
    mean,
    relative_weight,
    require_updates,
    tensor_of,
    trained,
)
from eoforge.federated.strategies.objective import Effort, Local, Objective, Sent
from eoforge.federated.strategy import DELTA, MODEL, Add, Output, Reduction, RoundInfo, SiloInfo, Source, Start, name_of
from eoforge.storage.tensorfile import Specs

HISTORY = "history"


@dataclass(frozen=True)
class FedDyn(Averaging):
    """Dynamic regularisation.

    Attributes:
        alpha: Weight of the regulariser, 0.01 to 0.1.
    """

    name: ClassVar[str] = "feddyn"

    alpha: float = 0.01

    def __post_init__(self) -> None:
        """Range check.

        Raises:
            UsageError: alpha, by which the server divides, is not positive.
        """
        if not self.alpha > 0:
            raise UsageError(f"FedDyn's alpha must be greater than 0; got {self.alpha}. FedAvg is the limit at 0")

    def start(self, model: Specs, silos: Sequence[SiloInfo]) -> Mapping[str, Start]:
        """History h = 0."""
        return like_model(model, HISTORY)

    def task_scalars(self, silo: SiloInfo, silos: Sequence[SiloInfo]) -> Mapping[str, float]:
        """Relative weight n_i."""
        return {RELATIVE_WEIGHT: relative_weight(silo, silos, self.weighting)}

    def reduction(self, info: RoundInfo, state: Specs, source: Source) -> Reduction:
        """Reduction as in the head of this module."""
        require_updates(info)
        parameters = trained(state)
        everyone = 1.0 / len(info.silos)
        ones = {u.silo: 1.0 for u in info.updates}
        outputs = []
        for name, spec in floats(state, MODEL).items():
            delta, history = name_of(DELTA, tensor_of(name)), name_of(HISTORY, tensor_of(name))
            if name not in parameters:
                outputs.append(Output(name, spec, ((name, 1.0),), (mean(delta, info.updates, "uniform"),)))
                continue
            # w + mean(d) - h_new / alpha with h_new = h - alpha sum(d) / N
            step = Add(delta, 1.0 / len(info.updates) + everyone, ones)
            outputs.append(Output(name, spec, ((name, 1.0), (history, -1.0 / self.alpha)), (step,)))
            decay = Add(delta, -self.alpha * everyone, ones)
            outputs.append(Output(history, state[history], ((history, 1.0),), (decay,)))
        return Reduction(tuple(outputs))

    def objective(self, local: Local) -> Objective:
        """Gradients of the linear term and of the penalty."""
        return _Dynamic(local, self.alpha)


class _Dynamic(Objective):
    def __init__(self, local: Local, alpha: float) -> None:
        super().__init__(local)
        self.alpha = alpha / local.scalars[RELATIVE_WEIGHT]
        self.own = {n: local.remembered(HISTORY, n) for n in local.parameters()}

    def correct(self) -> None:
        for name, parameter in self.local.parameters().items():
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - self.local.anchor[name], alpha=self.alpha)
                parameter.grad.sub_(self.own[name])

    def finish(self, effort: Effort) -> Sent:
        sent = Sent()
        for name, parameter in self.local.parameters().items():
            moved = parameter.detach() - self.local.anchor[name]
            sent.state[name_of(HISTORY, name)] = self.own[name] - self.alpha * moved
        return sent
