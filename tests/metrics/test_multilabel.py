"""Multi-label measures against closed forms and plain loops."""

from __future__ import annotations

import pytest
import torch

from eoforge.metrics.multilabel import labels_of_masks, multilabel_figures, multilabel_measures


def test_measures_of_every_label_in_closed_form() -> None:
    probabilities = torch.tensor([[0.9, 0.2, 0.8, 0.7], [0.6, 0.7, 0.1, 0.6], [0.4, 0.1, 0.9, 0.8]])
    labels = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]])
    measures = multilabel_measures(probabilities, labels)
    first, second, absent, everywhere = measures.classes
    # Label 0 ranks its patches 1 (hit), 2 (miss), 3 (hit); of its two pairs (hit, miss) one is in order.
    assert (first.patches, first.predicted) == (2, 2)
    assert first.f1 == pytest.approx(0.5)
    assert first.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert first.auroc == pytest.approx(0.5)
    assert (second.patches, second.predicted, second.f1, second.auroc) == (1, 1, 1, 1)
    assert (absent.patches, absent.predicted, absent.f1) == (0, 2, 0)
    assert absent.average_precision is None
    assert absent.auroc is None
    assert everywhere.average_precision == 1
    assert everywhere.auroc is None
    figures = measures.averages
    assert multilabel_figures(probabilities, labels).items() <= figures.items()
    assert figures["map_macro"] == pytest.approx((5 / 6 + 1 + 1) / 3)
    assert figures["map_weighted"] == pytest.approx((2 * 5 / 6 + 1 + 3) / 6)
    assert figures["auroc_macro"] == pytest.approx((0.5 + 1) / 2)
    assert figures["auroc_weighted"] == pytest.approx((2 * 0.5 + 1 * 1) / 3)


def test_micro_auroc_counts_pairs_of_all_labels_together() -> None:
    torch.manual_seed(0)
    probabilities, labels = torch.rand(7, 3), (torch.rand(7, 3) > 0.5).float()
    pairs = [float(p > q) + 0.5 * float(p == q) for p in probabilities[labels == 1] for q in probabilities[labels == 0]]
    assert multilabel_measures(probabilities, labels).averages["auroc_micro"] == pytest.approx(sum(pairs) / len(pairs))


def test_labels_of_masks_reads_bits_in_order() -> None:
    assert labels_of_masks(torch.tensor([0b101, 0b010]), 3).tolist() == [[1, 0, 1], [0, 1, 0]]
