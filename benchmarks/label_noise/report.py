"""Table and curves of the label-noise benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eoforge.report import Html, figure, page, section, table

MEASURES = ("map_macro", "f1_macro", "ndcg@20", "detection_auroc", "detection_precision")
Row = Mapping[str, Any]


def table_text(rows: Sequence[Row]) -> str:
    """The table as text: one line per data set, kind, rate and objective."""
    lines = [
        f"{'data':10} {'kind':13} {'rate':>4} {'objective':16} " + " ".join(f"{m:>19}" for m in MEASURES) + "  cost"
    ]
    for row in rows:
        cost = row["cpu_seconds"] / _plain(rows, row)["cpu_seconds"]
        values = " ".join(f"{_shown(row, m):>19}" for m in MEASURES)
        lines.append(f"{row['data']:10} {row['kind']:13} {row['rate']:4g} {row['objective']:16} {values} {cost:5.2f}")
    return "\n".join(lines)


def _shown(row: Row, measure: str) -> str:
    if measure not in row["mean"]:
        return "-"
    return f"{row['mean'][measure]:.3f} +- {row['deviation'][measure]:.3f}"


def _plain(rows: Sequence[Row], row: Row) -> Row:
    same = [r for r in rows if all(r[k] == row[k] for k in ("data", "kind", "rate"))]
    return next((r for r in same if r["objective"] == "plain"), row)


def report_page(result: Mapping[str, Any]) -> str:
    """The page: a curve per measure and data set, then the whole table."""
    rows = result["rows"]
    sections = []
    for data, kind in sorted({(row["data"], row["kind"]) for row in rows}):
        chosen = [row for row in rows if (row["data"], row["kind"]) == (data, kind)]
        pictures = [_curve(chosen, measure) for measure in MEASURES]
        body = [
            (row["rate"], row["objective"], *(_shown(row, m) for m in MEASURES), row["cpu_seconds"]) for row in chosen
        ]
        whole = table(("rate", "objective", *MEASURES, "CPU seconds"), body)
        sections.append(section(f"{data}, {kind}", *pictures, whole))
    lead = f"Means and deviations over {result['seeds']} seeds; training {result['training']}."
    return page("Label noise", lead, sections, "Measured on clean labels after the last epoch.")


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
            wide = 2.5 if name in ("plain", "grid", "rs_irl_svae") else 1.0
            axes.errorbar(rates, means, yerr=spread, label=name, linewidth=wide, capsize=2)
    axes.set(xlabel="noise rate", ylabel=measure)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    return figure(drawing, measure)
