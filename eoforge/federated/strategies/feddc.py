"""FedDC (Gao et al. 2022): silos estimate their drift h_i, and the server corrects the model by the mean drift.

Client: ``L_sup + (alpha_i / 2) norm2(theta - (w - h_i)) + <theta, g - g_i>``; afterwards ``h_i += theta_i - w`` and
``g_i+ = g_i - g - (theta_i - w) / (tau eta)``. alpha_i = alpha / n_i and g is divided by n_i, the silo's relative
weight (mean 1). Sends ``theta_i - w`` and ``n_i (g_i+ - g_i)``; keeps h_i and g_i.
Server: ``w <- mean over S of theta_i + mean over all of h_i``; ``g += (1 / N) sum n_i (g_i+ - g_i)``.

The mean of all h_i grows by ``(1 / N) sum over S of (theta_i - w)``, so the server keeps it as ``drift`` and no h_i
ever travels (*ours*; the same numbers as the authors' code, which holds all h_i in one process). A known wrong copy
adds ``(theta_i - w) / (tau eta)`` where it is to be subtracted, and leaves the mean of h_i out: it diverges.
Means over silos are uniform as in the authors' code; sizes act through n_i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

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

DRIFT, GRADIENT = "drift", "gradient"


@dataclass(frozen=True)
class FedDC(Averaging):
    """Drift decoupling and correction.

    Attributes:
        alpha: Weight of the pull towards ``w - h_i``: 0.01 (CIFAR) to 0.1 (MNIST).
    """

    name: ClassVar[str] = "feddc"
    down: ClassVar[tuple[str, ...]] = (MODEL, GRADIENT)
    up: ClassVar[tuple[str, ...]] = (DELTA, GRADIENT)
    needs_sgd: ClassVar[bool] = True

    alpha: float = 0.01

    def start(self, model: Specs, silos: Sequence[SiloInfo]) -> Mapping[str, Start]:
        """Drift and gradient estimate, both 0."""
        return {**like_model(model, GRADIENT), **like_model(model, DRIFT)}

    def upload(self, silo: SiloInfo, state: Specs) -> Specs:
        """Deltas of the model and of the gradient estimate."""
        return {**super().upload(silo, state), **floats(state, GRADIENT)}

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
            tensor = tensor_of(name)
            delta, drift, gradient = (name_of(g, tensor) for g in (DELTA, DRIFT, GRADIENT))
            if name not in parameters:
                outputs.append(Output(name, spec, ((name, 1.0),), (mean(delta, info.updates, "uniform"),)))
                continue
            # w + mean(d) + (drift + sum(d) / N), the drift being the one after this round
            step = Add(delta, 1.0 / len(info.updates) + everyone, ones)
            outputs.append(Output(name, spec, ((name, 1.0), (drift, 1.0)), (step,)))
            outputs.append(Output(drift, state[drift], ((drift, 1.0),), (Add(delta, everyone, ones),)))
            outputs.append(Output(gradient, state[gradient], ((gradient, 1.0),), (Add(gradient, everyone, ones),)))
        return Reduction(tuple(outputs))

    def objective(self, local: Local) -> Objective:
        """Gradients of the penalty and of the linear term."""
        return _Decoupled(local, self.alpha)


class _Decoupled(Objective):
    def __init__(self, local: Local, alpha: float) -> None:
        super().__init__(local)
        self.weight = local.scalars[RELATIVE_WEIGHT]
        self.alpha = alpha / self.weight
        names = local.parameters()
        self.drift = {n: local.remembered(DRIFT, n) for n in names}
        self.own = {n: local.remembered(GRADIENT, n) for n in names}
        self.all = {n: local.received[name_of(GRADIENT, n)] / self.weight for n in names}

    def correct(self) -> None:
        for name, parameter in self.local.parameters().items():
            if parameter.grad is not None:
                pull = parameter.detach() - self.local.anchor[name] + self.drift[name]
                parameter.grad.add_(pull, alpha=self.alpha).add_(self.all[name] - self.own[name])

    def finish(self, effort: Effort) -> Sent:
        sent = Sent()
        for name, parameter in self.local.parameters().items():
            moved = parameter.detach() - self.local.anchor[name]
            change = -self.all[name] - moved / (effort.normaliser * effort.learning_rate)
            sent.tensors[name_of(GRADIENT, name)] = self.weight * change
            sent.state[name_of(GRADIENT, name)] = self.own[name] + change
            sent.state[name_of(DRIFT, name)] = self.drift[name] + moved
        return sent
