"""Regression on images of the synthetic archive: DML-S2R and supervised training by the trainer of the product.

    python -m benchmarks.regression.images [--targets forest_share water_share] [--shares 0.05 0.1] [--seeds 3]
        [--patches 600] [--work FOLDER] [--out FILE]

Bundles of a folder that exists are not trained again. The test split is measured as ``eoforge eval`` measures it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, cast

import lance
import torch

from benchmarks.regression.report import summary, table_text, verdict
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.methods import Regresses, get_method
from eoforge.methods.evaluation.values import measure_values
from eoforge.storage.addresses import TableRef

ARCHIVE_SEED = 17
SYSTEMS = ("supervised", "dml_s2r")
SETTINGS = {"epochs": "21", "batch_size": "32", "backbone": "tiny", "width": "16", "size": "30"}


def archive(folder: Path, patches: int) -> TableRef:
    """Table of the synthetic archive below a folder, made once."""
    uri = folder / f"archive-{ARCHIVE_SEED}-{patches}.lance"
    if not uri.exists():
        lance.write_dataset(record_batch(tuple(synthetic_pairs(patches, ARCHIVE_SEED))), str(uri), schema=PATCHES)
    return TableRef(str(uri), 1)


def run_cell(table: TableRef, runs: Path, named: dict[str, Any]) -> dict[str, Any]:
    """Figures of one training on the test split; its CPU time is 0 where the bundle was there."""
    method = get_method("dml_s2r")
    began = time.process_time()
    config = method.config("tiny", {**SETTINGS, **{key: str(value) for key, value in named.items()}})
    bundle = method.train(table, str(runs), config)
    seconds = time.process_time() - began
    found = measure_values(bundle, cast("Regresses", method), table, "cpu").figures
    counts = bundle.config["labels"]
    return {
        "data": named["target"],
        "share": named["labels"],
        "system": named["system"],
        "seed": named["seed"],
        "labels": counts["labelled"],
        "cpu_seconds": seconds,
        "test": found,
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["forest_share", "water_share"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.05, 0.1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--patches", type=int, default=600)
    parser.add_argument("--work", type=Path, default=Path("build/regression-images"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    table = archive(args.work, args.patches)
    config, cells = get_method("dml_s2r").config("tiny", SETTINGS), []
    stamp = hashlib.sha256(json.dumps([args.patches, asdict(config)], default=str).encode()).hexdigest()[:8]
    for target, share, seed, system in product(args.targets, args.shares, range(args.seeds), SYSTEMS):
        named = {"target": target, "labels": share, "seed": seed, "system": system}
        path = args.work / f"{target}-{share:g}-{seed}-{system}-{stamp}.json"
        if not path.exists():
            path.write_text(json.dumps(run_cell(table, args.work / "runs", named)) + "\n")
        cells.append(json.loads(path.read_text()))
    rows = summary(cells)
    print(table_text(rows))
    found = {"patches": args.patches, "seeds": args.seeds, "settings": asdict(config), "rows": rows}
    found["against_supervised"] = verdict(cells)
    print(json.dumps(found["against_supervised"], indent=1))
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
