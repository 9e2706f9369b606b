"""Report of a federated run: curves and a table of its rounds, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eoforge.report import Html, figure, page, section, table, tiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eoforge.api.federation.v1 import federation_pb2 as pb

CURVES = ("f1_micro", "f1_macro", "map_micro", "map_macro")
"""Evaluation figures of the curves, if silos report them; the table has all figures."""


def run_page(run: pb.Run) -> str:
    """Self-contained HTML document of a finished run."""
    history = list(run.history)
    facts = {
        "rounds": str(len(history)),
        "silos": str(len({silo for summary in history for silo in summary.silos})),
        "updates that counted": str(sum(summary.updates for summary in history)),
        "megabytes up": f"{sum(summary.bytes_up for summary in history) / 1e6:,.1f}",
    }
    if run.epsilon:
        facts["epsilon spent"] = f"{run.epsilon:.3g}"
    lead = f"{run.spec.method} with {run.spec.strategy}, run {run.run_id}"
    return page("Federated training", lead, [tiles(facts), *sections(history)], f"Run bundle: {run.bundle_uri}")


def sections(history: Sequence[pb.RoundSummary]) -> list[Html]:
    """Curves and table of the rounds; empty for a run that ended before its first one."""
    if not history:
        return []
    return [
        section(
            "Training",
            figure(_curves(history), "Loss while training, and figures on the silos' validation patches"),
        ),
        section("Rounds", _rounds(history)),
    ]


def _rounds(history: Sequence[pb.RoundSummary]) -> Html:
    names = sorted({name for summary in history for name in summary.evaluation})
    header = ("round", "updates", "refused", "stragglers", "collecting s", "reducing s", "MB up", *names)
    rows = [
        (
            summary.number,
            summary.updates,
            summary.refused,
            ", ".join(summary.stragglers) or "none",
            float(summary.seconds["collect"]),
            float(summary.seconds["reduce"]),
            summary.bytes_up / 1e6,
            *(float(summary.evaluation[name]) if name in summary.evaluation else "" for name in names),
        )
        for summary in history
    ]
    return table(header, rows)


def _curves(history: Sequence[pb.RoundSummary]) -> Figure:
    from matplotlib.figure import Figure

    fig = Figure(figsize=(9, 3.2))
    left, right = fig.subplots(1, 2)
    trained = [(s.number, s.training["loss"]) for s in history if "loss" in s.training]
    left.plot([n for n, _ in trained], [loss for _, loss in trained], marker="o")
    left.set(xlabel="round", ylabel="training loss, mean over samples")
    for name in CURVES:
        points = [(s.number, s.evaluation[name]) for s in history if name in s.evaluation]
        if points:
            right.plot([n for n, _ in points], [v for _, v in points], marker="o", label=name)
    right.set(xlabel="round", ylabel="validation", ylim=(0, 1))
    if right.get_lines():
        right.legend()
    return fig
