"""Table, curves and verdict of the regression benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import fmean, stdev
from typing import Any

from eoforge.report import Html, figure, page, section, table

MEASURES = ("rmse", "mae", "r2", "coverage", "width")
OURS, PLAIN = "dml_s2r", "supervised"
Row = Mapping[str, Any]


def summary(cells: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean and deviation over the seeds, by data set, share of labels and system."""

    def key(cell: Row) -> tuple[Any, ...]:
        return cell["data"], cell["share"], cell["system"]

    rows = []
    for (data, share, system), group in groupby(sorted(cells, key=key), key):
        several = list(group)
        tests = {name: [cell["test"][name] for cell in several] for name in MEASURES}
        rows.append(
            {
                "data": data,
                "share": share,
                "labels": several[0]["labels"],
                "system": system,
                "seeds": len(several),
                "cpu_seconds": fmean(cell["cpu_seconds"] for cell in several),
                "mean": {name: fmean(values) for name, values in tests.items()},
                "deviation": {name: stdev(values) if len(values) > 1 else 0.0 for name, values in tests.items()},
            }
        )
    return rows


def verdict(cells: Sequence[Row]) -> list[dict[str, Any]]:
    """DML-S2R against supervised training alone: RMSE and CPU time as ratios, and seeds that it wins."""
    found = {(c["data"], c["share"], c["system"], c["seed"]): c for c in cells}
    rows = []
    for data, share in sorted({(c["data"], c["share"]) for c in cells}):
        pairs = [
            (one, found[data, share, PLAIN, seed])
            for (d, s, system, seed), one in found.items()
            if (d, s, system) == (data, share, OURS) and (data, share, PLAIN, seed) in found
        ]
        if not pairs:
            continue
        errors = [(ours["test"]["rmse"], plain["test"]["rmse"]) for ours, plain in pairs]
        rows.append(
            {
                "data": data,
                "share": share,
                "rmse_ratio": fmean(e[0] for e in errors) / fmean(e[1] for e in errors),
                "seeds_won": sum(ours < plain for ours, plain in errors),
                "seeds": len(errors),
                "coverage": fmean(ours["test"]["coverage"] for ours, _ in pairs),
                "cost_ratio": fmean(o["cpu_seconds"] for o, _ in pairs) / fmean(p["cpu_seconds"] for _, p in pairs),
            }
        )
    return rows


def table_text(rows: Sequence[Row]) -> str:
    """The table as text: one line per data set, share and system."""
    lines = [f"{'data':13} {'share':>5} {'n':>4} {'system':14}" + "".join(f" {m:>17}" for m in MEASURES) + "   CPU s"]
    for row in rows:
        values = "".join(f" {_shown(row, m):>17}" for m in MEASURES)
        head = f"{row['data']:13} {row['share']:5g} {row['labels']:4} {row['system']:14}"
        lines.append(f"{head}{values} {row['cpu_seconds']:7.2f}")
    return "\n".join(lines)


def _shown(row: Row, measure: str) -> str:
    return f"{row['mean'][measure]:.3f} +- {row['deviation'][measure]:.3f}"


def report_page(result: Mapping[str, Any]) -> str:
    """The page: curves of each data set, then the whole table."""
    sections = []
    for data in sorted({row["data"] for row in result["rows"]}):
        rows = [row for row in result["rows"] if row["data"] == data]
        body = [
            (row["share"], row["labels"], row["system"], *(_shown(row, m) for m in MEASURES), row["cpu_seconds"])
            for row in rows
        ]
        whole = table(("share", "labels", "system", *MEASURES, "CPU seconds"), body)
        sections.append(section(data, *(_curve(rows, m) for m in ("rmse", "r2", "coverage")), whole))
    lead = f"Means and deviations over {result['seeds']} seeds; settings {result['settings']}."
    return page("Regression from few labels", lead, sections, "Measured on the test set after the last epoch.")


def _curve(rows: Sequence[Row], measure: str) -> Html:
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 4))
    axes = drawing.subplots()
    for name in dict.fromkeys(row["system"] for row in rows):
        points = [(r["share"], r["mean"][measure], r["deviation"][measure]) for r in rows if r["system"] == name]
        shares, means, spread = zip(*points, strict=True)
        wide = 2.5 if name in (OURS, PLAIN) else 1.0
        axes.errorbar(shares, means, yerr=spread, label=name, linewidth=wide, capsize=2)
    if measure == "coverage":
        axes.axhspan(0.85, 0.95, alpha=0.15)
    axes.set(xlabel="share of labels", ylabel=measure, xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    return figure(drawing, measure)
