"""Report of training curves: losses of every step and metrics of every epoch, from the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eoforge.bundle import POSITION, read_steps, scalar_metrics, smoothed
from eoforge.report import Html, element, figure, page, section, table, tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from eoforge.bundle import Bundle

_COLOURS = ("#0b6e99", "#e2932f", "#7a4fa3", "#1a7f4b", "#b3412f", "#5b6875")
_SOFT, _LINE = "#5b6875", "#dfe5ea"
_COLUMNS = 3


def curves_html(bundle: Bundle) -> str:
    """Self-contained HTML page of the training of a bundle; sections without records are skipped."""
    steps = read_steps(bundle)
    epochs: Sequence[Mapping[str, float]] = bundle.metrics.get("history", [])
    patches = bundle.config["patches"]
    facts = {"steps": f"{len(next(iter(steps.values()), [])):,}", "epochs": f"{len(epochs):,}"}
    shown = {*epochs[0]} if epochs else set()  # the last table has these
    scalars = {name: value for name, value in scalar_metrics(bundle.metrics).items() if name not in shown}
    facts |= {name.replace("_", " "): f"{value:,.4g}" for name, value in scalars.items()}
    parts: list[object] = [tiles(dict(list(facts.items())[:8]))]
    if steps:
        parts.append(section("Every step", _steps(steps)))
    if epochs:
        names = [name for name in epochs[0] if name not in POSITION]
        parts.append(section("Every epoch", _epochs(epochs, names)))
        rows = [(int(row["epoch"]), *(float(row[name]) for name in names)) for row in epochs]
        parts.append(section("Figures", table(("epoch", *(n.replace("_", " ") for n in names)), rows)))
    if not steps and not epochs:
        parts.append(section("Nothing recorded", element("p", f"{bundle.uri} holds neither steps nor a history.")))
    lead = f"{bundle.config['method']}, bundle {bundle.short_id}"
    footer = (
        f"Trained on {patches['uri']} at version {patches['version']} by code revision "
        f"{bundle.config['code_revision']}; from {bundle.uri}."
    )
    return page("Training curves", lead, parts, footer)


def _steps(steps: Mapping[str, npt.NDArray[np.float64]]) -> Html:
    names = [name for name in steps if name not in POSITION]
    drawing, axes = _grid(len(names))
    for i, (name, one) in enumerate(zip(names, axes, strict=True)):
        values = steps[name]
        smooth = smoothed(values)
        one.plot(values, color=_COLOURS[i % 6], alpha=0.25, linewidth=0.8)
        one.plot(smooth, color=_COLOURS[i % 6], linewidth=1.6)
        one.set_title(f"{name.replace('_', ' ')}  {smooth[-1]:.4g}", fontsize=9, loc="left")
    return figure(drawing, "Thin: every step. Thick: moving average. The number is the last value of the average.")


def _epochs(epochs: Sequence[Mapping[str, float]], names: Sequence[str]) -> Html:
    drawing, axes = _grid(len(names))
    x = [row["epoch"] for row in epochs]
    for i, (name, one) in enumerate(zip(names, axes, strict=True)):
        values = [row[name] for row in epochs]
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
        one.plot(x, values, color=_COLOURS[i % 6], marker="o", markersize=3, linewidth=1.4)
        one.set_title(f"{name.replace('_', ' ')}  {values[-1]:.4g}", fontsize=9, loc="left")
    return figure(
        drawing, "Losses are means over the epoch's steps; validation figures come from the validation split."
    )


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    rows = -(-count // _COLUMNS)
    drawing = Figure(figsize=(10.5, 2.5 * rows), facecolor="white")
    axes = [drawing.add_subplot(rows, _COLUMNS, i + 1) for i in range(count)]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(_LINE)
        one.tick_params(colors=_SOFT, labelsize=8, length=0)
        one.grid(color=_LINE, linewidth=0.6)
    drawing.subplots_adjust(hspace=0.45, wspace=0.25)
    return drawing, axes
