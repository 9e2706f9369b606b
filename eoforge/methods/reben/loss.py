"""Objectives of the reBEN baselines, by the implementations of torch, torchvision and timm.

Shape legend: B patches, L classes, S pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from eoforge.data.labels import IGNORE_INDEX
from eoforge.methods.reben.config import Config

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


def balanced_weights(counts_L: Tensor, total: int, bound: float) -> Tensor:
    """Weights of present labels: negatives over positives, within ``1 / bound`` and ``bound``; 1 without a positive."""
    counts_L = counts_L.double()
    ratios_L = ((total - counts_L) / counts_L.clamp(min=1)).clamp(min=1 / bound, max=bound)
    return torch.where(counts_L > 0, ratios_L, torch.ones_like(ratios_L)).float()


def pixel_weights(counts_L: Tensor, bound: float) -> Tensor:
    """Weights of classes of pixels: the mean count over the count, within ``1 / bound`` and ``bound``.

    Classes without a pixel have the weight 1, and count for no mean.
    """
    counts_L = counts_L.double()
    present_L = counts_L > 0
    mean = counts_L[present_L].mean() if bool(present_L.any()) else torch.ones(())
    ratios_L = (mean / counts_L.clamp(min=1)).clamp(min=1 / bound, max=bound)
    return torch.where(present_L, ratios_L, torch.ones_like(ratios_L)).float()


def scene_loss(config: Config) -> Objective:
    """Loss of logits ``[B, L]``, labels ``[B, L]`` and weights of present labels ``[L]``: a mean over both axes."""
    if config.loss == "focal":
        from torchvision.ops import sigmoid_focal_loss

        def focal(logits_BL: Tensor, labels_BL: Tensor, weight_L: Tensor) -> Tensor:
            terms_BL: Tensor = sigmoid_focal_loss(logits_BL, labels_BL, alpha=-1, gamma=config.focal_gamma)
            return (terms_BL * (1 + labels_BL * (weight_L - 1))).mean()

        return focal
    if config.loss == "asymmetric":
        from timm.loss.asymmetric_loss import AsymmetricLossMultiLabel

        def asymmetric(logits_BL: Tensor, labels_BL: Tensor, weight_L: Tensor) -> Tensor:
            loss = AsymmetricLossMultiLabel(
                gamma_neg=config.gamma_negative,
                gamma_pos=config.gamma_positive,
                clip=config.clip,
                reduction="mean",
                pos_weight=weight_L,
            )
            value: Tensor = loss(logits_BL, labels_BL)
            return value

        return asymmetric
    return lambda logits_BL, labels_BL, weight_L: functional.binary_cross_entropy_with_logits(
        logits_BL, labels_BL, pos_weight=weight_L
    )


def pixel_loss(config: Config) -> Objective:
    """Loss of logits ``[B, L, S, S]``, classes ``[B, S, S]`` and weights ``[L]``: a mean over pixels with a class.

    With the focal loss a pixel of probability p for its class counts (1 - p)^gamma.
    """

    def value(logits: Tensor, classes: Tensor, weight_L: Tensor) -> Tensor:
        terms = functional.cross_entropy(logits.float(), classes, ignore_index=IGNORE_INDEX, reduction="none")
        known = classes != IGNORE_INDEX
        share = weight_L[classes.where(known, torch.zeros_like(classes))] * known
        focus = (1 - (-terms).exp()).clamp(min=0) ** config.focal_gamma if config.loss == "focal" else 1.0
        return (terms * focus * share).sum() / share.sum().clamp(min=1e-6)

    return value
