"""Table, curves and claims of the benchmark of active learning."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from benchmarks.anneal.cell import ALL
from eoforge.methods.anneal.figures import HITS
from eoforge.report import Html, figure, page, section, table

MAP, NDCG, R_PRECISION = f"map@{HITS}", f"ndcg@{HITS}", "r_precision"
MEASURES = (MAP, NDCG, R_PRECISION)
COSTS = ("decisions", "bits", "seconds")
OURS = ("anneal bcgue", "anneal mgue")
HALVES = {"anneal bcgue": ("bcgue alone", "diversity alone"), "anneal mgue": ("mgue alone", "diversity alone")}
RANDOM = "random"
Row = Mapping[str, Any]


def area(points: Sequence[Row], measure: str = MAP) -> float:
    """Mean height of a curve over the decisions, by the trapezoidal rule."""
    pairs = list(itertools.pairwise(points))
    if not pairs:
        return float(points[0][measure])
    covered = sum((b["decisions"] - a["decisions"]) * (a[measure] + b[measure]) / 2 for a, b in pairs)
    return float(covered / (points[-1]["decisions"] - points[0]["decisions"]))


def summary(cells: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean and deviation over the seeds of every point and of the area, by data set and strategy."""

    def key(cell: Row) -> tuple[str, str]:
        return cell["data"], cell["name"]

    rows = []
    for (data, name), group in itertools.groupby(sorted(cells, key=key), key):
        several = list(group)
        points = [
            {
                m: _spread([each[m] for each in point]) if m in MEASURES else fmean(each[m] for each in point)
                for m in point[0]
            }
            for point in zip(*(cell["points"] for cell in several), strict=True)
        ]
        areas = {m: _spread([area(cell["points"], m) for cell in several]) for m in MEASURES}
        cpu = fmean(cell["cpu_seconds"] for cell in several)
        rows.append(
            {"data": data, "name": name, "seeds": len(several), "cpu_seconds": cpu, "area": areas, "points": points}
        )
    return rows


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def claims(cells: Sequence[Row]) -> list[dict[str, Any]]:
    """What must come out, by data set and variant of the method.

    Points: at how many batches after the common first one the mean over the seeds lies above that of a baseline. Seeds:
    for how many seeds the area under the curve lies above that of random pairs.
    """
    found = []
    for data in dict.fromkeys(cell["data"] for cell in cells):
        by = {(cell["name"], cell["seed"]): cell["points"] for cell in cells if cell["data"] == data}
        seeds = sorted({seed for _, seed in by})
        names = {name for name, _ in by}
        for ours in (name for name in OURS if name in names and RANDOM in names):
            mine = _means([by[ours, seed] for seed in seeds])[1:]
            points = {}
            for other in (RANDOM, *HALVES[ours]):
                if other in names:
                    theirs = _means([by[other, seed] for seed in seeds])[1:]
                    points[other] = f"{sum(a > b for a, b in zip(mine, theirs, strict=True))} of {len(mine)}"
            better = sum(area(by[ours, seed]) > area(by[RANDOM, seed]) for seed in seeds)
            found.append(
                {
                    "data": data,
                    "method": ours,
                    "points_above": points,
                    "area_above_random": f"{better} of {len(seeds)} seeds",
                }
            )
    return found


def _means(curves: Sequence[Sequence[Row]]) -> list[float]:
    return [fmean(each[MAP] for each in point) for point in zip(*curves, strict=True)]


def table_text(rows: Sequence[Row]) -> str:
    """The table as text: area under the curve of mAP, then mAP at every point, and the other measures at the end."""
    lines = [f"{'data':10} {'strategy':16} {'area':>14} {'CPU s':>6}  {MAP} by decisions; last {NDCG}, {R_PRECISION}"]
    for row in rows:
        curve = " ".join(f"{p['decisions']:.0f}:{p[MAP][0]:.3f}" for p in row["points"])
        last = row["points"][-1]
        mean, spread = row["area"][MAP]
        lines.append(
            f"{row['data']:10} {row['name']:16} {mean:.4f}+-{spread:.4f} {row['cpu_seconds']:6.1f}  {curve}; "
            f"{last[NDCG][0]:.3f}, {last[R_PRECISION][0]:.3f}"
        )
    return "\n".join(lines)


def report_page(result: Mapping[str, Any]) -> str:
    """The page: curves of each measure by each cost, and the table."""
    sections = []
    for data in dict.fromkeys(row["data"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["data"] == data]
        pictures = [_curves(rows, measure) for measure in MEASURES]
        body = [
            (row["name"], *(f"{row['area'][m][0]:.3f} ± {row['area'][m][1]:.3f}" for m in MEASURES), row["cpu_seconds"])
            for row in rows
        ]
        whole = table(("strategy", *(f"area of {m}" for m in MEASURES), "CPU seconds"), body)
        sections.append(section(data, whole, *pictures))
    sections.append(section("Settings", table(("setting", "value"), result["config"].items())))
    lead = f"Means over {len(result['seeds'])} seeds; the shade is one standard deviation. Dashed: baselines."
    return page("Active learning from pairs", lead, sections, "Queries: test split. Gallery: training split.")


def _curves(rows: Sequence[Row], measure: str) -> Html:
    """Curves of one measure by each cost."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11.5, 3.8), layout="constrained")
    plots = drawing.subplots(1, len(COSTS), sharey=True)
    for axes, cost in zip(plots, COSTS, strict=True):
        for row in rows:
            means, spreads = zip(*(point[measure] for point in row["points"]), strict=True)
            if row["name"] == ALL:
                axes.axhline(means[-1], color="black", linestyle=":", label=ALL)
                continue
            costs = [point[cost] for point in row["points"]]
            width, style = (2.5, "-") if row["name"] in OURS else (1.2, "--")
            (line,) = axes.plot(costs, means, label=row["name"], linewidth=width, marker=".", linestyle=style)
            band = ([mean + sign * spread for mean, spread in zip(means, spreads, strict=True)] for sign in (-1, 1))
            axes.fill_between(costs, *band, color=line.get_color(), alpha=0.1, linewidth=0)
        axes.set(xlabel=cost)
        axes.grid(alpha=0.3)
    title = measure.replace("_", " ")
    plots[0].set(ylabel=title)
    drawing.legend(*plots[0].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=8)
    return figure(drawing, f"{title} by {', '.join(COSTS)}")
