"""Interface of an objective that learns from partly wrong labels, and the objectives without a generative branch.

Shape legend: B samples, D features, L outputs. An objective sees what a network made of the images (a
:class:`View`), the labels, and the number of each sample in the training split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eoforge.losses import robust
from eoforge.losses.robust import Target
from eoforge.methods.noise_robust.memory import SampleMemory


class View(NamedTuple):
    """One network's result for a batch: features ``[B, D]`` or ``[B, D, h, w]``, and the head that reads them."""

    features: Tensor
    classify: Callable[[Tensor], Tensor]

    @property
    def logits(self) -> Tensor:
        """Logits of the features, with gradients into head and backbone."""
        return self.classify(self.features)


class Objective(nn.Module, ABC):
    """Loss terms of a batch from the views of one or two networks.

    Attributes:
        networks: Number of networks that train together.
    """

    networks = 1

    @abstractmethod
    def forward(self, views: Sequence[View], labels: Tensor, rows_B: Tensor, epoch: int) -> dict[str, Tensor]:
        """``loss`` and further terms, all scalars.

        Args:
            views: One per network.
            labels: As the kind of target says.
            rows_B: int64, number of each sample in the training split.
            epoch: Number of the epoch, from 0.
        """


class Simple(Objective):
    """A loss per sample, averaged: plain, label smoothing, focal, GCE or SCE."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, views: Sequence[View], labels: Tensor, rows_B: Tensor, epoch: int) -> dict[str, Tensor]:
        return {"loss": self.loss(views[0].logits, labels).mean()}


class EarlyLearning(Objective):
    """ELR: ``CE + weight log(1 - <p, t>)``, t the moving average of the predictions (Liu et al., NeurIPS 2020).

    The term keeps predictions at what the network learned before it began to fit wrong labels. For ``multi`` every
    class is a binary problem (*ours*).
    """

    def __init__(self, target: Target, samples: int, outputs: int, weight: float = 3.0, momentum: float = 0.7) -> None:
        super().__init__()
        self.target, self.weight, self.momentum = target, weight, momentum
        self.memory = SampleMemory(samples, (outputs,))

    def forward(self, views: Sequence[View], labels: Tensor, rows_B: Tensor, epoch: int) -> dict[str, Tensor]:
        logits = views[0].logits
        p = robust.probabilities(self.target, logits)
        t = self.memory.average(rows_B, p, self.momentum)
        regulariser = (1 - robust.agreement(self.target, p, t)).clamp(min=1e-4).log().mean()
        task = robust.task_loss(self.target, logits, labels).mean()
        return {"loss": task + self.weight * regulariser, "task": task, "regulariser": regulariser}


class SelfAdaptive(Objective):
    """SAT: after a start, labels become a moving average of labels and predictions (Huang et al., NeurIPS 2020).

    Samples are weighted by the confidence of their moving labels.
    """

    def __init__(
        self, target: Target, samples: int, outputs: int, momentum: float = 0.9, start_epochs: int = 5
    ) -> None:
        super().__init__()
        self.target, self.momentum, self.start_epochs, self.outputs = target, momentum, start_epochs, outputs
        self.memory = SampleMemory(samples, (outputs,))

    def forward(self, views: Sequence[View], labels: Tensor, rows_B: Tensor, epoch: int) -> dict[str, Tensor]:
        logits = views[0].logits
        hard = labels.float() if self.target == "multi" else nn.functional.one_hot(labels, self.outputs).float()
        if epoch < self.start_epochs:
            self.memory.write(rows_B, hard)
            return {"loss": robust.task_loss(self.target, logits, labels).mean()}
        soft = self.memory.average(rows_B, robust.probabilities(self.target, logits), self.momentum)
        if self.target == "multi":
            losses = robust.task_loss("multi", logits, soft)
            confidence = torch.maximum(soft, 1 - soft).mean(dim=1)
        else:
            losses = -(soft * logits.float().log_softmax(dim=1)).sum(dim=1)
            confidence = soft.max(dim=1).values
        return {"loss": (confidence * losses).sum() / confidence.sum()}
