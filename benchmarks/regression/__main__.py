"""Regression from few labels: systems x shares of labels x seeds, resumable per cell, with a table and curves.

    python -m benchmarks.regression [--data forest_share water_share diabetes] [--systems dml_s2r supervised ...]
        [--shares 0.01 0.05 0.1 0.2] [--seeds 5] [--patches 2400] [--cells FOLDER] [--report FILE.html] [--out FILE]

Finished cells are stored below ``--cells`` and not repeated. All systems have the same features, width, optimiser,
schedule and number of steps, and learn from every label. The intervals of DML-S2R and of supervised training come from
five folds, those of the others from two, which cost less. Nothing is chosen on the test set for the reported seeds. A
cell has at least 8 labels: 1 % of the diabetes study would be 3 patients.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.regression.report import OURS, PLAIN, report_page, summary, table_text, verdict
from benchmarks.regression.samples import NAMES, Samples, samples_of
from eoforge.methods.dml_s2r.config import SYSTEMS, Config
from eoforge.methods.dml_s2r.vectors import fit_vectors
from eoforge.metrics.regression import interval_figures, regression_figures
from eoforge.nn.seeds import derive_seed
from eoforge.progress import track

CODE = 2
"""Raised when the meaning of a cell changes, so that stored cells are not mixed."""
LEAST_LABELS = 8
EPOCHS = 11
"""Of every system; chosen on other seeds than those that are reported, for supervised training too."""
VARIANTS: dict[str, dict[str, Any]] = {
    "dml_s2r_plain": {"metric_weight": 1.0, "pair_weight": 0.0, "pseudo_weight": 0.0, "average": 0.0},
    "dml_s2r_labels": {"metric_weight": 0.0, "pseudo_weight": 0.0},
    "dml_s2r_pair": {"difference": "pair"},
    "dml_s2r_log_ratio": {"metric": "log_ratio", "metric_weight": 0.3},
}
"""DML-S2R as the plain alternation, without unlabelled inputs, with the other form of f^d, and with the other loss."""
NAMED = (*SYSTEMS, *VARIANTS)
OURS_ALONE = (
    "difference",
    "metric",
    "margin",
    "mining",
    "mined",
    "metric_weight",
    "pair_weight",
    "pseudo_weight",
    "alternate",
    "neighbours",
    "weights",
)
"""Settings that only DML-S2R reads; the cells of the others do not depend on them."""


def settings(name: str, seed: int, samples: Samples) -> Config:
    """Settings of a cell, by the name of a system or a variant."""
    chosen: dict[str, Any] = {"system": name} if name in SYSTEMS else VARIANTS[name]
    if name == "mean_teacher":
        chosen["average"] = 0.95  # runs are of a few hundred steps: a slower teacher would hold the network back
    if name not in (OURS, PLAIN):
        chosen["folds"] = 2
    start = replace(Config.tiny(), seed=seed, epochs=EPOCHS, target="value", low=samples.low, high=samples.high)
    return replace(start, **chosen)


def run_cell(samples: Samples, config: Config, share: float) -> dict[str, Any]:
    """Figures of one training on the test set, with its CPU time."""
    count = max(LEAST_LABELS, round(share * len(samples.values)))
    rows = np.random.default_rng(derive_seed("labels", config.seed)).permutation(len(samples.values))[:count]
    began = time.process_time()
    model = fit_vectors(config, samples.train, rows, samples.values[rows])
    seconds = time.process_time() - began
    found = model.predict(samples.test)
    value, lower, upper = (one.astype(float) for one in found[:3])
    figures = {**regression_figures(value, samples.truth), **interval_figures(lower, upper, samples.truth)}
    return {"labels": count, "cpu_seconds": seconds, "intervals": model.intervals.kind, "test": figures}


def cell_of(
    folder: Path, samples: Samples, data: str, name: str, config: Config, share: float, *, train: bool = True
) -> dict[str, Any] | None:
    """A cell's figures, from its file or by training; None if it is neither stored nor to be trained."""
    settings = {k: v for k, v in asdict(config).items() if config.system == "dml_s2r" or k not in OURS_ALONE}
    key = json.dumps([CODE, data, len(samples.values), share, settings])
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    path = folder / f"{data}-{name}-{share:g}-{config.seed}-{digest}.json"
    if not path.exists():
        if not train:
            return None
        row = run_cell(samples, config, share)
        partial = path.with_suffix(".partial")
        named = {"data": data, "system": name, "share": share, "seed": config.seed}
        partial.write_text(json.dumps({**named, **row}, indent=2) + "\n")
        partial.replace(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--systems", nargs="+", choices=NAMED, default=list(NAMED))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.01, 0.05, 0.1, 0.2])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--patches", type=int, default=2400)
    parser.add_argument("--cells", type=Path, default=Path("build/regression"))
    parser.add_argument("--finished", action="store_true", help="report the stored cells, and train no other")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.cells.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    plan = list(product(args.shares, range(args.seeds), args.systems))
    cells = []
    for data in args.data:
        samples = samples_of(data, args.patches, args.cells)
        with track(f"regression, {data}", total=len(plan)) as progress:
            for share, seed, name in plan:
                config = settings(name, seed, samples)
                cell = cell_of(args.cells, samples, data, name, config, share, train=not args.finished)
                cells += [] if cell is None else [cell]
                progress.advance()
    rows = summary(cells)
    print(table_text(rows))
    found = {
        "patches": args.patches,
        "seeds": args.seeds,
        "settings": asdict(replace(Config.tiny(), epochs=EPOCHS)),
        "rows": rows,
    }
    found["against_supervised"] = verdict(cells)
    print(json.dumps(found["against_supervised"], indent=1))
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    if args.report:
        args.report.write_text(report_page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
