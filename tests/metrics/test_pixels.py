"""Measures of maps against torchmetrics and a closed form."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_jaccard_index

from eoforge.errors import UsageError
from eoforge.metrics.pixels import confusion, pixel_measures


def test_confusion_and_iou_are_those_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randint(5, (4, 9, 9), generator=generator)
    classes = torch.randint(5, (4, 9, 9), generator=generator)
    classes[torch.rand(4, 9, 9, generator=generator) < 0.2] = 255
    counts = confusion(predicted.to(torch.uint8), classes.to(torch.uint8), 5)
    assert torch.equal(counts, multiclass_confusion_matrix(predicted, classes, 5, ignore_index=255))
    measures = pixel_measures(counts)
    iou = multiclass_jaccard_index(predicted, classes, 5, average="none", ignore_index=255)
    assert measures.iou == pytest.approx(iou.tolist(), rel=1e-5)
    assert measures.averages["iou_macro"] == pytest.approx(float(iou.mean()), rel=1e-5)
    assert measures.averages["accuracy"] == pytest.approx(float(counts.diagonal().sum() / counts.sum()))


def test_classes_without_a_pixel_do_not_count() -> None:
    measures = pixel_measures(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    assert measures.iou == pytest.approx([3 / 4, 4 / 5, None])
    assert measures.accuracy == pytest.approx([3 / 4, 1.0, None])
    assert measures.averages["iou_macro"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert measures.pixels == [4, 4, 0]


def test_a_class_that_is_only_predicted_has_an_iou_of_zero() -> None:
    measures = pixel_measures(torch.tensor([[3, 1], [0, 0]]))
    assert measures.iou == [3 / 4, 0.0]
    assert measures.averages["iou_macro"] == 3 / 4


def test_a_map_without_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="no pixel has a class"):
        pixel_measures(confusion(torch.zeros(3), torch.full((3,), 255), 2))
