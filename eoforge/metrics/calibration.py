"""Calibration of probabilities: expected calibration error, temperature scaling, thresholds per class.

Shape legend: N patches, L classes, P thresholds. The error is torchmetrics'; temperature scaling is that of Guo et al.,
"On Calibration of Modern Neural Networks" (arXiv 1706.04599, *confirmed*).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eoforge.metrics.multilabel import THRESHOLD

BINS = 15
_STEPS, _LOW, _HIGH = 60, 0.05, 20.0


def expected_calibration_error(probabilities_NL: Tensor, labels_NL: Tensor) -> float:
    """Mean distance between probability and frequency over all (patch, class) pairs, in 15 bins of equal width."""
    from torchmetrics.functional.classification import binary_calibration_error

    error = binary_calibration_error(probabilities_NL.flatten(), labels_NL.flatten().long(), n_bins=BINS)
    return float(error)


def fit_temperature(logits: Tensor, loss: Callable[[Tensor], Tensor]) -> float:
    """Temperature T in 0.05..20 of the smallest ``loss(logits / T)``.

    The loss has one minimum over 1 / T, since the likelihood of a logistic model is concave: golden-section search over
    the logarithm of T finds it without a learning rate (*ours*; the paper uses a gradient method).

    Args:
        logits: Of held-out samples.
        loss: Mean negative log-likelihood of scaled logits.
    """
    wide = logits.double()
    ratio = (5**0.5 - 1) / 2
    low, high = torch.tensor([_LOW, _HIGH]).double().log().tolist()

    def value(log_t: float) -> float:
        return float(loss(wide * torch.tensor(-log_t).double().exp()))

    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    values = [value(inner[0]), value(inner[1])]
    for _ in range(_STEPS):
        if values[0] < values[1]:
            high = inner[1]
            inner = [high - ratio * (high - low), inner[0]]
            values = [value(inner[0]), values[0]]
        else:
            low = inner[0]
            inner = [inner[1], low + ratio * (high - low)]
            values = [values[1], value(inner[1])]
        if high - low < 1e-4:
            break
    return float(torch.tensor((low + high) / 2).exp())


def best_thresholds(probabilities_NL: Tensor, labels_NL: Tensor) -> Tensor:
    """Threshold per class, float ``[L]``, of the highest F1; 0.5 for a class without a positive.

    A class is present where its probability is at least the threshold. The threshold lies in the middle between the
    last probability that counts and the next lower one, so that rounding moves no sample across it.
    """
    thresholds = torch.full((labels_NL.shape[1],), THRESHOLD, dtype=torch.float64)
    for index in range(labels_NL.shape[1]):
        order = probabilities_NL[:, index].double().argsort(descending=True, stable=True)
        ranked, hits = probabilities_NL[order, index].double(), labels_NL[order, index].double()
        total = float(hits.sum())
        if total == 0:
            continue
        counts = torch.arange(1, len(ranked) + 1, dtype=torch.float64)
        f1 = 2 * hits.cumsum(0) / (counts + total)
        following = torch.cat([ranked[1:], torch.zeros(1, dtype=torch.float64)])
        f1[ranked == following] = -1.0  # equal probabilities fall on one side
        best = int(f1.argmax())
        thresholds[index] = (ranked[best] + following[best]) / 2
    return thresholds
