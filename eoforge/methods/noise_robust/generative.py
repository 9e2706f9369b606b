"""GRID and RS-IRL-SVAE: a generative branch on the features finds wrong labels while the task is learned.

Shape legend: B samples, D features. theta is the backbone, gamma the task head, beta the generative branch; l_d and l_g
are the losses per sample of the two heads. What learns from what:

=========  ===================================================  ===================================================
parameter  GRID (*confirmed*)                                   RS-IRL-SVAE (*reconstructed*)
=========  ===================================================  ===================================================
gamma      ``mean l_d``, all samples                            ``sum w l_d / sum w``
beta       ``mean (l_g + REC + KL)``, all samples               the same
theta      ``(sum over W of l_g + sum over C of l_d) / B``      ``sum w l_d / sum w``
=========  ===================================================  ===================================================

W are the samples whose labels look wrong, C the others. GRID routes gradients by the input of the two heads: the
features for the samples that may reach the backbone, and a constant copy for the others. REC and KL see the copy alone.
So one backward pass and one optimiser do what the released code does with three.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eoforge.losses.robust import Target, task_loss
from eoforge.methods.noise_robust.memory import SampleMemory
from eoforge.methods.noise_robust.objective import Objective, View
from eoforge.methods.noise_robust.selection import Importance, estimated_rate, importance, loss_gap, noisy_set
from eoforge.nn.distributed import gather_rows
from eoforge.nn.generative import GenerativeBranch


class _Losses(NamedTuple):
    """Per sample ``[B]``: both heads' losses, reconstruction error and divergence."""

    discriminative: Tensor
    generative: Tensor
    reconstruction: Tensor
    divergence: Tensor


class _WithBranch(Objective):
    """The part that both methods share: the branch, the gaps of all samples, and the first epochs.

    Args:
        branch: beta.
        target: Kind of the labels.
        samples: Size of the training split.
        start_epochs: Epochs in which every label counts as right; the branch learns from the first step.
    """

    def __init__(self, branch: GenerativeBranch, target: Target, samples: int, start_epochs: int) -> None:
        super().__init__()
        self.branch, self.target, self.start_epochs = branch, target, start_epochs
        self.gaps = SampleMemory(samples)

    def forward(self, views: Sequence[View], labels: Tensor, rows_B: Tensor, epoch: int) -> dict[str, Tensor]:
        view = views[0]
        eps = gather_rows(self.branch.noise(view.features))
        # Labels and rows are those of the whole batch already; features carry gradients and are gathered here.
        view = view._replace(features=gather_rows(view.features))
        with torch.no_grad():
            seen = self._losses(view.classify, view.features, view.features, eps, labels)
        self.gaps.write(rows_B, loss_gap(seen.discriminative, self._evidence(seen)))
        return self._terms(view, eps, labels, seen, epoch)

    def _losses(
        self,
        classify: Callable[[Tensor], Tensor],
        for_task: Tensor,
        for_branch: Tensor,
        eps: Tensor,
        labels: Tensor,
    ) -> _Losses:
        """Losses whose gradients reach the features by ``for_task`` and ``for_branch`` alone; REC and KL reach none."""
        constant = for_branch.detach()
        latent = self.branch.encode(constant)
        z = self.branch.encode(for_branch).sample(eps)
        return _Losses(
            task_loss(self.target, classify(for_task), labels),
            task_loss(self.target, self.branch.classify(z), labels),
            self.branch.reconstruction(constant, latent.sample(eps)),
            self.branch.divergence(latent),
        )

    def _evidence(self, losses: _Losses) -> Tensor:
        """The loss per sample that is compared with that of the task head."""
        return losses.generative

    @abstractmethod
    def _terms(self, view: View, eps: Tensor, labels: Tensor, seen: _Losses, epoch: int) -> dict[str, Tensor]:
        """Loss terms, given the losses of the present parameters."""


class Grid(_WithBranch):
    """Update rule of GRID.

    Args:
        branch: beta.
        target: Kind of the labels.
        samples: Size of the training split.
        rate: lambda, the share of a batch that W holds; None estimates it after each epoch from the gaps (*ours*).
        start_epochs: Epochs with an empty W; the released code has none.
    """

    def __init__(
        self, branch: GenerativeBranch, target: Target, samples: int, rate: float | None, start_epochs: int = 0
    ) -> None:
        super().__init__(branch, target, samples, start_epochs)
        self.fixed_rate = rate
        # The state of the estimate is part of the checkpoint: epoch of the estimate, and its value.
        self.estimate: Tensor
        self.register_buffer("estimate", torch.tensor([-1.0, 0.0], dtype=torch.float64))

    def rate(self, epoch: int) -> float:
        """lambda in ``epoch``."""
        if epoch < self.start_epochs:
            return 0.0
        if self.fixed_rate is not None:
            return self.fixed_rate
        if int(self.estimate[0]) != epoch:
            value = estimated_rate(self.gaps.values.cpu().numpy())
            self.estimate = torch.tensor([float(epoch), value], dtype=torch.float64, device=self.estimate.device)
        return float(self.estimate[1])

    def _terms(self, view: View, eps: Tensor, labels: Tensor, seen: _Losses, epoch: int) -> dict[str, Tensor]:
        wrong_B = noisy_set(loss_gap(seen.discriminative, seen.generative), self.rate(epoch))
        mask = wrong_B.view(-1, *[1] * (view.features.dim() - 1))
        constant = view.features.detach()
        losses = self._losses(
            view.classify,
            torch.where(mask, constant, view.features),
            torch.where(mask, view.features, constant),
            eps,
            labels,
        )
        task, generative = losses.discriminative.mean(), losses.generative.mean()
        reconstruction, divergence = losses.reconstruction.mean(), losses.divergence.mean()
        return {
            "loss": task + generative + reconstruction + divergence,
            "task": task,
            "generative": generative,
            "reconstruction": reconstruction,
            "divergence": divergence,
            "noisy_share": wrong_B.float().mean(),
        }


class RsIrlSvae(_WithBranch):
    """Update rule of RS-IRL-SVAE: samples weighted by their importance.

    Args:
        branch: beta.
        target: Kind of the labels.
        samples: Size of the training split.
        kind: How two losses become a weight.
        kappa: Exponent of ``power``.
        divergence_weight: Weight of KL in the evidence lower bound.
        whole_bound: Whether the whole bound is compared with the task loss, or the generative head's loss alone.
        start_epochs: Epochs with equal weights.
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
    ) -> None:
        super().__init__(branch, target, samples, start_epochs)
        self.kind, self.kappa, self.divergence_weight, self.whole_bound = kind, kappa, divergence_weight, whole_bound

    def _evidence(self, losses: _Losses) -> Tensor:
        if not self.whole_bound:
            return losses.generative
        return losses.generative + losses.reconstruction + self.divergence_weight * losses.divergence

    def _terms(self, view: View, eps: Tensor, labels: Tensor, seen: _Losses, epoch: int) -> dict[str, Tensor]:
        weights_B = torch.ones_like(seen.discriminative)
        if epoch >= self.start_epochs:
            weights_B = importance(self.kind, seen.discriminative, self._evidence(seen), self.kappa)
        losses = self._losses(view.classify, view.features, view.features.detach(), eps, labels)
        task = (weights_B * losses.discriminative).sum() / weights_B.sum()
        bound = losses.generative + losses.reconstruction + self.divergence_weight * losses.divergence
        return {"loss": task + bound.mean(), "task": task, "bound": bound.mean(), "smallest_weight": weights_B.min()}
