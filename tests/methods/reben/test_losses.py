"""Objectives of the reBEN baselines against slow loops and closed forms."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from eoforge.methods.reben.config import Config
from eoforge.methods.reben.loss import balanced_weights, pixel_loss, pixel_weights, scene_loss

LOGITS = torch.tensor([[2.0, -1.0, 0.0], [0.5, 3.0, -2.0]])
LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
WEIGHT = torch.tensor([2.0, 1.0, 3.0])


def looped(term) -> float:
    total = 0.0
    for i in range(2):
        for j in range(3):
            p = 1 / (1 + math.exp(-float(LOGITS[i, j])))
            total += term(p, float(LABELS[i, j]), float(WEIGHT[j]))
    return total / 6


@pytest.mark.parametrize("loss", ["bce", "focal", "asymmetric"])
def test_scene_losses_against_a_loop(loss: str) -> None:
    config = dataclasses.replace(Config(), loss=loss, focal_gamma=1.5, gamma_negative=3.0, gamma_positive=1.0, clip=0.1)

    def term(p: float, y: float, w: float) -> float:
        if loss == "bce":
            return -(w * y * math.log(p) + (1 - y) * math.log(1 - p))
        if loss == "focal":
            return -(w * y * (1 - p) ** 1.5 * math.log(p) + (1 - y) * p**1.5 * math.log(1 - p))
        shifted = min(1.0, 1 - p + 0.1)
        return -(w * y * (1 - p) * math.log(p) + (1 - y) * (1 - shifted) ** 3 * math.log(shifted))

    assert float(scene_loss(config)(LOGITS, LABELS, WEIGHT)) == pytest.approx(looped(term), rel=1e-5)


def test_without_focus_the_focal_and_asymmetric_losses_are_the_plain_one() -> None:
    plain = scene_loss(Config())(LOGITS, LABELS, WEIGHT)
    neutral = dataclasses.replace(Config(), focal_gamma=0.0, gamma_negative=0.0, gamma_positive=0.0, clip=0.0)
    for loss in ("focal", "asymmetric"):
        same = scene_loss(dataclasses.replace(neutral, loss=loss))(LOGITS, LABELS, WEIGHT)
        assert float(same) == pytest.approx(float(plain), rel=1e-6)


def test_weights_of_labels_are_negatives_over_positives_within_the_bound() -> None:
    weights = balanced_weights(torch.tensor([50.0, 10.0, 1.0, 0.0, 100.0]), 100, 20.0)
    assert weights.tolist() == pytest.approx([1.0, 9.0, 20.0, 1.0, 0.05])


def test_weights_of_pixels_are_the_mean_count_over_the_count() -> None:
    weights = pixel_weights(torch.tensor([900.0, 90.0, 0.0, 6.0]), 5.0)
    assert weights.tolist() == pytest.approx([332 / 900, 332 / 90, 1.0, 5.0])


@pytest.mark.parametrize("loss", ["bce", "focal"])
def test_the_loss_of_pixels_ignores_unlabelled_codes(loss: str) -> None:
    torch.manual_seed(1)
    logits, classes = torch.randn(2, 3, 2, 2), torch.tensor([[[0, 1], [2, 255]], [[1, 1], [255, 0]]])
    config = dataclasses.replace(Config(), task="pixels", loss=loss, focal_gamma=2.0)
    value = pixel_loss(config)(logits, classes, WEIGHT)
    top = bottom = 0.0
    for b in range(2):
        for y in range(2):
            for x in range(2):
                k = int(classes[b, y, x])
                if k == 255:
                    continue
                p = float(logits[b, :, y, x].softmax(0)[k])
                top += float(WEIGHT[k]) * -math.log(p) * ((1 - p) ** 2 if loss == "focal" else 1)
                bottom += float(WEIGHT[k])
    assert float(value) == pytest.approx(top / bottom, rel=1e-5)
    other = logits.clone()
    other[0, :, 1, 1] = 100.0
    assert float(pixel_loss(config)(other, classes, WEIGHT)) == pytest.approx(float(value), rel=1e-6)


def test_pixels_without_any_class_have_no_loss() -> None:
    nothing = pixel_loss(dataclasses.replace(Config(), task="pixels"))
    value = nothing(torch.randn(1, 3, 2, 2), torch.full((1, 2, 2), 255), WEIGHT)
    assert float(value) == 0.0
