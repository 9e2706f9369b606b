"""Labels in detail: by country and season, calibration, confusion of each class, and curves.

Shape legend: N patches, L classes, P points of a curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eoforge.data.labels import CLASSES
from eoforge.data.loading.batch import SEASONS
from eoforge.data.tables.schema import sql_list
from eoforge.methods.calibration import Calibration
from eoforge.metrics.calibration import expected_calibration_error
from eoforge.metrics.multilabel import f1_of_labels, multilabel_figures
from eoforge.storage.addresses import TableRef, open_table

POINTS = 101
"""Thresholds of the curves, from 0 to 1."""
_MONTHS = {month: season for season, months in SEASONS.items() for month in months}
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class LabelDetails:
    """Details of the labels from one input.

    Attributes:
        groups: ``country`` and ``season`` -> name -> patches, mAP and F1 (macro and micro).
        calibration: Temperature, thresholds, calibration error before (``ece_raw``) and after it (``ece``), and F1 at
            the thresholds.
        confusion: Per class, counts ``[[absent and not predicted, absent and predicted], [present and not predicted,
            present and predicted]]`` at the thresholds.
        curves: ``roc`` over all classes together (``fpr``, ``tpr``, ``threshold``), and ``precision`` and ``recall``
            per class.
    """

    groups: dict[str, dict[str, dict[str, float]]]
    calibration: dict[str, Any]
    confusion: list[list[list[int]]]
    curves: dict[str, Any]


def places_of(data: TableRef, split: str) -> dict[str, dict[str, str]]:
    """Country and season of every patch of a split by its name; "unknown" where a table has none."""
    condition = f"split IN ({sql_list((split,))})"
    rows = open_table(data).to_table(columns=["patch_id", "country", "acquired_s2"], filter=condition).to_pylist()
    return {
        row["patch_id"]: {
            "country": row["country"] or _UNKNOWN,
            "season": _MONTHS[row["acquired_s2"].month] if row["acquired_s2"] else _UNKNOWN,
        }
        for row in rows
    }


def details_of(
    logits_NL: Tensor, labels_NL: Tensor, places: Sequence[Mapping[str, str]], calibration: Calibration
) -> LabelDetails:
    """Details from logits, labels, and country and season of each patch."""
    probabilities_NL = calibration.probabilities(logits_NL)
    predicted_NL = calibration.labels(probabilities_NL)
    present_NL = labels_NL.bool()
    cells = (~present_NL & ~predicted_NL, ~present_NL & predicted_NL, present_NL & ~predicted_NL)
    tn_L, fp_L, fn_L, tp_L = (cell.sum(dim=0).tolist() for cell in (*cells, present_NL & predicted_NL))
    return LabelDetails(
        groups={key: _by_group(probabilities_NL, labels_NL, [p[key] for p in places]) for key in ("country", "season")},
        calibration={
            "temperature": calibration.temperature,
            "thresholds": dict(zip(CLASSES, calibration.thresholds, strict=True)),
            "fitted": calibration.fitted,
            "ece_raw": expected_calibration_error(logits_NL.sigmoid(), labels_NL),
            "ece": expected_calibration_error(probabilities_NL, labels_NL),
            **f1_of_labels(predicted_NL, labels_NL),
        },
        confusion=[[[tn, fp], [fn, tp]] for tn, fp, fn, tp in zip(tn_L, fp_L, fn_L, tp_L, strict=True)],
        curves=_curves(probabilities_NL, labels_NL),
    )


def _by_group(probabilities_NL: Tensor, labels_NL: Tensor, names: Sequence[str]) -> dict[str, dict[str, float]]:
    found = {}
    for name in sorted(set(names)):
        rows = torch.tensor([each == name for each in names])
        if not bool(labels_NL[rows].any()):
            continue  # no measure is defined
        figures = multilabel_figures(probabilities_NL[rows], labels_NL[rows])
        found[name] = {"patches": int(rows.sum()), **figures}
    return found


def _curves(probabilities_NL: Tensor, labels_NL: Tensor) -> dict[str, Any]:
    from torchmetrics.functional.classification import binary_roc, multilabel_precision_recall_curve

    labels = labels_NL.long()
    fpr, tpr, threshold = binary_roc(probabilities_NL.flatten(), labels.flatten(), thresholds=POINTS)
    precision_LP, recall_LP, _ = multilabel_precision_recall_curve(
        probabilities_NL, labels, labels.shape[1], thresholds=POINTS
    )
    return {
        "roc": {"fpr": fpr.tolist(), "tpr": tpr.tolist(), "threshold": threshold.tolist()},
        "precision": dict(zip(CLASSES, torch.as_tensor(precision_LP).tolist(), strict=True)),
        "recall": dict(zip(CLASSES, torch.as_tensor(recall_LP).tolist(), strict=True)),
    }
