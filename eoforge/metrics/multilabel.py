"""Measures of multi-label classification by torchmetrics: F1, average precision and AUROC, per class and averaged.

Shape legend: N patches, L labels. F1 takes the macro mean over all L labels, as sklearn does (a label that is neither
present nor predicted counts 0). Average precision needs a positive and AUROC both a positive and a negative; a label
for which one is not defined is left out of its mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from eoforge.errors import UsageError

THRESHOLD = 0.5
AVERAGES: tuple[Literal["micro", "macro", "weighted"], ...] = ("micro", "macro", "weighted")


@dataclass(frozen=True)
class ClassMeasures:
    """Measures of one label; None where a measure is not defined.

    Attributes:
        patches: Patches that have the label.
        predicted: Patches whose probability exceeds 0.5.
        f1: At that threshold.
        average_precision: Of the ranking by probability.
        auroc: Area under the receiver operating characteristic.
    """

    patches: int
    predicted: int
    f1: float
    average_precision: float | None
    auroc: float | None


@dataclass(frozen=True)
class LabelMeasures:
    """All measures of a classifier.

    Attributes:
        averages: ``f1_micro``, ``f1_macro``, ``f1_weighted``, and likewise ``map_...`` and ``auroc_...``; weights are
            the numbers of patches.
        classes: In the order of the labels.
    """

    averages: dict[str, float]
    classes: list[ClassMeasures]


def labels_of_masks(masks_N: Tensor, count: int) -> Tensor:
    """float32 ``[N, count]`` of 0 and 1: bit l of an integer mask says whether label l is present."""
    return (masks_N[:, None] >> torch.arange(count, device=masks_N.device) & 1).float()


def multilabel_figures(probabilities_NL: Tensor, labels_NL: Tensor) -> dict[str, float]:
    """The averages that training logs: F1 at 0.5 and mean average precision.

    Args:
        probabilities_NL: In 0..1, ``[N, L]``.
        labels_NL: 0 or 1, ``[N, L]``.

    Returns:
        ``f1_micro``, ``f1_macro``, ``f1_weighted``, ``map_micro``, ``map_macro``.

    Raises:
        UsageError: There are no rows, no patch has a label, or the shapes differ.
    """
    from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

    labels = _checked(probabilities_NL, labels_NL)
    count = labels.shape[1]
    figures = {
        f"f1_{average}": multilabel_f1_score(probabilities_NL, labels, count, THRESHOLD, average=average)
        for average in AVERAGES
    }
    with _undefined_is_expected():
        precision_L = multilabel_average_precision(probabilities_NL, labels, count, average="none")
        figures["map_micro"] = multilabel_average_precision(probabilities_NL, labels, count, average="micro")
    figures["map_macro"] = torch.as_tensor(precision_L)[labels.any(dim=0)].mean()
    return {name: float(value) for name, value in figures.items()}


def f1_of_labels(predicted_NL: Tensor, labels_NL: Tensor) -> dict[str, float]:
    """``f1_micro``, ``f1_macro`` and ``f1_weighted`` of predicted labels, 0 or 1, against the true ones."""
    from torchmetrics.functional.classification import multilabel_f1_score

    labels = _checked(predicted_NL, labels_NL)
    count = labels.shape[1]
    return {
        f"f1_{average}": float(multilabel_f1_score(predicted_NL.long(), labels, count, average=average))
        for average in AVERAGES
    }


def multilabel_measures(probabilities_NL: Tensor, labels_NL: Tensor) -> LabelMeasures:
    """All averages and the measures of every label; arguments and errors as :func:`multilabel_figures`."""
    from torchmetrics.functional.classification import (
        multilabel_auroc,
        multilabel_average_precision,
        multilabel_f1_score,
    )

    averages = multilabel_figures(probabilities_NL, labels_NL)
    labels = labels_NL.long()
    count = labels.shape[1]
    support_L = labels.sum(dim=0)
    present_L = support_L > 0
    both_L = present_L & (support_L < len(labels))
    with _undefined_is_expected():
        f1_L = torch.as_tensor(multilabel_f1_score(probabilities_NL, labels, count, THRESHOLD, average="none"))
        precision_L = torch.as_tensor(multilabel_average_precision(probabilities_NL, labels, count, average="none"))
        auroc_L = torch.as_tensor(multilabel_auroc(probabilities_NL, labels, count, average="none"))
        averages["map_weighted"] = _weighted(precision_L, support_L, present_L)
        if bool(both_L.any()):
            averages["auroc_micro"] = float(multilabel_auroc(probabilities_NL, labels, count, average="micro"))
            averages["auroc_macro"] = float(auroc_L[both_L].mean())
            averages["auroc_weighted"] = _weighted(auroc_L, support_L, both_L)
    predicted_L = (probabilities_NL > THRESHOLD).sum(dim=0)
    classes = [
        ClassMeasures(
            patches=int(support_L[i]),
            predicted=int(predicted_L[i]),
            f1=float(f1_L[i]),
            average_precision=float(precision_L[i]) if present_L[i] else None,
            auroc=float(auroc_L[i]) if both_L[i] else None,
        )
        for i in range(count)
    ]
    return LabelMeasures(averages, classes)


def _checked(probabilities_NL: Tensor, labels_NL: Tensor) -> Tensor:
    if probabilities_NL.shape != labels_NL.shape or not len(labels_NL):
        raise UsageError(
            f"expected probabilities and labels of one shape [N > 0, L]; got {list(probabilities_NL.shape)} and "
            f"{list(labels_NL.shape)}"
        )
    labels = labels_NL.long()
    if not bool(labels.any()):
        raise UsageError("no patch has a label; average precision is not defined")
    return labels


def _weighted(values_L: Tensor, support_L: Tensor, defined_L: Tensor) -> float:
    weights_L = (support_L * defined_L).double()
    return float((values_L.nan_to_num().double() * weights_L).sum() / weights_L.sum())


@contextmanager
def _undefined_is_expected() -> Iterator[None]:
    """Silences the warnings of torchmetrics about labels without positives or negatives, which the means leave out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
