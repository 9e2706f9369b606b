"""What makes a random split look better than the official one: a local character of places, shared by neighbours.

Dense synthetic archives of one date, whose places differ in land use and colours over a range: 0 km, where no two cells
share anything, and a range of some km, as real archives have it. On each the same test patches are scored by models
trained on the official training region and on a random sample of equal size: the classifier of ``reben``, and the ten
nearest training patches by mean and deviation of each band, which says what is there to be learned without training.

    python -m benchmarks.methods.spatial_leakage [--patches 2400] [--ranges 0 10] [--seeds 0 1 2] [--work FOLDER]
        [--out FILE] [key=value ...]

Figures are macro and micro mean average precision. Seeds are those of the random split, the weights and the batches. A
run that is in ``--work`` is not repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.methods.reben import scored, split_tables, summary, table_of
from eoforge.data.bands import GROUPS, S1_10M
from eoforge.data.labels import NUM_CLASSES
from eoforge.data.tables.schema import tensor_column
from eoforge.metrics.multilabel import labels_of_masks, multilabel_figures
from eoforge.storage.addresses import TableRef, open_table

NEAREST = 10
SPLITS = ("official", "random")


def features_of(table: TableRef, split: str) -> tuple[npt.NDArray[np.float64], torch.Tensor]:
    """Mean and deviation of the logarithm of each optical band ``[N, 24]``, and labels ``[N, L]``, of a split."""
    groups = [group.column for group in GROUPS if group is not S1_10M]
    rows = open_table(table).to_table(columns=[*groups, "label_mask"], filter=f"split = '{split}'")
    parts = []
    for name in groups:
        pixels = np.log(tensor_column(rows[name])[0].astype(np.float64))
        parts += [pixels.mean(axis=(2, 3)), pixels.std(axis=(2, 3))]
    masks = torch.from_numpy(rows["label_mask"].to_numpy().astype(np.int64))
    return np.concatenate(parts, axis=1), labels_of_masks(masks, NUM_CLASSES)


def nearest(table: TableRef) -> dict[str, float]:
    """Figures of the mean label of the nearest training patches."""
    train, labels = features_of(table, "train")
    test, truth = features_of(table, "test")
    centre, scale = train.mean(axis=0), train.std(axis=0)
    a, b = (train - centre) / scale, (test - centre) / scale
    distance = ((b[:, None] - a[None]) ** 2).sum(axis=2)
    found = np.argsort(distance, axis=1, kind="stable")[:, :NEAREST]
    scores = labels[torch.from_numpy(found)].float().mean(dim=1)
    figures = multilabel_figures(scores, truth)
    return {name: figures[name] for name in ("map_macro", "map_micro", "f1_micro")}


def compare(table: TableRef, folder: Path, seeds: list[int], overrides: dict[str, str]) -> dict[str, Any]:
    """Figures of both splits and both models on one archive."""
    rows: dict[str, dict[str, list[dict[str, float]]]] = {
        model: {split: [] for split in SPLITS} for model in ("reben", "nearest")
    }
    for seed in seeds:
        for split, data in split_tables(table, folder, seed).items():
            rows["nearest"][split].append(nearest(data))
            rows["reben"][split].append(scored(data, folder, {**overrides, "seed": str(seed)}))
    return {
        model: {
            "by_split": {split: summary(found) for split, found in by_split.items()},
            "runs": by_split,
            "random_minus_official": [
                r["map_macro"] - o["map_macro"] for r, o in zip(by_split["random"], by_split["official"], strict=True)
            ],
        }
        for model, by_split in rows.items()
    }


def main() -> None:
    """Command line: prints and writes all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=2400)
    parser.add_argument("--ranges", type=float, nargs="+", default=[0.0, 10.0], metavar="KM")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, help="folder to keep, so that an interrupted benchmark goes on")
    parser.add_argument("--out", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    overrides = {"sensors": "s2", "epochs": "10", "size": "40"} | dict(
        setting.split("=", 1) for setting in arguments.settings
    )
    torch.set_num_threads(1)
    result: dict[str, Any] = {"patches": arguments.patches, "preset": "tiny", "overrides": overrides, "ranges": {}}
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.work or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        for range_km in arguments.ranges:
            uri = str(folder / f"local-{range_km:g}km-{arguments.patches}.lance")
            table = table_of(uri, arguments.patches, dense=True, local_km=range_km, one_date=True)
            result["cells"] = open_table(table).count_rows()
            result["ranges"][f"{range_km:g} km"] = compare(table, folder, arguments.seeds, overrides)
    result["cpu_seconds"] = time.process_time() - begun
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
