"""What must come out of the table, checked on its rows: each claim with the figures that decide it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.label_noise.variants import EQUAL_COST
from eoforge.methods.noise_robust.settings import GRID, SVAE

HEAD = ("map_macro", "f1_macro", "ndcg@20", "iou_macro")
"""Measures of the trained network, the last one of maps; the others are of detection."""
DETECTION = ("detection_auroc", "label_auroc")
Row = Mapping[str, Any]


def ours(name: str) -> bool:
    """Whether a row is a variant of GRID or RS-IRL-SVAE."""
    return name.startswith((GRID, SVAE))


def conclusions(rows: Sequence[Row]) -> dict[str, Any]:
    """Answers by data set and kind of noise; those that the rows cannot decide are left out."""
    return {
        f"{data}, {kind}": _of([row for row in rows if (row["data"], row["kind"]) == (data, kind)])
        for data, kind in sorted({(row["data"], row["kind"]) for row in rows})
    }


def _of(rows: Sequence[Row]) -> dict[str, Any]:
    at = {(row["rate"], row["objective"]): row for row in rows}
    rates = sorted({row["rate"] for row in rows})
    names = sorted({row["objective"] for row in rows if ours(row["objective"])})
    found: dict[str, Any] = {}
    for name in names:
        pairs = {
            rate: (at[rate, name], at[rate, "plain"]) for rate in rates if {(rate, name), (rate, "plain")} <= at.keys()
        }
        if not pairs:
            continue
        answers: dict[str, Any] = {"gain": {f"{rate:g}": _gains(*pair) for rate, pair in pairs.items()}}
        if 0.0 in pairs:
            answers["no_worse_without_noise"] = not_worse(*pairs[0.0])
        if 0.4 in pairs:
            answers["not_below_plain_at_40"] = not_worse(*pairs[0.4])
            answers["best_at_40_by"] = best_by(name, at, 0.4)
        if noisy := [rate for rate in pairs if rate >= 0.3]:
            means = [pairs[rate][0]["mean"] for rate in noisy]
            answers["precision_over_chance"] = {
                f"{rate:g}": mean["label_precision"] / mean["label_chance"]
                for rate, mean in zip(noisy, means, strict=True)
                if "label_precision" in mean
            }
        found[name] = answers
    return found


def _gains(row: Row, plain: Row) -> dict[str, float]:
    return {m: row["mean"][m] - plain["mean"][m] for m in HEAD if m in row["mean"]}


def not_worse(row: Row, plain: Row) -> dict[str, bool]:
    """By measure: whether a row's mean is at most one deviation (the larger of both) below that of the plain loss."""
    margins = {m: max(row["deviation"][m], plain["deviation"][m]) for m in HEAD if m in row["mean"]}
    return {m: bool(row["mean"][m] >= plain["mean"][m] - margin) for m, margin in margins.items()}


def best_by(name: str, at: Mapping[tuple[float, str], Row], rate: float) -> list[str]:
    """Measures by which a row beats every baseline that trains one network once."""
    others = [at[rate, other] for other in EQUAL_COST if (rate, other) in at]
    mean = at[rate, name]["mean"]
    return [
        m
        for m in (*HEAD, *DETECTION)
        if m in mean and others and all(m in other["mean"] and mean[m] > other["mean"][m] for other in others)
    ]
