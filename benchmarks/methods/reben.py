"""Claims of the reBEN paper on the synthetic archive, over several seeds.

1. Both sensors together label better than the better one alone (a scattered archive).
2. A random split looks better than the official one with the same model (a dense archive, where cells have neighbours
   and two dates): spatial leakage, the reason for the official split. Both are measured on the same test patches.
   Control: a scattered archive, which has nothing to leak. The tiny preset does not show this one: see the README, and
   ``benchmarks/methods/spatial_leakage.py`` for what leakage needs.
3. Training from a Lance table ends its first epoch sooner than from TIFFs, with the ingestion and without it.

    python -m benchmarks.methods.reben [--patches 2000] [--seeds 0 1 2] [--claims NAME ...] [--out FILE] [key=value ...]

Figures are macro and micro mean average precision on test patches. Seeds are those of the weights and batches; for the
second claim also of the random split.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import rasterio
import torch

from eoforge.data.archives.layout import EXTENSIONS, path_of
from eoforge.data.bands import GROUPS
from eoforge.data.ingest.run import ingest
from eoforge.data.labels import mask_of
from eoforge.data.loading.batch import PatchBatch, PatchFilter
from eoforge.data.loading.loader import PatchLoader
from eoforge.data.records import PatchMeta, PatchPair, record_batch
from eoforge.data.synthetic.archive import generate_archive, synthetic_pairs
from eoforge.data.tables.statistics import band_statistics
from eoforge.methods import get_method
from eoforge.methods.evaluation.labels import measure_labels
from eoforge.methods.reben.config import Config
from eoforge.methods.reben.learner import SceneLearner
from eoforge.storage.addresses import TableRef, open_table, table_exists

METHOD = get_method("reben")
SENSORS = ("s1", "s2", "s1s2")
ARCHIVE_SEED = 0
READ_PATCHES = 400
_ROWS = 128


def table_of(uri: str, patches: int, *, dense: bool, local_km: float | None = None, one_date: bool = False) -> TableRef:
    """A table of synthetic pairs, written without ingestion, batch by batch; one that is there stays.

    ``one_date`` keeps the first date of each cell.
    """
    if table_exists(uri):
        return TableRef(uri).pinned()
    pairs = synthetic_pairs(patches, ARCHIVE_SEED, dense=dense, local_km=local_km)
    if one_date:
        pairs = _first_dates(pairs)
    first = record_batch([next(pairs)])

    def batches() -> Iterator[pa.RecordBatch]:
        yield first
        part = []
        for pair in pairs:
            part.append(pair)
            if len(part) == _ROWS:
                yield record_batch(part)
                part = []
        if part:
            yield record_batch(part)

    reader = pa.RecordBatchReader.from_batches(first.schema, batches())
    return TableRef(uri, lance.write_dataset(reader, uri).version)


def _first_dates(pairs: Iterator[PatchPair]) -> Iterator[PatchPair]:
    seen = set()
    for pair in pairs:
        name = pair.meta.names.patch
        if (cell := (name.tile.mgrs, name.x, name.y)) not in seen:
            seen.add(cell)
            yield pair


def with_split(table: TableRef, uri: str, chosen: list[str | None]) -> TableRef:
    """The patches with other splits; those of None are left out. A table that is there stays."""
    if table_exists(uri):
        return TableRef(uri).pinned()
    source = open_table(table)

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in source.to_batches(batch_size=_ROWS):
            place = batch.schema.get_field_index("split")
            part = pa.array(chosen[start : start + len(batch)], pa.string())
            start += len(batch)
            columns = [part if i == place else column for i, column in enumerate(batch.columns)]
            made = pa.RecordBatch.from_arrays(columns, names=batch.schema.names).filter(part.is_valid())
            yield pa.RecordBatch.from_arrays(made.columns, schema=batch.schema)

    reader = pa.RecordBatchReader.from_batches(source.schema, batches())
    return TableRef(uri, lance.write_dataset(reader, uri).version)


def split_tables(table: TableRef, folder: Path, seed: int) -> dict[str, TableRef]:
    """The same test patches under two splits: half of the official test region.

    ``official`` trains on the official training region, which does not touch them; ``random`` on as many patches drawn
    from everywhere, the other half of the test region included. So the test set is no reason for a difference.
    """
    splits = open_table(table).to_table(columns=["split"])["split"].to_pylist()
    rng = np.random.Generator(np.random.Philox(key=seed))
    order = rng.permutation(len(splits))
    tested = {int(i) for i in [i for i in order if splits[i] == "test"][::2]}
    rest = [int(i) for i in order if int(i) not in tested]
    train = set(rest[: splits.count("train")])
    official = ["test" if i in tested else None if s == "test" else s for i, s in enumerate(splits)]
    random = ["test" if i in tested else "train" if i in train else "validation" for i in range(len(splits))]
    name = Path(table.uri).stem
    given: dict[str, list[str | None]] = {"official": official, "random": list(random)}
    return {
        split: with_split(table, str(folder / f"{name}-{split}-{seed}.lance"), chosen)
        for split, chosen in given.items()
    }


def score(table: TableRef, runs: str, overrides: dict[str, str]) -> dict[str, float]:
    """Test figures of one training run."""
    config = METHOD.config("tiny", overrides)
    bundle = METHOD.train(table, runs, config)
    (measures,) = measure_labels(bundle, METHOD, table).measures.values()  # type: ignore[arg-type]  # both sensors, or the only one
    averages = measures.averages
    figures = {name: averages[name] for name in ("map_macro", "map_micro", "f1_micro")}
    return {**figures, "best_epoch": bundle.metrics["best_epoch"], "seconds": bundle.metrics["training_seconds"]}


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and deviation over seeds."""
    return {
        name: {"mean": fmean(r[name] for r in rows), "deviation": stdev([r[name] for r in rows]) if rows[1:] else 0.0}
        for name in ("map_macro", "map_micro", "f1_micro")
    }


