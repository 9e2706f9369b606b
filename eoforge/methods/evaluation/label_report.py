"""Parts of the report on labels: countries, seasons, calibration, confusion and curves of one input."""

from __future__ import annotations

from typing import Any

from eoforge.data.labels import CLASSES
from eoforge.methods.evaluation.charts import COLOURS, chart
from eoforge.methods.evaluation.label_details import LabelDetails
from eoforge.report import Html, element, figure, table

_GROUP_MEASURES = {"map_macro": "mAP macro", "map_micro": "mAP micro", "f1_macro": "F1 macro", "f1_micro": "F1 micro"}


def detail_parts(details: LabelDetails, name: str) -> list[object]:
    """Headings, tables and charts of one input."""
    parts: list[object] = []
    for key, groups in details.groups.items():
        rows = [(group, *(one.get(k, "–") for k in ("patches", *_GROUP_MEASURES))) for group, one in groups.items()]
        parts += [
            element("h3", f"By {key}, {name}"),
            table((key, "patches", *_GROUP_MEASURES.values()), rows),
        ]
    found = details.calibration
    source = "of the bundle" if found["fitted"] else "neutral: the bundle has none"
    note = (
        f"Temperature {found['temperature']:.3f} and thresholds per class ({source}). Expected calibration error over "
        f"all pairs of patch and class, 15 bins: {found['ece_raw']:.4f} before, {found['ece']:.4f} after the "
        f"temperature. F1 at the thresholds: macro {found['f1_macro']:.4f}, micro {found['f1_micro']:.4f}, weighted "
        f"{found['f1_weighted']:.4f}."
    )
    rows = [
        (label, found["thresholds"][label], tp, fp, fn, tn)
        for label, ((tn, fp), (fn, tp)) in zip(CLASSES, details.confusion, strict=True)
    ]
    parts += [
        element("h3", f"Calibration and confusion, {name}"),
        element("p", note, class_="soft"),
        table(("class", "threshold", "found", "false", "missed", "rightly absent"), rows),
        element("h3", f"Curves, {name}"),
        _curves(details.curves),
    ]
    return parts


def _curves(curves: dict[str, Any]) -> Html:
    """Precision over recall of the classes, and the receiver operating characteristic over all of them."""
    fig, (left, right) = chart(2, (10, 4))
    for label in CLASSES:
        left.plot(curves["recall"][label], curves["precision"][label], lw=1, alpha=0.7, label=label[:28])
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    left.legend(fontsize=5, ncols=2, frameon=False)
    right.plot(curves["roc"]["fpr"], curves["roc"]["tpr"], color=COLOURS["accent"])
    right.plot((0, 1), (0, 1), color=COLOURS["line"])
    right.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.02))
    return figure(fig, "Left: precision over recall of each class. Right: all pairs of patch and class together.")
