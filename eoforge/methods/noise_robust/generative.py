"""GRID and RS-IRL-SVAE: a generative branch on the features finds wrong labels while the task is learned.

Shape legend: B samples, D features. theta is the backbone, gamma the task head, beta the generative branch; l_d and l_g
are the losses of the two heads. What learns from what:

=========  ===================================================  ===================================================
parameter  GRID (*confirmed*)                                   RS-IRL-SVAE (*reconstructed*)
=========  ===================================================  ===================================================
gamma      ``mean l_d``, all labels                             ``sum w l_d / sum w``
beta       ``mean (l_g + REC + KL)``, all labels                the same
theta      ``mean of l_g in W and l_d in C``                    ``sum w l_d / sum w``
=========  ===================================================  ===================================================

W are the labels that look wrong, C the others. A label is that of a sample (*confirmed*), or one class of a scene or
one pixel of a map (``unit="label"``, *ours*). GRID routes gradients by the logits of the two heads: those of the
features where they may reach the backbone, and those of a constant copy elsewhere, with equal values. REC and KL see
the copy alone. So one backward pass and one optimiser do what the released code does with three.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eoforge.losses.robust import Target, label_losses, task_loss
from eoforge.methods.noise_robust.memory import SampleMemory
from eoforge.methods.noise_robust.objective import Objective, View
from eoforge.methods.noise_robust.selection import (
    Importance,
    Unit,
    comparable,
    estimated_rate,
    floor_share,
    importance,
    largest,
    loss_gap,
    loss_sum,
)
from eoforge.nn.distributed import gather_rows
from eoforge.nn.generative import GenerativeBranch


class _Constant(NamedTuple):
    """What both heads say to a constant copy of the features, whose gradients reach heads and branch alone."""

    task: Tensor
    generative: Tensor
    reconstruction: Tensor
    divergence: Tensor


class _WithBranch(Objective):
    """The part that both methods share: the branch, the suspicion against all labels, and the first epochs.

    Args:
        branch: beta.
        target: Kind of the labels.
        samples: Size of the training split.
        start_epochs: Epochs in which every label counts as right; the branch learns from the first step.
        unit: Whether samples look wrong as a whole, or each label of a scene (each pixel of a map) by itself.
        divergence_weight: Weight of KL in the evidence lower bound.
        joint: Whether the sum of both losses makes a label suspicious, or their gap.
    """

    def __init__(
        self,
        branch: GenerativeBranch,
        target: Target,
        samples: int,
        start_epochs: int,
        unit: Unit,
        divergence_weight: float,
        *,
        joint: bool,
    ) -> None:
        super().__init__()
        self.branch, self.target, self.start_epochs = branch, target, start_epochs
        self.unit, self.divergence_weight, self.joint = unit, divergence_weight, joint
        self.suspicion = SampleMemory(samples, (branch.outputs,) if self.by_class else ())

    @property
    def by_class(self) -> bool:
        """Whether the unit is a class of a scene."""
        return self.unit == "label" and self.target == "multi"

    def forward(self, views: Sequence[View], labels: Tensor, rows_B: Tensor, epoch: int) -> dict[str, Tensor]:
        view = views[0]
        eps = gather_rows(self.branch.noise(view.features))
        # Labels and rows are those of the whole batch already; features carry gradients and are gathered here.
        view = view._replace(features=gather_rows(view.features))
        copy = view.features.detach()
        latent = self.branch.encode(copy)
        z = latent.sample(eps)
        seen = _Constant(
            view.classify(copy),
            self.branch.classify(z),
            self.branch.reconstruction(copy, z),
            self.branch.divergence(latent),
        )
        losses = self._unit_losses(seen.task, labels), self._evidence(seen, labels)
        suspicion = torch.zeros_like(losses[0])
        for part in comparable(self.unit, self.target, labels):
            suspicion[part] = self._suspicion(losses[0][part], losses[1][part])
        # Of a map only the mean is kept: a value per pixel of an archive would not fit into memory.
        self.suspicion.write(rows_B, suspicion.flatten(1).mean(dim=1) if suspicion.dim() > 2 else suspicion)
        return self._terms(view, eps, labels, seen, suspicion, epoch)

    def _unit_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses of samples or of labels, without gradient."""
        return (task_loss if self.unit == "sample" else label_losses)(self.target, logits.detach(), labels)

    def _evidence(self, seen: _Constant, labels: Tensor) -> Tensor:
        """The losses that are compared with those of the task head."""
        return self._unit_losses(seen.generative, labels)

    def _suspicion(self, discriminative_M: Tensor, generative_M: Tensor) -> Tensor:
        """How suspicious comparable labels are ``[M]``, by both heads' losses."""
        return (loss_sum if self.joint else loss_gap)(discriminative_M, generative_M)

    def _bound(self, generative: Tensor, seen: _Constant) -> Tensor:
        """Negative evidence lower bound per sample ``[B]``."""
        return generative + seen.reconstruction + self.divergence_weight * seen.divergence

    @abstractmethod
    def _terms(
        self, view: View, eps: Tensor, labels: Tensor, seen: _Constant, suspicion: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        """Loss terms."""


class Grid(_WithBranch):
    """Update rule of GRID.

    Args:
        branch: beta.
        target: Kind of the labels.
        samples: Size of the training split.
        rate: lambda: the share of a batch, or of its given labels, that W holds, and with it as many of the labels that
            are not given; None estimates it after each epoch from the gaps of all samples, or of each class (*ours*).
        start_epochs: Epochs with an empty W; the released code has none.
        unit: See the base class.
        divergence_weight: Weight of KL; 1 in the released code.
        joint: Whether W holds the labels of the largest sum of both losses (*ours*) instead of the largest gap.
    """

    def __init__(
        self,
        branch: GenerativeBranch,
        target: Target,
        samples: int,
        rate: float | None,
        start_epochs: int = 0,
        *,
        unit: Unit = "sample",
        divergence_weight: float = 1.0,
        joint: bool = False,
    ) -> None:
        super().__init__(branch, target, samples, start_epochs, unit, divergence_weight, joint=joint)
        self.fixed_rate = rate
        # The state of the estimate is part of the checkpoint: its epoch, then a rate for all or for each class.
        self.estimate: Tensor
        start = torch.zeros(1 + (branch.outputs if self.by_class else 1), dtype=torch.float64)
        start[0] = -1
        self.register_buffer("estimate", start)
        self.given: Tensor | None
        self.register_buffer("given", torch.zeros(samples, branch.outputs, dtype=torch.bool) if self.by_class else None)

    def rates(self, epoch: int) -> Tensor:
        """lambda in ``epoch``: ``[1]``, or ``[L]`` where it is estimated for each class."""
        if epoch < self.start_epochs:
            return torch.zeros(1)
        if self.fixed_rate is not None:
            return torch.tensor([self.fixed_rate])
        if int(self.estimate[0]) != epoch:
            values = [float(epoch), *map(estimated_rate, self._known_gaps())]
            self.estimate = torch.tensor(values, dtype=torch.float64, device=self.estimate.device)
        return self.estimate[1:]

    def _known_gaps(self) -> list[npt.NDArray[np.floating]]:
        """Gaps of the last epoch, of all samples or of the given labels of each class."""
        values = self.suspicion.values.cpu().numpy()
        if self.given is None:
            return [values]
        given = self.given.cpu().numpy()
        return [values[given[:, i], i] for i in range(values.shape[1])]

    def forward(self, views: Sequence[View], labels: Tensor, rows_B: Tensor, epoch: int) -> dict[str, Tensor]:
        if self.given is not None:
            self.given[rows_B] = labels > 0.5
        return super().forward(views, labels, rows_B, epoch)

    def _wrong(self, suspicion: Tensor, labels: Tensor, epoch: int) -> Tensor:
        """Mask of W, of the shape of ``suspicion``."""
        rates = self.rates(epoch).tolist()
        wrong = torch.zeros_like(suspicion, dtype=torch.bool)
        first, *others = comparable(self.unit, self.target, labels)
        if len(rates) == 1:
            wrong[first] = largest(suspicion[first], floor_share(rates[0], int(first.sum())))
        else:
            for i, rate in enumerate(rates):
                part = first[:, i]
                wrong[part, i] = largest(suspicion[part, i], floor_share(rate, int(part.sum())))
        for part in others:
            wrong[part] = largest(suspicion[part], int(wrong[first].sum()))
        return wrong

    def _terms(
        self, view: View, eps: Tensor, labels: Tensor, seen: _Constant, suspicion: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        wrong = self._wrong(suspicion, labels, epoch)
        mask = _over(wrong, seen.task, self.by_class)
        live = self.branch.classify(self.branch.encode(view.features).sample(eps))
        task = task_loss(self.target, torch.where(mask, seen.task, view.classify(view.features)), labels).mean()
        generative = task_loss(self.target, torch.where(mask, live, seen.generative), labels)
        return {
            "loss": task + self._bound(generative, seen).mean(),
            "task": task,
            "generative": generative.mean(),
            "reconstruction": seen.reconstruction.mean(),
            "divergence": seen.divergence.mean(),
            "noisy_share": wrong.float().mean(),
        }


class RsIrlSvae(_WithBranch):
    """Update rule of RS-IRL-SVAE: samples, or labels, weighted by their importance.

    Args:
        branch: beta.
        target: Kind of the labels.
        samples: Size of the training split.
        kind: How two losses become a weight.
        kappa: Exponent of ``power`` and ``joint_power``.
        divergence_weight: Weight of KL in the evidence lower bound.
        whole_bound: Whether the whole bound of a sample is compared, or the generative head's loss alone.
        start_epochs: Epochs with equal weights.
        unit: See the base class.
    """

    def __init__(
        self,
        branch: GenerativeBranch,
        target: Target,
        samples: int,
        kind: Importance = "gap",
        kappa: float = 2.0,
        divergence_weight: float = 1.0,
        *,
        whole_bound: bool = False,
        start_epochs: int = 0,
        unit: Unit = "sample",
    ) -> None:
        joint = kind.startswith("joint")
        super().__init__(branch, target, samples, start_epochs, unit, divergence_weight, joint=joint)
        self.kind, self.kappa, self.whole_bound = kind, kappa, whole_bound

    def _evidence(self, seen: _Constant, labels: Tensor) -> Tensor:
        generative = super()._evidence(seen, labels)
        return self._bound(generative, seen).detach() if self.whole_bound else generative

    def _terms(
        self, view: View, eps: Tensor, labels: Tensor, seen: _Constant, suspicion: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        logits = view.classify(view.features)
        discriminative = self._unit_losses(logits, labels)
        weights = torch.zeros_like(discriminative)
        for part in comparable(self.unit, self.target, labels):
            if epoch < self.start_epochs:
                weights[part] = 1.0
            elif bool(part.any()):
                evidence = self._evidence(seen, labels)
                weights[part] = importance(self.kind, discriminative[part], evidence[part], self.kappa)
        losses = (task_loss if self.unit == "sample" else label_losses)(self.target, logits, labels)
        task = (weights * losses).sum() / weights.sum().clamp(min=1)
        bound = self._bound(task_loss(self.target, seen.generative, labels), seen).mean()
        return {"loss": task + bound, "task": task, "bound": bound, "smallest_weight": weights.min()}


def _over(wrong: Tensor, logits: Tensor, by_class: bool) -> Tensor:
    """The mask of W, to be broadcast over logits ``[B, L, ...]``."""
    if by_class:
        return wrong
    return wrong.view(-1, *[1] * (logits.dim() - 1)) if wrong.dim() == 1 else wrong[:, None]
