"""Objectives that train two networks together: co-teaching, JoCoR and RCML.

Shape legend: B samples, D features, L classes. Training costs twice that of the plain loss. The first network is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eoforge.losses import robust
from eoforge.losses.robust import Target
from eoforge.methods.noise_robust.objective import Objective, View


def kept_share(rate: float, epoch: int, ramp_epochs: int) -> float:
    """Share of a batch that counts: falls linearly from 1 to ``1 - rate`` over ``ramp_epochs``."""
    return 1 - rate * min(epoch / max(ramp_epochs, 1), 1.0)


def _smallest(losses_B: Tensor, share: float) -> Tensor:
    """Indices of the smallest losses; at least one."""
    return losses_B.detach().topk(max(1, round(share * len(losses_B))), largest=False).indices


class CoTeaching(Objective):
    """Each network learns from the samples of smallest loss under the other one (Han et al., NeurIPS 2018)."""

    networks = 2

    def __init__(self, target: Target, rate: float, ramp_epochs: int = 5) -> None:
        super().__init__()
        self.target, self.rate, self.ramp_epochs = target, rate, ramp_epochs

    def forward(self, views: Sequence[View], labels: Tensor, rows_B: Tensor, epoch: int) -> dict[str, Tensor]:
        first, second = (robust.task_loss(self.target, view.logits, labels) for view in views)
        share = kept_share(self.rate, epoch, self.ramp_epochs)
        return {"loss": first[_smallest(second, share)].mean() + second[_smallest(first, share)].mean()}


class JoCoR(Objective):
    """Joint loss ``(1 - w)(l_1 + l_2) + w JS(p_1, p_2)``, on its own smallest samples (Wei et al., CVPR 2020)."""

    networks = 2

    def __init__(self, target: Target, rate: float, ramp_epochs: int = 5, weight: float = 0.5) -> None:
        super().__init__()
        self.target, self.rate, self.ramp_epochs, self.weight = target, rate, ramp_epochs, weight

    def forward(self, views: Sequence[View], labels: Tensor, rows_B: Tensor, epoch: int) -> dict[str, Tensor]:
        logits = [view.logits for view in views]
        first, second = (robust.probabilities(self.target, one) for one in logits)
        task = sum(robust.task_loss(self.target, one, labels) for one in logits)
        apart = robust.jensen_shannon(self.target, first, second)
        if self.target == "pixels":
            apart = robust.pixel_mean(apart, labels)
        losses_B = (1 - self.weight) * task + self.weight * apart
        return {"loss": losses_B[_smallest(losses_B, kept_share(self.rate, epoch, self.ramp_epochs))].mean()}


class Rcml(Objective):
    """Collaborative learning of two networks for multi-label noise (RCML, arXiv 2012.10715).

    The networks differ in features (``- discrepancy MMD``) and agree in predictions (``consistency MSE``). Each ranks
    samples by missing and extra labels, and the other learns from those of the smallest error. Weights and kernel width
    are those of the released configuration (*confirmed*); the ranking error is a hinge on the order of present and
    absent classes, as the group lasso of the released code was not read in full (*reconstructed*).
    """

    networks = 2
    MISS, EXTRA, SIGMA = 0.2, 0.8, 1e4

    def __init__(self, target: Target, rate: float, ramp_epochs: int = 5) -> None:
        super().__init__()
        self.target, self.rate, self.ramp_epochs = target, rate, ramp_epochs
        self.discrepancy, self.consistency = 1.0, 0.1

    def forward(self, views: Sequence[View], labels: Tensor, rows_B: Tensor, epoch: int) -> dict[str, Tensor]:
        logits = [view.logits for view in views]
        losses = [robust.task_loss(self.target, one, labels) for one in logits]
        errors = [self._error(one, labels, loss) for one, loss in zip(logits, losses, strict=True)]
        share = kept_share(self.rate, epoch, self.ramp_epochs)
        task = losses[0][_smallest(errors[1], share)].mean() + losses[1][_smallest(errors[0], share)].mean()
        first, second = (robust.probabilities(self.target, one) for one in logits)
        flat = [view.features.float().flatten(1) for view in views]
        apart = mean_discrepancy(flat[0], flat[1], self.SIGMA)
        alike = (first - second).square().mean()
        return {"loss": task - self.discrepancy * apart + self.consistency * alike, "discrepancy": apart}

    def _error(self, logits: Tensor, labels: Tensor, losses_B: Tensor) -> Tensor:
        if self.target != "multi":
            return losses_B
        p_BL, present_BL = logits.detach().float().sigmoid(), labels > 0.5
        lowest_B = p_BL.masked_fill(~present_BL, 1.0).min(dim=1).values
        highest_B = p_BL.masked_fill(present_BL, 0.0).max(dim=1).values
        missing_BL = (p_BL - lowest_B[:, None] + 1).clamp(min=0) * ~present_BL
        extra_BL = (highest_B[:, None] - p_BL + 1).clamp(min=0) * present_BL
        return losses_B + self.MISS * missing_BL.norm(dim=1) + self.EXTRA * extra_BL.norm(dim=1)


def mean_discrepancy(first_BD: Tensor, second_BD: Tensor, sigma: float) -> Tensor:
    """Squared maximum mean discrepancy of two samples with the kernel ``exp(-d^2 / sigma)``, biased estimate."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-torch.cdist(a, b).square() / sigma).exp().mean()

    return kernel(first_BD, first_BD) + kernel(second_BD, second_BD) - 2 * kernel(first_BD, second_BD)
