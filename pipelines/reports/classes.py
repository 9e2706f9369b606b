"""Classification figures for Kubeflow: one receiver operating characteristic and one confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BINARY = ("absent", "present")


@dataclass(frozen=True)
class ClassFigures:
    """Input of ``ClassificationMetrics``; an empty list is not shown.

    Attributes:
        categories: Names of the rows and columns of the matrix.
        matrix: Counts by truth (row) and prediction (column).
        fpr: False positive rates.
        tpr: True positive rates.
        threshold: Their thresholds.
    """

    categories: list[str]
    matrix: list[list[int]]
    fpr: list[float]
    tpr: list[float]
    threshold: list[float]


def class_figures(metrics: Mapping[str, Any]) -> ClassFigures:
    """Figures of an evaluation's ``metrics.json``.

    Maps have the matrix of their classes. Labels have one of pairs of patch and class, at the thresholds: a patch has
    several labels, so that no class is mistaken for another one. Labels are those of the last input, which is both
    sensors together if there are two.
    """
    found = ClassFigures([], [], [], [], [])
    if "labels" in metrics:
        one = list(metrics["labels"]["inputs"].values())[-1]
        sums = [[sum(cell[row][column] for cell in one["confusion"]) for column in (0, 1)] for row in (0, 1)]
        roc = one["curves"]["roc"]
        # Kubeflow draws the points in their order and takes no infinity.
        found = ClassFigures(list(BINARY), sums, roc["fpr"], roc["tpr"], [min(1.0, t) for t in roc["threshold"]])
    if "pixels" in metrics:
        pixels = metrics["pixels"]
        found = ClassFigures(list(pixels["classes"]), pixels["confusion"], found.fpr, found.tpr, found.threshold)
    return found