def sensors_claim(folder: Path, scattered: TableRef, seeds: list[int], overrides: dict[str, str]) -> dict[str, Any]:
    """Claim 1."""
    rows: dict[str, list[dict[str, float]]] = {sensors: [] for sensors in SENSORS}
    for seed in seeds:
        for sensors in SENSORS:
            rows[sensors].append(scored(scattered, folder, {**overrides, "sensors": sensors, "seed": str(seed)}))
    holds = [
        rows["s1s2"][i]["map_macro"] > max(rows["s1"][i]["map_macro"], rows["s2"][i]["map_macro"])
        for i in range(len(seeds))
    ]
    return {"by_sensors": {s: summary(r) for s, r in rows.items()}, "runs": rows, "holds_by_seed": holds}


def split_claim(folder: Path, table: TableRef, seeds: list[int], overrides: dict[str, str]) -> dict[str, Any]:
    """Claim 2 on a dense archive; on a scattered one its control, as a random split has nothing to leak there."""
    rows: dict[str, list[dict[str, float]]] = {"official": [], "random": []}
    for seed in seeds:
        for split, data in split_tables(table, folder, seed).items():
            rows[split].append(scored(data, folder, {**overrides, "seed": str(seed)}))
    pairs = zip(rows["random"], rows["official"], strict=True)
    holds = [random["map_macro"] > official["map_macro"] for random, official in pairs]
    return {"by_split": {s: summary(r) for s, r in rows.items()}, "runs": rows, "holds_by_seed": holds}


def scored(table: TableRef, folder: Path, overrides: dict[str, str]) -> dict[str, float]:
    """Figures of one run; a run of equal settings on the same table is not repeated."""
    row = score(table, str(folder / "runs"), overrides)
    print(f"{Path(table.uri).stem} {overrides}: {row}", flush=True)
    return row


