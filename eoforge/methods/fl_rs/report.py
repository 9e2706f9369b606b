"""Report of the comparison: an HTML page with tables, plots and recommendation, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eoforge.methods.seeds import figure_text, lead_text, page_axes
from eoforge.report import Html, element, figure, page, section, table, tiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUALITY = ("f1_micro", "f1_macro", "f1_weighted", "map_micro", "map_macro")
_MARKERS = "os^vDPX*<>"


def print_table(result: Mapping[str, Any]) -> None:
    """Output of quality and cost of every run, and of the recommendation, in the terminal."""
    from rich.console import Console
    from rich.table import Table

    shown = Table("scenario", "backbone", "algorithm", *_QUALITY, "ms/patch", "agg s", "rounds", "MB/round")
    for run in result["runs"]:
        shown.add_row(
            run["scenario"],
            run["backbone"],
            run["algorithm"],
            *(figure_text(run, name) for name in _QUALITY),
            f"{run['local_ms_per_patch']:.2f}",
            f"{run['aggregation_seconds']:.3f}",
            str(run["rounds_to_target"] or "-"),
            f"{run['bytes_per_round'] / 1e6:.2f}",
        )
    console = Console(width=160)
    console.print(shown)
    for advice in result["recommendation"]:
        console.print(_sentence(advice))


def comparison_page(result: Mapping[str, Any]) -> str:
    """Self-contained HTML document of a comparison."""
    runs: Sequence[Mapping[str, Any]] = result["runs"]
    scenarios = list(dict.fromkeys((r["scenario"], r["backbone"]) for r in runs))
    figures = {
        "runs": str(len(runs)),
        "algorithms": str(len({r["algorithm"] for r in runs})),
        "scenarios": str(len({r["scenario"] for r in runs})),
        "backbones": str(len({r["backbone"] for r in runs})),
    }
    parts: list[object] = [tiles(figures)]
    parts.append(section("Recommendation", *(element("p", _sentence(advice)) for advice in result["recommendation"])))
    for scenario, backbone in scenarios:
        chosen = [r for r in runs if (r["scenario"], r["backbone"]) == (scenario, backbone)]
        parts.append(
            section(
                f"{scenario}, {backbone}: {chosen[0]['silos']} silos",
                _run_table(chosen),
                figure(_curves(chosen), "Validation F1 (micro) of the global model after every round"),
                element("h3", "Silos"),
                _skew_table(chosen[0]["skew"]),
            )
        )
    parts.append(
        section(
            "Cost against quality",
            figure(_scatter(runs), "Test F1 (weighted) over bytes per round; one mark per run, one sign per scenario"),
        )
    )
    parts.append(section("Cost against the number of silos", _scaling_table(result["scaling"]), _scaling(result)))
    footer = (
        "All figures are measured: F1 and mAP on the test split of the same countries and months, times on this "
        "machine, bytes of the transferred tensors. Rounds to target: until validation F1 (micro) stays at 95 % of "
        "FedAvg's best. The figures compare algorithms on this table; they are not those of any paper."
    )
    return page("Federated algorithms compared", lead_text(result), parts, footer)


def _sentence(advice: Mapping[str, Any]) -> str:
    text = (
        f"{advice['scenario']} ({advice['backbone']}, label divergence {advice['label_divergence']:.3f} bit): best is "
        f"{advice['best']} with weighted F1 {advice['best_f1_weighted']:.3f}."
    )
    if advice["recommended"] != advice["best"]:
        text += (
            f" Take {advice['recommended']}: {advice['recommended_f1_weighted']:.3f} is as good within "
            f"{advice['within']:.3f}, for {advice['because']}."
        )
    if advice["fewest_rounds"]:
        text += f" Fewest rounds to the target: {advice['fewest_rounds']}."
    return text


def _run_table(runs: Sequence[Mapping[str, Any]]) -> Html:
    header = [
        "algorithm",
        *_QUALITY,
        "own-model F1 weighted",
        "local ms/patch",
        "aggregation s",
        "rounds to target",
        "MB/round",
        "x model",
    ]
    rows = [
        [
            run["algorithm"],
            *(figure_text(run, name) for name in _QUALITY),
            run["personal"].get("f1_weighted", ""),
            f"{run['local_ms_per_patch']:.2f}",
            run["aggregation_seconds"],
            run["rounds_to_target"] or "not reached",
            f"{run['bytes_per_round'] / 1e6:.2f}",
            f"{run['bytes_factor']:.2f}",
        ]
        for run in runs
    ]
    return table(header, rows)


def _skew_table(skew: Mapping[str, Any]) -> Html:
    columns = ("silo", "patches", "share", "labels_per_patch", "classes", "label_divergence")
    rows = [[*(row[c] for c in columns), ", ".join(row["seasons"])] for row in skew["silos"]]
    return table([*(c.replace("_", " ") for c in columns), "seasons"], rows)


def _scaling_table(scaling: Sequence[Mapping[str, Any]]) -> Html:
    counts = scaling[0]["silos"]
    header = [
        "algorithm",
        *(f"ms, {n} silos" for n in counts),
        "grows like N^",
        f"server state, {counts[-1]} silos, MB",
    ]
    rows = [
        [
            s["algorithm"],
            *(f"{1e3 * x:.1f}" for x in s["seconds"]),
            f"{s['exponent']:.2f}",
            f"{s['state_bytes'][-1] / 1e6:.1f}",
        ]
        for s in scaling
    ]
    return table(header, rows)


def _scaling(result: Mapping[str, Any]) -> Html:
    fig, axes = page_axes()
    for scaling, marker in zip(result["scaling"], _MARKERS * 2, strict=False):
        axes.loglog(scaling["silos"], scaling["seconds"], marker=marker, label=scaling["algorithm"])
    axes.set(xlabel="silos", ylabel="seconds per reduction")
    axes.legend(fontsize=8)
    return figure(fig, "Time of the server's reduction over the number of silos")


def _curves(runs: Sequence[Mapping[str, Any]]) -> Figure:
    fig, axes = page_axes()
    for run, marker in zip(runs, _MARKERS * 2, strict=False):
        axes.plot(range(1, len(run["curve"]) + 1), run["curve"], marker=marker, ms=4, label=run["algorithm"])
    axes.set(xlabel="round", ylabel="F1 micro")
    axes.legend(fontsize=8)
    return fig


def _scatter(runs: Sequence[Mapping[str, Any]]) -> Figure:
    fig, axes = page_axes()
    for scenario, marker in zip(dict.fromkeys(r["scenario"] for r in runs), _MARKERS, strict=False):
        chosen = [r for r in runs if r["scenario"] == scenario]
        points = [(r["bytes_per_round"] / 1e6, r["test"]["f1_weighted"]) for r in chosen]
        axes.scatter(*zip(*points, strict=True), marker=marker, label=scenario)
        for run, point in zip(chosen, points, strict=True):
            axes.annotate(run["algorithm"], point, fontsize=7, xytext=(3, 3), textcoords="offset points")
    axes.set(xlabel="MB per round", ylabel="F1 weighted", xscale="log")
    axes.legend(fontsize=8)
    return fig
