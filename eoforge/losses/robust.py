"""Task losses per sample, plain and robust to wrong labels.

Shape legend: B samples, L classes, H x W pixels. Every function returns ``[B]``, in float32. ``Target`` says what the
labels are: ``multi`` ``[B, L]`` of 0 and 1 (or soft), ``single`` class indices ``[B]``, ``pixels`` class indices
``[B, H, W]`` with ``IGNORE`` for pixels without a class, ``vector`` numbers ``[B, L]``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from eoforge.errors import UsageError

Target = Literal["multi", "single", "pixels", "vector"]
IGNORE = 255
_LOG_ZERO = -4.0
"""A of symmetric cross entropy: the logarithm that stands for log 0 (Wang et al., ICCV 2019)."""
_CLAMP = 1e-4


def task_loss(kind: Target, logits: Tensor, labels: Tensor) -> Tensor:
    """The plain loss: BCE (mean over classes), CE, pixel CE (mean over pixels with a class) or squared error.

    A patch without any labelled pixel has loss 0.

    Raises:
        UsageError: The kind is unknown.
    """
    if kind == "multi":
        return label_losses(kind, logits, labels).mean(dim=1)
    if kind == "single":
        return functional.cross_entropy(logits.float(), labels.long(), reduction="none")
    if kind == "pixels":
        return pixel_mean(label_losses(kind, logits, labels), labels)
    if kind == "vector":
        return (logits.float() - labels.float()).square().mean(dim=1)
    raise UsageError(f"expected a target of multi, single, pixels or vector; got {kind!r}")


def label_losses(kind: Target, logits: Tensor, labels: Tensor) -> Tensor:
    """The plain loss of each label: ``[B, L]`` for ``multi``, ``[B, H, W]`` for ``pixels`` (0 without a class).

    Raises:
        UsageError: Patches of this kind have one label each.
    """
    if kind == "multi":
        return functional.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
    if kind == "pixels":
        return functional.cross_entropy(logits.float(), labels.long(), reduction="none", ignore_index=IGNORE)
    raise UsageError(f"a patch has several labels for targets of multi and pixels alone; got {kind!r}")


def pixel_mean(values_BHW: Tensor, labels_BHW: Tensor) -> Tensor:
    """Mean over the pixels with a class, ``[B]``; 0 where there are none."""
    valid = labels_BHW != IGNORE
    return (values_BHW * valid).flatten(1).sum(dim=1) / valid.flatten(1).sum(dim=1).clamp(min=1)


def smoothed(kind: Target, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """The loss against labels that are moved by ``smoothing`` towards the uniform distribution.

    For ``multi`` the two outcomes of each class are uniform: ``y (1 - s) + s / 2``.
    """
    if kind == "multi":
        return task_loss(kind, logits, labels.float() * (1 - smoothing) + smoothing / 2)
    uniform = -functional.log_softmax(logits.float(), dim=1).mean(dim=1)
    if kind == "pixels":
        uniform = pixel_mean(uniform, labels)
    return (1 - smoothing) * task_loss(kind, logits, labels) + smoothing * uniform


def focal(kind: Target, logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """``-(1 - p_t)^gamma log p_t``, p_t the probability of the label (Lin et al., ICCV 2017), without class weights."""
    return _of_label(kind, logits, labels, lambda log_p: -((1 - log_p.exp()).clamp(min=0) ** gamma) * log_p)


def generalised_cross_entropy(kind: Target, logits: Tensor, labels: Tensor, q: float) -> Tensor:
    """``(1 - p_t^q) / q``: between cross entropy (q to 0) and mean absolute error (q = 1) (Zhang and Sabuncu, 2018)."""
    return _of_label(kind, logits, labels, lambda log_p: (1 - (q * log_p).exp()) / q)


def symmetric_cross_entropy(kind: Target, logits: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha CE + beta RCE``, RCE the cross entropy with prediction and label exchanged (Wang et al., ICCV 2019).

    With log 0 taken as ``A``, ``RCE = -A (1 - p_t)``.
    """
    reverse = _of_label(kind, logits, labels, lambda log_p: -_LOG_ZERO * (1 - log_p.exp()))
    return alpha * task_loss(kind, logits, labels) + beta * reverse


def _of_label(kind: Target, logits: Tensor, labels: Tensor, loss: object) -> Tensor:
    """``loss(log p_t)`` per sample; for ``multi`` every class is a binary problem and the mean is taken."""
    assert callable(loss)
    logits = logits.float()
    if kind == "multi":
        signed = torch.where(labels > 0.5, logits, -logits)
        result: Tensor = loss(functional.logsigmoid(signed)).mean(dim=1)
        return result
    log_p = functional.log_softmax(logits, dim=1)
    safe = labels.long().masked_fill(labels == IGNORE, 0) if kind == "pixels" else labels.long()
    losses: Tensor = loss(log_p.gather(1, safe.unsqueeze(1)).squeeze(1))
    return pixel_mean(losses, labels) if kind == "pixels" else losses


def probabilities(kind: Target, logits: Tensor) -> Tensor:
    """Sigmoid for ``multi``, softmax over classes otherwise; kept away from 0 and 1 by 1e-4."""
    given = logits.float().sigmoid() if kind == "multi" else logits.float().softmax(dim=1)
    return given.clamp(_CLAMP, 1 - _CLAMP)


def agreement(kind: Target, first: Tensor, second: Tensor) -> Tensor:
    """``<p, t>`` per sample, ``[B]``: the chance that draws from two predictions agree; a mean over binary classes."""
    if kind == "multi":
        return (first * second + (1 - first) * (1 - second)).mean(dim=1)
    return (first * second).sum(dim=1)


def jensen_shannon(kind: Target, first: Tensor, second: Tensor) -> Tensor:
    """Symmetric Kullback-Leibler divergence of two predictions per sample, ``[B]`` (JoCoR's co-regularisation)."""

    def divergence(p: Tensor, q: Tensor) -> Tensor:
        if kind == "multi":
            return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(dim=1)
        return (p * (p / q).log()).sum(dim=1)

    return divergence(first, second) + divergence(second, first)
