"""Measures of maps: confusion of pixels, accuracy, intersection over union; per class and averaged.

Shape legend: L classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eoforge.errors import UsageError

IGNORED = 255
"""Class index of pixels that count for nothing."""


@dataclass(frozen=True)
class PixelMeasures:
    """Measures of a map.

    Attributes:
        averages: ``accuracy`` over pixels, ``accuracy_macro`` over classes, ``iou_macro``, and ``iou_weighted`` by the
            pixels of each class. Classes without a pixel are left out.
        iou: Intersection over union of each class; None for a class that is neither present nor predicted.
        accuracy: Share of the pixels of each class that are found; None for a class without a pixel.
        pixels: Pixels of each class.
    """

    averages: dict[str, float]
    iou: list[float | None]
    accuracy: list[float | None]
    pixels: list[int]


def confusion(predicted: Tensor, classes: Tensor, count: int) -> Tensor:
    """Counts ``[L, L]`` of pixels by class (row) and predicted class (column), without the ignored ones.

    Args:
        predicted: Integers in 0..count - 1, any shape.
        classes: Of the same shape; ``IGNORED`` for pixels without a class.
        count: Number of classes L.
    """
    known = classes != IGNORED
    pairs = classes[known].long() * count + predicted[known].long()
    return torch.bincount(pairs, minlength=count * count).reshape(count, count)


def pixel_measures(confusion_LL: Tensor) -> PixelMeasures:
    """Measures of counts from :func:`confusion`.

    Raises:
        UsageError: No pixel has a class.
    """
    counts_LL = confusion_LL.double()
    pixels_L, predicted_L, hits_L = counts_LL.sum(dim=1), counts_LL.sum(dim=0), counts_LL.diagonal()
    total = pixels_L.sum()
    if not bool(total > 0):
        raise UsageError("no pixel has a class; measures of maps are not defined")
    union_L = pixels_L + predicted_L - hits_L
    present_L, shown_L = pixels_L > 0, union_L > 0
    iou_L = hits_L / union_L.clamp(min=1)
    accuracy_L = hits_L / pixels_L.clamp(min=1)
    averages = {
        "accuracy": float(hits_L.sum() / total),
        "accuracy_macro": float(accuracy_L[present_L].mean()),
        "iou_macro": float(iou_L[present_L].mean()),
        "iou_weighted": float((iou_L * pixels_L).sum() / total),
    }
    return PixelMeasures(
        averages,
        [float(v) if shown else None for v, shown in zip(iou_L, shown_L, strict=True)],
        [float(v) if present else None for v, present in zip(accuracy_L, present_L, strict=True)],
        [int(v) for v in pixels_L],
    )
