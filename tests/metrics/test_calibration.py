"""Calibration of probabilities: error, temperature, thresholds."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from eoforge.metrics.calibration import best_thresholds, expected_calibration_error, fit_temperature


def bce(labels):
    return lambda scaled: functional.binary_cross_entropy_with_logits(scaled, labels.double())


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_a_sharpening_of_logits(sharpness: float) -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(4000, 5, generator=generator) * 2
    labels = (torch.rand(4000, 5, generator=generator) < honest.sigmoid()).float()
    temperature = fit_temperature(honest * sharpness, bce(labels))
    assert temperature == pytest.approx(sharpness, rel=0.05)
    raw = expected_calibration_error((honest * sharpness).sigmoid(), labels)
    scaled = expected_calibration_error((honest * sharpness / temperature).sigmoid(), labels)
    assert scaled < 0.01
    assert sharpness == 1.0 or scaled < raw


def test_the_temperature_is_the_smallest_loss_of_a_grid() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(50, 4, generator=generator) * 4
    labels = (torch.rand(50, 4, generator=generator) < 0.3).float()
    loss = bce(labels)
    found = fit_temperature(logits, loss)
    grid = torch.logspace(-1.3, 1.3, 400).tolist()
    assert float(loss(logits.double() / found)) <= min(float(loss(logits.double() / t)) for t in grid) + 1e-9


def test_calibration_error_of_known_bins() -> None:
    probabilities = torch.tensor([[0.9], [0.9], [0.1], [0.1]])
    labels = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    # Two bins with two samples each: |0.9 - 0.5| and |0.1 - 0|.
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.25, abs=1e-6)


def test_thresholds_have_the_best_f1_of_all_thresholds() -> None:
    generator = torch.Generator().manual_seed(1)
    probabilities = (torch.rand(60, 4, generator=generator) * 20).round() / 20  # with ties
    labels = (torch.rand(60, 4, generator=generator) < 0.35).float()
    labels[:, 3] = 0
    found = best_thresholds(probabilities, labels)
    assert float(found[3]) == 0.5

    def f1(column: int, threshold: float) -> float:
        predicted = (probabilities[:, column].double() >= threshold).float()
        hits = float((predicted * labels[:, column]).sum())
        return 2 * hits / float(predicted.sum() + labels[:, column].sum())

    for column in range(3):
        best = max(f1(column, t / 200 + 1e-4) for t in range(200))
        assert f1(column, float(found[column])) == pytest.approx(best)
