"""Model card of a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eoforge.bundle.revision import code_revision
from eoforge.report import markdown


def model_card(
    title: str,
    opening: str,
    *,
    measured: str,
    figures: Mapping[str, Any],
    trained_on: str = "",
    bands: Mapping[str, Sequence[str]] | None = None,
    silos: Mapping[str, int] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Model card in Markdown; a section without content is left out.

    Args:
        title: Name of the method.
        opening: Purpose of the model, in Markdown.
        measured: Sentence on the data of the figures.
        figures: Metrics; only numbers and texts are shown.
        trained_on: Training data, in Markdown.
        bands: Bands by sensor, in channel order.
        silos: Training patches by silo.
        settings: Configuration of the training run.
    """
    scalars = {name: value for name, value in figures.items() if isinstance(value, int | float | str)}
    parts = [f"# {markdown(title)}", opening]
    if trained_on:
        parts.append(f"Trained on {trained_on} by code revision `{code_revision()}`.")
    if bands:
        parts += ["## Input", "Bands in this order, on their native grids, normalised as `config.json` says:"]
        lines = (f"- {markdown(sensor)}: {markdown(', '.join(names))}" for sensor, names in bands.items())
        parts.append("\n".join(lines))
    if scalars:
        parts += ["## Figures", f"{measured} They say nothing about other archives."]
        parts.append(
            _table("figure", "value", ((k, round(v, 4) if isinstance(v, float) else v) for k, v in scalars.items()))
        )
    if silos:
        parts += ["## Silos", _table("silo", "patches", silos.items())]
    if settings:
        parts += ["## Settings", _table("setting", "value", settings.items())]
    return "\n\n".join(parts) + "\n"


def _table(name: str, value: str, rows: Iterable[tuple[str, Any]]) -> str:
    shown = (f"| {markdown(key)} | {markdown(cell)} |" for key, cell in rows)
    return "\n".join([f"| {name} | {value} |", "| --- | --- |", *shown])
