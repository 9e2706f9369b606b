"""Local training of one round, for every strategy: load the received tensors, train, collect what is sent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from eoforge.errors import EoforgeError, UsageError
from eoforge.federated.silo.cancellation import raise_if_cancelled
from eoforge.federated.strategies.base import Averaging
from eoforge.federated.strategies.objective import Effort, Local, Objective, SiloData, Tensors, normaliser
from eoforge.federated.strategy import DELTA, MODEL, LocalResult, Task, name_of, split_name
from eoforge.nn.classifier import Network
from eoforge.nn.seeds import derive_seed
from eoforge.storage.tensorfile import Array


@dataclass(frozen=True)
class LocalSettings:
    """Settings of a silo's training.

    Attributes:
        epochs: Passes over its patches per round.
        optimizer: New in every round; control variates need ``sgd``.
        learning_rate: Learning rate eta of the first round.
        decay: The learning rate of round t is ``learning_rate * decay ** t``.
        momentum: Momentum of SGD.
        weight_decay: L2 penalty of the optimiser.
        clip: Largest gradient norm, corrections included; None leaves gradients as they are.
        seed: Seed of everything random.
    """

    epochs: int = 1
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    decay: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float | None = None
    seed: int = 0


class SiloTrainer:
    """Trainer of one silo; see :class:`eoforge.federated.strategy.LocalTrainer`.

    Args:
        strategy: Strategy of the run, with the silo's objective.
        network: Builder of a network with initial weights, the same at every silo.
        data: Patches of the silo.
        settings: Settings of the training.
        device: Device to train on.

    Raises:
        UsageError: The strategy needs SGD and ``settings`` name another optimiser.
    """

    def __init__(
        self,
        strategy: Averaging,
        network: Callable[[], Network],
        data: SiloData,
        settings: LocalSettings,
        device: torch.device | str = "cpu",
    ) -> None:
        if strategy.needs_sgd and settings.optimizer != "sgd":
            raise UsageError(
                f"{strategy.name} reads gradients off the distance that SGD went; with {settings.optimizer} that "
                "identity does not hold. Choose optimizer=sgd"
            )
        self.strategy, self.network, self.data, self.settings = strategy, network, data, settings
        self.device = torch.device(device)

    @property
    def evaluates(self) -> bool:
        """Whether the silo has patches to evaluate on."""
        return self.data.evaluates

    def train(self, task: Task, state: Mapping[str, Array]) -> LocalResult:
        """Training of one round.

        Raises:
            EoforgeError: The loss became NaN or infinite.
            TaskCancelled: The coordinator cancelled the task.
        """
        started = time.perf_counter()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derive_seed("local", self.settings.seed, task.round, task.silo))
            local, objective = self._begin(task, state)
            steps, loss = self._epochs(task.round, local, objective)
        momentum = self.settings.momentum if self.settings.optimizer == "sgd" else 0.0
        effort = Effort(steps, self._rate(task.round), normaliser(steps, momentum))
        sent = objective.finish(effort)
        trained = local.model.state_dict()
        deltas = {name_of(DELTA, n): trained[n] - before for n, before in local.anchor.items()}
        return LocalResult(
            tensors=_arrays({**deltas, **sent.tensors}),
            examples=self.data.examples,
            steps=steps,
            scalars=sent.scalars,
            metrics={"loss": loss, "seconds": time.perf_counter() - started},
            state=_arrays(sent.state),
        )

    def evaluate(self, task: Task, state: Mapping[str, Array]) -> Mapping[str, float]:
        """Figures of the received model with the silo's local tensors."""
        return self.data.evaluate(self.personal(task, state))

    def personal(self, task: Task, state: Mapping[str, Array]) -> Network:
        """Received model with the silo's local tensors, in evaluation mode."""
        return self._begin(task, state)[0].model.eval()

    def _begin(self, task: Task, state: Mapping[str, Array]) -> tuple[Local, Objective]:
        model = self.network().to(self.device)
        received = _tensors(task.tensors, self.device)
        anchor = {split_name(n)[1]: t for n, t in received.items() if split_name(n)[0] == MODEL}
        unknown = set(anchor) - set(model.state_dict())
        if unknown:
            raise UsageError(f"the received model holds {sorted(unknown)[:3]}, which this silo's network does not have")
        model.load_state_dict(anchor, strict=False)
        beyond = {n: t for n, t in received.items() if split_name(n)[0] != MODEL}
        local = Local(model, anchor, beyond, _tensors(state, self.device), self.data, task.scalars)
        return local, self.strategy.objective(local)

    def _rate(self, round_number: int) -> float:
        return self.settings.learning_rate * self.settings.decay**round_number

    def _optimizer(self, model: Network, rate: float) -> torch.optim.Optimizer:
        decay = self.settings.weight_decay
        if self.settings.optimizer == "adam":
            return torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay)
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=self.settings.momentum, weight_decay=decay)

    def _epochs(self, round_number: int, local: Local, objective: Objective) -> tuple[int, float]:
        """Number of steps and mean loss."""
        model = local.model.train()
        optimizer = self._optimizer(model, self._rate(round_number))
        losses: list[Tensor] = []
        for epoch in range(self.settings.epochs):
            for batch in self.data.batches(round_number, epoch):
                raise_if_cancelled()
                loss, given, representation = self.data.loss(model, batch)
                penalty = objective.penalty(given, representation)
                optimizer.zero_grad()
                torch.autograd.backward(loss if penalty is None else loss + penalty)
                objective.correct()
                if self.settings.clip is not None:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), self.settings.clip)
                optimizer.step()
                losses.append(loss.detach())
        if not losses:
            raise UsageError("this silo has no batch to train on; its patches must fill at least one")
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise EoforgeError(f"local training diverged in round {round_number}: loss {mean}. Lower learning_rate")
        return len(losses), mean


def _tensors(arrays: Mapping[str, Array], device: torch.device) -> Tensors:
    # A copy: arrays may be read-only maps of a file, and training must not write into what was received.
    return {n: torch.from_numpy(np.array(a)).to(device) for n, a in arrays.items()}


def _arrays(tensors: Tensors) -> dict[str, Array]:
    return {n: t.detach().cpu().numpy() for n, t in tensors.items()}
