"""Benchmark of the construction of a whole synthetic tile, against a rasterio loop of windowed reads in the same run.

The tile has 109.8 km a side: 91 x 91 = 8,281 patches and an incomplete edge, as SAFE folder with lossless JPEG 2000, a
radar scene on its grid and land cover as polygons; a few hundred different patches repeat over it. Ours cuts, labels,
checks and commits the patches to a Lance table with two processes. The loop reads the windows of the patches of the
first columns from the 14 files, in the same order, in one process; it neither checks, labels nor writes.

    python -m benchmarks.data.construct [--columns 91] [--loop-columns 91] [--tile FOLDER]
        [--shards N] [--workers 2] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rasterio
from rasterio.windows import Window

from benchmarks.data.ingest_memory import sampled
from eoforge.data.bands import GROUPS
from eoforge.data.synthetic.tile import WHOLE, SyntheticTile, write_tile

_DISTINCT = 300
TILE = "EOFORGE_BENCHMARK_TILE"
"""Environment variable: a folder that already holds the tile."""
_OURS = """
import json, resource, sys, time
from dataclasses import asdict
from eoforge.geo.gdal import confine_process
confine_process()
from eoforge.data.ingest.run import ingest, ingest_shards, plan_ingest
from eoforge.data.tiles.options import TileOptions
if __name__ == "__main__":
    product, table, workers, shards, radar, cover = sys.argv[1:]
    options = TileOptions(radar=radar, radar_scale="db", land_cover=cover)
    start = time.perf_counter()
    if int(shards):
        plan = plan_ingest(product, table, tiles=options)
        start, before = time.perf_counter(), time.process_time()
        rows = ingest_shards(plan.table, plan.ingest_id, plan.shards // 2, int(shards))["rows"]
        took, cpu = time.perf_counter() - start, time.process_time() - before
        print(json.dumps({"patches_in": rows, "shards_of": plan.shards, "seconds": took, "cpu_seconds": cpu}))
        sys.exit()
    summary = ingest(product, table, workers=int(workers), tiles=options)
    seconds = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    print(json.dumps({**asdict(summary), "seconds": seconds, "cpu_seconds": cpu}))
"""


def ours(tile: SyntheticTile, folder: Path, workers: int, shards: int) -> dict[str, Any]:
    """Construction in a new process, its figures and peak memory."""
    script = folder / "construct_once.py"
    script.write_text(_OURS)
    arguments = [tile.product, folder / "patches.lance", workers, shards, tile.radar, tile.land_cover]
    command = [sys.executable, str(script), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    largest, total = sampled(process)
    output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"construction of {tile.product} failed")
    figures = json.loads(output.splitlines()[-1])
    kept = ("patches_in", "shards_of", "added", "quarantined", "reasons", "edges", "seconds", "cpu_seconds")
    return {
        **{name: figures[name] for name in kept if name in figures},
        "patches_per_second": figures["patches_in"] / figures["seconds"],
        "patches_per_cpu_second": figures["patches_in"] / figures["cpu_seconds"],
        "peak_process_mib": largest / 2**20,
        "peak_all_mib": total / 2**20,
    }


def loop(tile: SyntheticTile, columns: int) -> dict[str, Any]:
    """Windowed reads of all bands of every patch."""
    files = {}
    for group in GROUPS:
        for band in group.bands:
            pattern = f"{band}.tif" if group.column == "s1" else f"*_{band}_{group.resolution}m.jp2"
            (path,) = (tile.radar if group.column == "s1" else tile.product).rglob(pattern)
            files[band] = rasterio.open(path), group.size
    before = resource.getrusage(resource.RUSAGE_SELF)
    start, pixels = time.perf_counter(), 0
    for x in range(columns):
        for y in range(WHOLE):
            for dataset, size in files.values():
                pixels += dataset.read(1, window=Window(x * size, y * size, size, size)).size
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    patches = columns * WHOLE
    return {
        "patches": patches,
        "pixels": pixels,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "patches_per_second": patches / seconds,
        "patches_per_cpu_second": patches / cpu,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=WHOLE, help="columns of patches, for a smaller run")
    parser.add_argument("--loop-columns", type=int, default=WHOLE, help="columns that the loop reads")
    parser.add_argument("--tile", type=Path, default=os.environ.get(TILE) or None, help="folder with a written tile")
    parser.add_argument("--shards", type=int, default=0, help="construct only so many shards, in one process")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.tile is None:
            tile = write_tile(folder / "tile", columns=options.columns, distinct=_DISTINCT, fast=True)
        else:
            where = Path(options.tile)
            tile = SyntheticTile(next(where.glob("*.SAFE")), where / "radar", where / "land_cover.gpkg")
        load = [os.getloadavg()[0]]
        construction = ours(tile, folder, options.workers, options.shards)
        load.append(os.getloadavg()[0])
        reads = loop(tile, min(options.columns, options.loop_columns))
        load.append(os.getloadavg()[0])
    figures = {
        "workers": 1 if options.shards else options.workers,
        "shards": options.shards or "all",
        "construct": construction,
        "rasterio_loop": reads,
        "rate_over_loop": construction["patches_per_second"] / reads["patches_per_second"],
        "rate_over_loop_per_cpu_second": construction["patches_per_cpu_second"] / reads["patches_per_cpu_second"],
        "load_before_between_after": [round(one, 1) for one in load],
    }
    print(json.dumps(figures, indent=2))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
