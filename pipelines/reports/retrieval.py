"""Evaluation for Kubeflow: the page of ``eoforge eval``, its metrics, a Markdown table of them, and class figures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eoforge.bundle import load_bundle, scalar_metrics
from eoforge.report import markdown, markdown_code
from eoforge.storage.addresses import TableRef
from pipelines.reports.classes import ClassFigures, class_figures

METRICS, REPORT = "metrics.json", "report.html"


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation: HTML page, Markdown table, metrics, figures of classes."""

    html: str
    markdown: str
    metrics: dict[str, float]
    classes: ClassFigures


def evaluate_bundle(bundle_uri: str, table: str, version: str, k: int) -> Evaluation:
    """Evaluation of a bundle, as by ``eoforge eval``.

    Args:
        bundle_uri: Address of the bundle.
        table: Patches table.
        version: Version of the table; empty for the newest.
        k: Cut-off of the metrics.
    """
    from eoforge.methods.evaluation.run import evaluate

    bundle = load_bundle(bundle_uri)
    ref = TableRef(table, int(version) if version else None)
    with tempfile.TemporaryDirectory() as folder:
        result = evaluate(bundle, ref, k=k, out=folder)
        html = Path(folder, REPORT).read_text()
        classes = class_figures(json.loads(Path(folder, METRICS).read_text()))
    metrics = scalar_metrics(result)
    shown = metrics_markdown(f"{bundle.config['method']} {bundle.short_id}", ref, metrics)
    return Evaluation(html, shown, metrics, classes)


def metrics_markdown(title: str, table: TableRef, metrics: Mapping[str, Any]) -> str:
    """Markdown table of metrics."""
    lines = [
        f"# {markdown(title)}",
        "",
        f"{markdown_code(table)}: the test split; queries of retrieval from the validation split.",
        "",
    ]
    lines += ["| figure | value |", "| --- | ---: |"]
    lines += [f"| {markdown(name.replace('_', ' '))} | {_shown(value)} |" for name, value in metrics.items()]
    return "\n".join(lines) + "\n"


def _shown(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() and value > 1 else f"{value:.4f}"
