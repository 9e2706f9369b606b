"""Cross-modal retrieval by hash codes: a trained network against an untrained one and random codes, for several seeds.

Trains the tiny preset on a synthetic archive and measures, on the held-out splits and in both directions across
sensors, recall@10 of the exact partner and mAP@10 at Jaccard >= 0.5. Says for each whether the trained codes reach
twice the random ones and more than the best untrained seed.

    python -m benchmarks.methods.cross_modal [--patches 2000] [--seeds 3] [--method NAME] [--out FILE] [key=value ...]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.methods import get_method
from eoforge.methods.evaluation.retrieval import measure
from eoforge.storage.addresses import TableRef

MEASURES = ("partner_recall@10", "map_jaccard50_archive@10", "map_jaccard50_retrieved@10")
SYSTEMS = ("trained", "untrained", "random")
DIRECTIONS = ("s1_to_s2", "s2_to_s1")
ARCHIVE_SEED = 0
_ROWS = 128


def synthetic_table(uri: str, patches: int) -> TableRef:
    """A table of ``patches`` synthetic pairs, written without ingestion."""
    pairs = list(synthetic_pairs(patches, ARCHIVE_SEED))
    batches = [record_batch(pairs[i : i + _ROWS]) for i in range(0, patches, _ROWS)]
    return TableRef(uri, lance.write_dataset(pa.Table.from_batches(batches), uri).version)


def run(patches: int, seeds: int, method: str, overrides: dict[str, str]) -> dict[str, Any]:
    """All figures by seed, and the verdict by direction and measure."""
    chosen = get_method(method)
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        table = synthetic_table(str(Path(folder) / "patches.lance"), patches)
        for seed in range(seeds):
            config = chosen.config("tiny", {**overrides, "seed": str(seed)})
            bundle = chosen.train(table, str(Path(folder) / "runs"), config)
            measured = measure(bundle, table).measures
            row = {s: {d: {m: measured[s][d][m] for m in MEASURES} for d in DIRECTIONS} for s in SYSTEMS}
            figures.append({"seed": seed, "training_seconds": bundle.metrics["training_seconds"], **row})
    verdict = {
        f"{measure_name}_{direction}": all(
            row["trained"][direction][measure_name] >= 2 * row["random"][direction][measure_name]
            and row["trained"][direction][measure_name]
            > max(other["untrained"][direction][measure_name] for other in figures)
            for row in figures
        )
        for direction in DIRECTIONS
        for measure_name in MEASURES
    }
    return {
        "method": method,
        "patches": patches,
        "split": "queries validation, gallery test",
        "seeds": figures,
        "holds": verdict,
    }


def main() -> None:
    """Command line: prints and writes all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", default="ss_cm_rsir")
    parser.add_argument("--out", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    overrides = dict(setting.split("=", 1) for setting in arguments.settings)
    result = run(arguments.patches, arguments.seeds, arguments.method, overrides)
    for row in result["seeds"]:
        print(f"seed {row['seed']}, {row['training_seconds']:.0f} s of training")
        for system in SYSTEMS:
            for direction in DIRECTIONS:
                cells = "  ".join(f"{name} {row[system][direction][name]:.3f}" for name in MEASURES)
                print(f"  {system:10s} {direction}  {cells}")
    print(json.dumps(result["holds"], indent=2))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
