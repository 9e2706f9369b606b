"""Benchmark of random batches: eoforge from Lance against LMDB + safetensors, and from S3, which LMDB cannot read.

The peer is what BigEarthNet users run: rico-hdl's database (one safetensors value per sensor and patch), read in the
calling process, one transaction, bands by name. Two products are timed, in turns, page cache warm:

- *native*: batches of both sensors on their native grids, ready for the device;
- *prepared*: float32 at 120 x 120, nearest resampling and normalisation. The peer does it per patch and stacks
  [B, 14, 120, 120], as ConfigILM does; ours does it per batch, a tensor for each sensor ([B, 2, ...] and [B, 12, ...]).
  On a GPU machine ours happens after the transfer and so costs the loader nothing.

Pixels are synthetic; nothing is compressed in either store, so they do not matter.

    python -m benchmarks.data.loader [--patches 1200] [--batch-size 64] [--rounds 3] [--no-s3] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import lance
import lmdb
import numpy as np
import pyarrow as pa
import torch
from safetensors.numpy import load, save
from torch.nn import functional

from benchmarks.data.read_archive import measure
from eoforge.data.bands import GROUPS, S1_BANDS, S2_BANDS
from eoforge.data.loading.loader import PatchBatch, PatchLoader
from eoforge.data.loading.prepare import Prepare
from eoforge.data.records import PatchPair, record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.storage.addresses import lance_uri, storage_options
from eoforge.storage.seaweed import seaweedfs

BANDS = (*S1_BANDS, *S2_BANDS)
MEAN, STD = np.full(len(BANDS), 900.0, np.float32), np.full(len(BANDS), 800.0, np.float32)
Keys = list[tuple[str, str]]


def chunks(pairs: Iterator[PatchPair], size: int) -> Iterator[list[PatchPair]]:
    """Lists of ``size`` pairs."""
    while chunk := list(islice(pairs, size)):
        yield chunk


def write_lance(uri: str, patches: int) -> None:
    """Patches table of the pairs."""
    batches = (record_batch(chunk) for chunk in chunks(synthetic_pairs(patches), 128))
    reader = pa.RecordBatchReader.from_batches(PATCHES, batches)
    lance.write_dataset(reader, lance_uri(uri), schema=PATCHES, storage_options=storage_options(uri))


def write_lmdb(path: Path, patches: int) -> Keys:
    """LMDB of the pairs in the format of rico-hdl; returns (patch_id, s1_name) of each."""
    keys: Keys = []
    with lmdb.open(str(path), map_size=patches * 400_000 + (1 << 24)) as env:
        for chunk in chunks(synthetic_pairs(patches), 128):
            with env.begin(write=True) as transaction:
                for pair in chunk:
                    bands = {b: getattr(pair, g.column)[i] for g in GROUPS for i, b in enumerate(g.bands)}
                    meta = pair.meta
                    assert meta.s1_name is not None, "a synthetic pair has both sensors"
                    transaction.put(meta.patch_id.encode(), save({b: bands[b] for b in S2_BANDS}))
                    transaction.put(meta.s1_name.encode(), save({b: bands[b] for b in S1_BANDS}))
                    keys.append((meta.patch_id, meta.s1_name))
    return keys


def peer_patches(env: lmdb.Environment, keys: Keys) -> Iterator[dict[str, Any]]:
    """Bands of each patch by name."""
    with env.begin(buffers=False) as transaction:
        for patch_id, s1_name in keys:
            yield load(transaction.get(patch_id.encode())) | load(transaction.get(s1_name.encode()))  # type: ignore[arg-type]


def peer_native(env: lmdb.Environment, keys: Keys, batch_size: int) -> None:
    """Native-grid batches from LMDB."""
    patches = peer_patches(env, keys)
    while batch := list(islice(patches, batch_size)):
        for group in GROUPS:
            out = np.empty((len(batch), *group.shape), dtype=group.dtype)
            for row, bands in enumerate(batch):
                for channel, band in enumerate(group.bands):
                    out[row, channel] = bands[band]
            torch.from_numpy(out)


def peer_prepared(env: lmdb.Environment, keys: Keys, batch_size: int) -> None:
    """Batches as of ConfigILM: per patch every band to float, nearest to 120 x 120, stacked and normalised.

    Batches go to memory that is used again, as in ours: fresh memory for each of them costs page faults that would
    decide the comparison.
    """
    memory = torch.empty(batch_size, len(BANDS), 120, 120)
    mean, std = torch.from_numpy(MEAN)[:, None, None], torch.from_numpy(STD)[:, None, None]
    patches = peer_patches(env, keys)
    while batch := list(islice(patches, batch_size)):
        images = []
        for bands in batch:
            tensors = (torch.from_numpy(bands[band].astype(np.float32))[None, None] for band in BANDS)
            resized = [
                t if t.shape[-1] == 120 else functional.interpolate(t, (120, 120), mode="nearest") for t in tensors
            ]
            images.append((torch.cat(resized, dim=1)[0] - mean) / std)
        torch.stack(images, out=memory[: len(images)])


class Ours:
    """Shuffled epochs from Lance, a new permutation each time."""

    def __init__(self, uri: str, batch_size: int, workers: int, run_length: int = 1) -> None:
        self._loader = PatchLoader(uri, batch_size=batch_size, shuffle=True, workers=workers, run_length=run_length)
        self._s1, self._s2 = (Prepare(b, MEAN[: len(b)], STD[: len(b)]) for b in (S1_BANDS, S2_BANDS))
        self._epoch = 0

    def _batches(self) -> Iterator[PatchBatch]:
        self._epoch += 1
        self._loader.set_epoch(self._epoch)
        return iter(self._loader)

    def native(self) -> None:
        """One epoch of native batches."""
        for _ in self._batches():
            pass

    def prepared(self) -> None:
        """One epoch of network input."""
        for batch in self._batches():
            self._s1(batch), self._s2(batch)


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Rates of all variants, after both stores are written."""
    table, size = str(folder / "patches.lance"), options.batch_size
    write_lance(table, options.patches)
    keys = write_lmdb(folder / "lmdb", options.patches)
    order = np.random.default_rng(0).permutation(len(keys)).tolist()
    keys = [keys[i] for i in order]
    env = lmdb.open(str(folder / "lmdb"), readonly=True, lock=False, readahead=False)
    inline, ahead = Ours(table, size, workers=0), Ours(table, size, workers=2)
    ways: dict[str, Callable[[], None]] = {
        "lmdb_native": lambda: peer_native(env, keys, size),
        "eoforge_native": inline.native,
        "eoforge_native_2_threads": ahead.native,
        "eoforge_native_runs_of_8": Ours(table, size, workers=0, run_length=8).native,
        "lmdb_prepared": lambda: peer_prepared(env, keys, size),
        "eoforge_prepared": inline.prepared,
        "eoforge_prepared_2_threads": ahead.prepared,
    }
    for way in ways.values():
        way()  # fills the page cache and starts thread pools
    rates = measure(ways, options.patches, options.rounds)
    figures: dict[str, Any] = {"patches": options.patches, "batch_size": size, "rates": rates}
    for ratio, unit in (("ratio_wall", "pairs_per_s"), ("ratio_cpu", "pairs_per_cpu_s")):
        figures[ratio] = {
            name: round(rate[unit] / rates[f"lmdb_{name.split('_')[1]}"][unit], 2) for name, rate in rates.items()
        }
    if not options.no_s3:
        with seaweedfs(folder / "s3") as server:
            os.environ.update(server.env)
            remote = server.uri("patches.lance")
            write_lance(remote, options.patches)
            ways = {f"eoforge_native_s3_{n}_threads": Ours(remote, size, n).native for n in (1, 4)}
            figures["rates_s3"] = measure(ways, options.patches, options.rounds)
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Random batches: Lance against LMDB + safetensors.")
    parser.add_argument("--patches", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-s3", action="store_true", help="leave out the S3 server")
    parser.add_argument("--out", help="file for the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the peer resamples patch by patch, where a second thread is slower
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(run(options, Path(folder)), indent=2)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