def tiff_batches(archive: Path, table: TableRef, batch_size: int) -> Iterator[PatchBatch]:
    """Training batches read file by file with rasterio, as a loader without conversion does."""
    columns = ["patch_id", "s1_name", "s2v1_name", "split", "country", "labels"]
    flags = ["contains_seasonal_snow", "contains_cloud_or_shadow"]
    rows = open_table(table).to_table(columns=columns + flags, filter="split = 'train'").to_pylist()
    metas = [PatchMeta(**{**row, "labels": tuple(row["labels"])}) for row in rows]
    for start in range(0, len(metas) - batch_size + 1, batch_size):
        part = metas[start : start + batch_size]
        pixels: dict[str, Any] = {}
        for group in GROUPS:
            stacked = np.stack([[_pixels(archive, meta, band) for band in group.bands] for meta in part])
            pixels[group.column] = torch.from_numpy(stacked)
        masks = torch.tensor([mask_of(meta.labels or ()) for meta in part])
        yield PatchBatch(patch_id=[meta.patch_id for meta in part], label_mask=masks, **pixels)


def _pixels(archive: Path, meta: PatchMeta, band: str) -> Any:
    with rasterio.open(archive / (path_of(meta, band) + EXTENSIONS[0])) as source:
        return source.read(1)


def epoch_seconds(batches: Iterator[PatchBatch], learner: SceneLearner) -> tuple[float, int]:
    """Time of one epoch of training from these batches, and its patches."""
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-3)
    begun, patches = time.perf_counter(), 0
    for batch in batches:
        loss = learner.losses(batch, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        patches += len(batch)
    return time.perf_counter() - begun, patches


def reading_claim(folder: Path, patches: int, rounds: int = 3) -> dict[str, Any]:
    """Claim 3: the smallest time of some rounds of each, in turns."""
    archive, uri = folder / "archive", str(folder / "ingested.lance")
    generate_archive(str(archive), patches, ARCHIVE_SEED)
    begun = time.perf_counter()
    ingest(str(archive), uri)
    ingestion = time.perf_counter() - begun
    table = TableRef(uri).pinned()
    config = Config.tiny()
    bands = [band for names in config.sensor_bands.values() for band in names]
    normalisation = band_statistics(table).normalisation(bands)
    times: dict[str, list[float]] = {"tiff": [], "lance": []}
    count = 0
    for _ in range(rounds):
        for name in times:
            learner = SceneLearner(config, normalisation, None)
            splits = PatchFilter(splits=("train",))
            lanced = PatchLoader(table, batch_size=config.batch_size, filter=splits, shuffle=True, drop_last=True)
            batches = iter(lanced) if name == "lance" else tiff_batches(archive, table, config.batch_size)
            seconds, count = epoch_seconds(batches, learner)
            times[name].append(seconds)
            print(f"one epoch from {name}: {seconds:.1f} s", flush=True)
    tiff, lanced_s = min(times["tiff"]), min(times["lance"])
    return {
        "train_patches": count,
        "ingestion_seconds": ingestion,
        "epoch_seconds": times,
        "epoch_ratio": tiff / lanced_s,
        "first_epoch_ratio_with_ingestion": tiff / (ingestion + lanced_s),
        "epochs_until_ingestion_paid": ingestion / (tiff - lanced_s) if tiff > lanced_s else None,
    }


def main() -> None:
    """Command line: prints and writes all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--claims", nargs="+", default=["reading", "sensors", "split", "control"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    overrides = dict(setting.split("=", 1) for setting in arguments.settings)
    torch.set_num_threads(1)  # networks this small are slower on more, above all beside other work
    result: dict[str, Any] = {"patches": arguments.patches, "preset": "tiny", "overrides": overrides}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if "reading" in arguments.claims:
            result["reading"] = reading_claim(folder, READ_PATCHES)
        common = (arguments.seeds, overrides)
        if {"sensors", "control"} & set(arguments.claims):
            scattered = table_of(str(folder / "scattered.lance"), arguments.patches, dense=False)
            if "sensors" in arguments.claims:
                result["sensors"] = sensors_claim(folder, scattered, *common)
            if "control" in arguments.claims:
                result["control"] = split_claim(folder, scattered, *common)
        if "split" in arguments.claims:
            dense = table_of(str(folder / "dense.lance"), arguments.patches, dense=True)
            result["split"] = split_claim(folder, dense, *common)
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
