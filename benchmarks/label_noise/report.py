"""Table and curves of the label-noise benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.label_noise.claims import ours
from eoforge.report import Html, figure, page, section, table

MEASURES = (
    "map_macro",
    "f1_macro",
    "ndcg@20",
    "iou_macro",
    "detection_auroc",
    "detection_precision",
    "label_auroc",
    "label_precision",
)
"""Of the head, of the features, and of the detection of wrong samples and of wrong given labels (mean over classes)."""
Row = Mapping[str, Any]


def table_text(rows: Sequence[Row]) -> str:
    """The table as text: one line per data set, kind, rate and objective."""
    lines = [f"{'data':10} {'kind':13} {'rate':>4} {'row':20} " + " ".join(f"{m:>19}" for m in MEASURES) + "  cost"]
    for row in rows:
        cost = _cost(rows, row)
        values = " ".join(f"{_shown(row, m):>19}" for m in MEASURES)
        lines.append(f"{row['data']:10} {row['kind']:13} {row['rate']:4g} {row['objective']:20} {values} {cost:5.2f}")
    return "\n".join(lines)


def _shown(row: Row, measure: str) -> str:
    if measure not in row["mean"]:
        return "-"
    return f"{row['mean'][measure]:.3f} +- {row['deviation'][measure]:.3f}"


def _cost(rows: Sequence[Row], row: Row) -> float:
    """CPU seconds over those of the plain loss on the same labels; 1 without a row of the plain loss."""
    same = [r for r in rows if all(r[k] == row[k] for k in ("data", "kind", "rate"))]
    plain = next((r for r in same if r["objective"] == "plain"), row)
    return float(row["cpu_seconds"] / plain["cpu_seconds"])


def report_page(result: Mapping[str, Any]) -> str:
    """The page: a curve per measure and data set, then the whole table."""
    rows = result["rows"]
    sections = []
    for data, kind in sorted({(row["data"], row["kind"]) for row in rows}):
        chosen = [row for row in rows if (row["data"], row["kind"]) == (data, kind)]
        measures = [m for m in MEASURES if any(m in row["mean"] for row in chosen)]
        pictures = [_curve(chosen, measure) for measure in measures]
        body = [
            (row["rate"], row["objective"], *(_shown(row, m) for m in measures), row["cpu_seconds"], _cost(chosen, row))
            for row in chosen
        ]
        whole = table(("rate", "row", *measures, "CPU seconds", "of the plain loss"), body)
        sections.append(section(f"{data}, {kind}", *pictures, whole, _by_class(chosen)))
    lead = f"Means and deviations over {result['seeds']} seeds; training {result['training']}."
    return page("Label noise", lead, sections, "Measured on clean labels after the last epoch.")


def _by_class(rows: Sequence[Row]) -> Html:
    """Detection per class at the largest rate: AUROC and precision of the given labels of that class."""
    rate = max(row["rate"] for row in rows)
    last = [row for row in rows if row["rate"] == rate and row["classes"]]
    names = list(dict.fromkeys(name for row in last for name in row["classes"]))
    body = [
        (
            name,
            *(
                f"{row['classes'][name]['auroc']:.2f} / {row['classes'][name]['precision']:.2f}"
                for row in last
                if name in row["classes"]
            ),
        )
        for name in names
        if all(name in row["classes"] for row in last)
    ]
    return table((f"class, rate {rate:g} (AUROC / precision)", *(row["objective"] for row in last)), body)


def _curve(rows: Sequence[Row], measure: str) -> Html:
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 4))
    axes = drawing.subplots()
    for name in dict.fromkeys(row["objective"] for row in rows):
        points = [
            (r["rate"], r["mean"][measure], r["deviation"][measure])
            for r in rows
            if r["objective"] == name and measure in r["mean"]
        ]
        if points:
            rates, means, spread = zip(*points, strict=True)
            wide = 2.5 if name == "plain" or ours(name) else 1.0
            axes.errorbar(rates, means, yerr=spread, label=name, linewidth=wide, capsize=2)
    axes.set(xlabel="noise rate", ylabel=measure)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    return figure(drawing, measure)
