"""Ablation of the contrast between sensors (MIM) in CSMAE: SECD with and without it, and untrained, on one table.

Every system is trained on the table's train split and asked across sensors, validation patches as queries and test
patches as archive; the exact partner is looked for within the test split. Figures are means of both directions.

    python -m benchmarks.methods.csmae_ablation --data TABLE [--seeds 3] [--work DIR] [--out FILE] [key=value ...]

A work folder that is kept lets an interrupted ablation go on where it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from eoforge.methods import get_method
from eoforge.methods.evaluation.retrieval import EMBEDDING, TRAINED, UNTRAINED, Evaluation, measure
from eoforge.storage.addresses import TableRef

K = 10
MEASURES = (f"f1_of_means@{K}", f"partner_recall@{K}", f"map_jaccard50_archive@{K}")
ARMS = {"with MIM": "1.0", "without MIM": "0.0"}
ACROSS = ("s1_to_s2", "s2_to_s1")


def row(system: str, seed: int, measured: Evaluation, of: str) -> dict[str, Any]:
    """Figures of one system, means of both directions."""
    by_direction = measured.measures[of]
    figures = {name: sum(by_direction[d][name] for d in ACROSS) / len(ACROSS) for name in MEASURES}
    return {"system": system, "seed": seed, **{name: round(value, 4) for name, value in figures.items()}}


def ablate(data: TableRef, work: str, preset: str, seeds: int, overrides: dict[str, str]) -> list[dict[str, Any]]:
    """Rows of all variants and seeds, each trained and measured."""
    method = get_method("csmae")
    rows = []
    for seed in range(seeds):
        for arm, weight in ARMS.items():
            chosen = {**overrides, "variant": "secd", "mim_weight": weight, "seed": str(seed)}
            bundle = method.train(data, work, method.config(preset, chosen))
            measured = measure(bundle, data, k=K)
            rows.append(row(f"{arm}, codes", seed, measured, TRAINED))
            rows.append(row(f"{arm}, features", seed, measured, EMBEDDING))
            print(rows[-2], rows[-1], sep="\n", flush=True)
        rows.append(row("untrained, codes", seed, measured, UNTRAINED))
        print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: mean, minimum and maximum over seeds."""
    lines = [f"| system | {' | '.join(MEASURES)} |", "| --- " * (1 + len(MEASURES)) + "|"]
    for system in dict.fromkeys(r["system"] for r in rows):
        cells = []
        for name in MEASURES:
            values = [r[name] for r in rows if r["system"] == system]
            cells.append(f"{sum(values) / len(values):.3f} ({min(values):.3f}-{max(values):.3f})")
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="CSMAE with and without its contrast between sensors.")
    parser.add_argument("--data", required=True, help="patches table, URI[@version]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--work", help="folder of the runs; a temporary one by default")
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    overrides = dict(pair.split("=", 1) for pair in options.overrides)
    with tempfile.TemporaryDirectory() as scratch:
        data = TableRef.parse(options.data)
        rows = ablate(data, options.work or scratch, options.preset, options.seeds, overrides)
    print(table(rows))
    if options.out:
        figures = {"data": str(data), "preset": options.preset, "overrides": overrides, "rows": rows}
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
