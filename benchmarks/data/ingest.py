"""Archive to committed Lance table, against a rasterio loop that writes the LMDB of the reBEN paper (as rico-hdl does).

Both read the same synthetic archive in the same run, in turns, each in a fresh process, one worker, page cache warm.
Ours also validates, hashes and commits; the peer only decodes and stores. "Per core" means per second of CPU time of
all threads of the process, so a busy machine does not favour whoever came first; wall time is reported beside it.

    python -m benchmarks.data.ingest [--patches 1000] [--rounds 3] [--archive FOLDER] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from eoforge.data.archives.layout import EXTENSIONS, REFERENCE_MAP, path_of
from eoforge.data.archives.open import open_archive
from eoforge.data.bands import S1_BANDS, S2_BANDS
from eoforge.data.ingest.run import commit_ingest, finish_table, ingest_shards, plan_ingest
from eoforge.data.synthetic.archive import generate_archive

_MAP_BYTES = 1 << 40
_COMMIT_EVERY = 1000


def ours(archive: str, out: Path) -> dict[str, float]:
    """Archive to committed table, then indexes and statistics."""
    table = str(out / "patches.lance")
    with Stopwatch() as committed:
        plan = plan_ingest(archive, table)
        ingest_shards(table, plan.ingest_id, 0, plan.shards)
        patches = commit_ingest(table, plan.ingest_id).added
    with Stopwatch() as finished:
        finish_table(table)
    return {
        "patches": patches,
        **committed.figures(),
        "finish_cpu_s": finished.cpu,
        "finish_wall_s": finished.wall,
        "bytes": _bytes(out),
    }


def rasterio_lmdb(archive: str, out: Path) -> dict[str, float]:
    """Every file through rasterio, every modality of a patch as one safetensors value under its name."""
    import lmdb
    import rasterio
    from safetensors.numpy import save

    def read(meta: Any, bands: tuple[str, ...]) -> dict[str, np.ndarray]:
        found = {}
        for band in bands:
            with rasterio.open(Path(archive) / (path_of(meta, band) + EXTENSIONS[0])) as source:
                found[band] = source.read(1)
        return found

    with Stopwatch() as watch:
        rows = open_archive(archive).metadata()
        database = lmdb.open(str(out / "lmdb"), map_size=_MAP_BYTES)
        transaction = database.begin(write=True)
        for number, meta in enumerate(rows):
            transaction.put(meta.patch_id.encode(), save(read(meta, S2_BANDS)))
            transaction.put(meta.s1_name.encode(), save(read(meta, S1_BANDS)))
            transaction.put(f"{meta.patch_id}_{REFERENCE_MAP}".encode(), save(read(meta, (REFERENCE_MAP,))))
            if number % _COMMIT_EVERY == _COMMIT_EVERY - 1:
                transaction.commit()
                transaction = database.begin(write=True)
        transaction.commit()
        database.sync(True)
    return {"patches": len(rows), **watch.figures(), "bytes": _bytes(out)}


class Stopwatch:
    """CPU seconds of this process and wall seconds of a block."""

    def __enter__(self) -> Stopwatch:
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu, self.wall = time.process_time() - self._cpu, time.perf_counter() - self._wall

    def figures(self) -> dict[str, float]:
        """For a report."""
        return {"cpu_s": self.cpu, "wall_s": self.wall}


def _bytes(folder: Path) -> int:
    return sum(f.stat().st_blocks * 512 for f in folder.rglob("*") if f.is_file())


def measure(way: Callable[[str, Path], dict[str, float]], archive: str, scratch: Path) -> dict[str, float]:
    """Runs one way in a fresh process, into a fresh folder that is removed."""
    out = Path(tempfile.mkdtemp(dir=scratch))
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(way, archive, out).result()
    finally:
        shutil.rmtree(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--archive")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        archive = options.archive or generate_archive(str(scratch / "archive"), options.patches, workers=2).uri
        runs: dict[str, list[dict[str, float]]] = {"eoforge": [], "rasterio_lmdb": []}
        for _ in range(options.rounds):
            runs["eoforge"].append(measure(ours, archive, scratch))
            runs["rasterio_lmdb"].append(measure(rasterio_lmdb, archive, scratch))
    rates = {
        name: {
            "patches_per_cpu_second": max(r["patches"] / r["cpu_s"] for r in results),
            "patches_per_wall_second": max(r["patches"] / r["wall_s"] for r in results),
            "bytes_per_patch": results[0]["bytes"] / results[0]["patches"],
        }
        for name, results in runs.items()
    }
    ratio = {
        key: rates["eoforge"][key] / rates["rasterio_lmdb"][key]
        for key in ("patches_per_cpu_second", "patches_per_wall_second")
    }
    figures = {"rates_best_of_rounds": rates, "ratio": ratio, "runs": runs}
    print(json.dumps({"rates_best_of_rounds": rates, "ratio": ratio}, indent=2))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
