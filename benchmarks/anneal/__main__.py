"""Active learning from pairs against its baselines: retrieval figures by decisions, bits and seconds, over seeds.

    python -m benchmarks.anneal [--data synthetic eurosat] [--eurosat FOLDER] [--seeds 0 1 2 3 4]
        [--strategies NAME ...] [--patches 2400] [--cells FOLDER] [--report FILE.html] [--out FILE] [key=value ...]

Every strategy of a seed has the same features, first batch, pool, optimiser and steps; only the choice of pairs
differs. Finished cells are stored below ``--cells`` and not repeated. ``key=value`` changes settings of the method.

Queries are test patches, the gallery is the training split, codes are compared by Hamming distance, and a result is
relevant if the Jaccard index of the labels is at least one half.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.anneal.archive import Archive, load
from benchmarks.anneal.cell import STRATEGIES, run
from benchmarks.anneal.report import claims, report_page, summary, table_text
from benchmarks.label_noise.samples import EUROSAT
from eoforge.config import build_config
from eoforge.methods.anneal.config import Config
from eoforge.progress import track

CODE = 2
"""Raised when the meaning of a cell changes, so that stored cells are not mixed."""
SETTINGS = {"bits": "128", "hidden": "64", "anchors": "250", "neighbours": "8", "strangers": "8"}
SETTINGS |= {"bootstrap": "60", "batch": "60", "rounds": "5"}


def cell_of(folder: Path, archive: Archive, made: tuple[Any, ...], name: str, config: Config) -> dict[str, Any]:
    """A cell's figures, from its file or by a run."""
    key = json.dumps([CODE, made, name, STRATEGIES[name], asdict(config)])
    path = (
        folder / f"{made[0]}-{name.replace(' ', '_')}-{config.seed}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json"
    )
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"data": made[0], **run(archive, name, config)}, indent=2) + "\n")
        partial.replace(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=["synthetic", "eurosat"], help="both, where --eurosat is there")
    parser.add_argument("--eurosat", type=Path, default=EUROSAT, help="folder with one folder of .jpg tiles per class")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--patches", type=int, default=2400)
    parser.add_argument("--cells", type=Path, default=Path("build/anneal"))
    parser.add_argument("--report", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    args = parser.parse_args()
    there = args.eurosat.is_dir()
    if args.data and "eurosat" in args.data and not there:
        parser.error(f"{args.eurosat} is no folder with one folder of .jpg tiles per class; give --eurosat FOLDER")
    args.cells.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    given = dict(setting.split("=", 1) for setting in args.settings)
    config = build_config(Config, "tiny", {**SETTINGS, **given})
    cells = []
    for data in args.data or (["synthetic", "eurosat"] if there else ["synthetic"]):
        made = (data, args.patches if data == "synthetic" else 0)
        archive = load(data, args.patches, args.eurosat, args.cells)
        plan = list(itertools.product(args.seeds, args.strategies))
        with track(f"active learning, {data}", total=len(plan)) as progress:
            for seed, name in plan:
                cells.append(cell_of(args.cells, archive, made, name, replace(config, seed=seed)))
                progress.advance()
    rows = summary(cells)
    print(table_text(rows))
    found = claims(cells)
    print(json.dumps(found, indent=1))
    result: dict[str, Any] = {"config": asdict(config), "patches": args.patches}
    result |= {"seeds": args.seeds, "cpu_seconds": sum(c["cpu_seconds"] for c in cells), "rows": rows, "claims": found}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.report:
        args.report.write_text(report_page(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
