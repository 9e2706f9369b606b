"""Learning from wrong labels: objectives x kind of noise x rate x seed, resumable per cell, with a table and curves.

    python -m benchmarks.label_noise [--data synthetic eurosat] [--eurosat FOLDER] [--kinds class_change] [--rates 0 0.2
        0.4 0.6] [--seeds 3] [--rows plain grid ...] [--patches 2000] [--cells FOLDER] [--report FILE.html]
        [--peer-python ENVIRONMENT/bin/python] [--out FILE]

Finished cells are stored below ``--cells`` and not repeated. GRID and the collaborative objectives expect a share of
0.2 for every noise, as GRID's released configuration does. cleanlab lives in an environment of its own, never in ours::

    python -m venv ENVIRONMENT && ENVIRONMENT/bin/pip install cleanlab
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from benchmarks.label_noise import peer
from benchmarks.label_noise.cell import Training, run
from benchmarks.label_noise.claims import conclusions
from benchmarks.label_noise.noise import Shift, noise_of
from benchmarks.label_noise.report import report_page, table_text
from benchmarks.label_noise.samples import EUROSAT, Samples, eurosat, synthetic
from benchmarks.label_noise.variants import VARIANTS
from eoforge.data.noise.scene import Noise
from eoforge.progress import track

CODE = 2
"""Raised when the meaning of a cell changes, so that stored cells are not mixed."""
_DIGITS = 4
DATA = ("synthetic", "eurosat", "maps")


def cell_of(
    folder: Path,
    samples: Samples,
    data: str,
    name: str,
    noise: Noise | Shift,
    seed: int,
    training: Training,
    python: Path | None,
) -> dict[str, Any]:
    """A cell's figures, from its file or by training."""
    settings = None if name == peer.NAME else asdict(VARIANTS[name].settings(samples))
    shape = list(samples.images.shape)
    key = json.dumps([CODE, data, shape, name, asdict(noise), seed, settings, asdict(training)])
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    path = folder / f"{data}-{name}-{noise.kind}-{noise.rate:g}-{seed}-{digest}.json"
    if not path.exists():
        if name == peer.NAME:
            assert python is not None
            row = peer.run(samples, noise, seed, training, python)
        else:
            variant = VARIANTS[name]
            row = run(samples, variant.objective, noise, seed, variant.settings(samples), training)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({**row, "data": data, "name": name}, indent=2) + "\n")
        partial.replace(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def summary(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and deviation over the seeds, by data set, kind, rate and row."""

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
                "mean": {m: round(fmean(values), _DIGITS) for m, values in tests.items()},
                "deviation": {
                    m: round(stdev(values), _DIGITS) if len(values) > 1 else 0.0 for m, values in tests.items()
                },
                "classes": _classes(several),
            }
        )
    return rows


def _classes(cells: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean over the seeds of each class's detection."""
    names = dict.fromkeys(name for cell in cells for name in cell["classes"])
    known = {name: [cell["classes"][name] for cell in cells if name in cell["classes"]] for name in names}
    return {
        name: {m: round(fmean(one[m] for one in found), _DIGITS) for m in found[0]} for name, found in known.items()
    }


def _peer_takes(samples: Samples, rate: float, rates: list[float] | None) -> bool:
    return samples.maps is None and (rates is None or rate in rates)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, help="labels of scenes: both, where --eurosat is there")
    parser.add_argument("--eurosat", type=Path, default=EUROSAT, help="folder with one folder of .jpg tiles per class")
    parser.add_argument("--kinds", nargs="+", default=["class_change"])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.0, 0.2, 0.4, 0.6])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=[*VARIANTS, peer.NAME], default=[*VARIANTS, peer.NAME])
    parser.add_argument("--patches", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=Training.epochs)
    parser.add_argument("--cells", type=Path, default=Path("build/label_noise"))
    parser.add_argument("--report", type=Path)
    python = os.environ.get("EOFORGE_PEER_PYTHON")
    parser.add_argument("--peer-python", type=Path, default=python and Path(python), help="or EOFORGE_PEER_PYTHON")
    parser.add_argument("--peer-rates", nargs="+", type=float, help="rates of cleanlab, six trainings each; else all")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    there = args.eurosat.is_dir()
    if args.data and "eurosat" in args.data and not there:
        parser.error(f"{args.eurosat} is no folder with one folder of .jpg tiles per class; give --eurosat FOLDER")
    version = peer.version(args.peer_python)
    names = [name for name in args.rows if name != peer.NAME or version]
    if names != args.rows:
        print(f"{peer.NAME}: not measured, it is not installed; see --help", flush=True)
    args.cells.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(min(torch.get_num_threads(), 2))
    training = replace(Training(), epochs=args.epochs)
    cells, sizes = [], {}
    plan = list(itertools.product(range(args.seeds), args.kinds, args.rates, names))
    for data in args.data or (["synthetic", "eurosat"] if there else ["synthetic"]):
        samples = (
            eurosat(args.eurosat) if data == "eurosat" else synthetic(args.patches, args.cells, maps=data == "maps")
        )
        sizes[data] = {"images": list(samples.images.shape), "train": len(samples.rows("train"))}
        with track(f"label noise, {data}", total=len(plan)) as progress:
            for seed, kind, rate, name in plan:
                noise = noise_of(kind, rate, seed)
                if not (
                    _peer_takes(samples, rate, args.peer_rates) if name == peer.NAME else VARIANTS[name].takes(samples)
                ):
                    continue
                cells.append(cell_of(args.cells, samples, data, name, noise, seed, training, args.peer_python))
                progress.advance()
    rows = summary(cells)
    found = conclusions(rows)
    print(table_text(rows))
    print(json.dumps(found, indent=2))
    result = {
        "training": asdict(training),
        "data": sizes,
        "seeds": args.seeds,
        "settings": {name: asdict(VARIANTS[name]) for name in names if name != peer.NAME},
        "peer": version,
        "conclusions": found,
        "rows": rows,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    if args.report:
        args.report.write_text(report_page(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
