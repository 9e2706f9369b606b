"""Learning from wrong labels: objectives x kind of noise x rate x seed, resumable per cell, with a table and curves.

    python -m benchmarks.label_noise [--data synthetic eurosat] [--eurosat FOLDER] [--kinds class_change] [--rates 0 0.2
        0.4 0.6] [--seeds 3] [--objectives plain grid ...] [--patches 2000] [--cells FOLDER] [--report FILE.html]
        [--out FILE]

Finished cells are stored below ``--cells`` and not repeated. ``rate`` of GRID and the collaborative objectives is 0.2
for every noise, as in GRID's released configuration; ``grid_adaptive`` estimates it.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from benchmarks.label_noise.cell import Training, run
from benchmarks.label_noise.report import report_page, table_text
from benchmarks.label_noise.samples import Samples, eurosat, synthetic
from eoforge.data.noise.scene import Noise
from eoforge.methods.noise_robust.settings import GRID, OBJECTIVES, NoiseSettings
from eoforge.progress import track

ADAPTIVE = "grid_adaptive"
NAMES = (*OBJECTIVES, ADAPTIVE)
CODE = 1
"""Raised when the meaning of a cell changes, so that stored cells are not mixed."""


def cell_of(
    folder: Path, samples: Samples, data: str, name: str, noise: Noise, seed: int, training: Training
) -> dict[str, Any]:
    """A cell's figures, from its file or by training."""
    settings = NoiseSettings(adaptive=name == ADAPTIVE)
    key = json.dumps([CODE, data, len(samples.labels), name, asdict(noise), seed, asdict(settings), asdict(training)])
    path = (
        folder / f"{data}-{name}-{noise.kind}-{noise.rate:g}-{seed}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json"
    )
    if not path.exists():
        row = run(samples, GRID if name == ADAPTIVE else name, noise, seed, settings, training)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({**row, "data": data, "name": name}, indent=2) + "\n")
        partial.replace(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def summary(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and deviation over the seeds, by data set, kind, rate and objective."""

    def key(cell: dict[str, Any]) -> tuple[Any, ...]:
        return cell["data"], cell["noise"]["kind"], cell["noise"]["rate"], cell["name"]

    rows = []
    for (data, kind, rate, name), group in itertools.groupby(sorted(cells, key=key), key):
        several = list(group)
        tests = {m: [cell["test"][m] for cell in several] for m in several[0]["test"]}
        rows.append(
            {
                "data": data,
                "kind": kind,
                "rate": rate,
                "objective": name,
                "seeds": len(several),
                "cpu_seconds": fmean(cell["cpu_seconds"] for cell in several),
                "mean": {m: fmean(values) for m, values in tests.items()},
                "deviation": {m: stdev(values) if len(values) > 1 else 0.0 for m, values in tests.items()},
            }
        )
    return rows


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=["synthetic", "eurosat"], default=["synthetic"])
    parser.add_argument("--eurosat", type=Path, help="folder of EuroSAT RGB tiles, one folder per class")
    parser.add_argument("--kinds", nargs="+", default=["class_change"])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.0, 0.2, 0.4, 0.6])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--objectives", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--patches", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=Training.epochs)
    parser.add_argument("--cells", type=Path, default=Path("build/label_noise"))
    parser.add_argument("--report", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if "eurosat" in args.data and args.eurosat is None:
        parser.error("--data eurosat needs --eurosat FOLDER, a folder with one folder of .jpg tiles per class")
    args.cells.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(min(torch.get_num_threads(), 2))
    training = replace(Training(), epochs=args.epochs)
    cells = []
    plan = list(itertools.product(args.kinds, args.rates, range(args.seeds), args.objectives))
    for data in args.data:
        samples = synthetic(args.patches) if data == "synthetic" else eurosat(args.eurosat)
        with track(f"label noise, {data}", total=len(plan)) as progress:
            for kind, rate, seed, name in plan:
                cells.append(cell_of(args.cells, samples, data, name, Noise(kind, rate, seed), seed, training))
                progress.advance()
    rows = summary(cells)
    print(table_text(rows))
    result = {"training": asdict(training), "patches": args.patches, "seeds": args.seeds, "rows": rows}
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    if args.report:
        args.report.write_text(report_page(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
