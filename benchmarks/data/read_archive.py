"""Reading patch pairs from official files: eoforge against a rasterio loop and against reading bytes alone.

All ways read the same files in the same run, in turns, one process, page cache warm. Rates are per second of CPU time
(so that a busy machine does not favour whoever came first) and of wall time. Files come from the synthetic archive,
whose headers, sizes and compression are the official ones.

    python -m benchmarks.data.read_archive [--patches 300] [--rounds 3] [--archive FOLDER] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rasterio

from eoforge.data.archives.geotiff import read_geotiff
from eoforge.data.archives.layout import ALL_FILES, EXTENSIONS, path_of
from eoforge.data.archives.open import open_archive
from eoforge.data.records import PatchMeta, record_batch
from eoforge.data.synthetic.archive import generate_archive

BATCH_ROWS = 64


def files_of(folder: Path, rows: Sequence[PatchMeta]) -> list[list[str]]:
    """The files of each patch that exist, 14 or 15 a patch."""
    candidates = ([folder / (path_of(m, band) + EXTENSIONS[0]) for band in ALL_FILES] for m in rows)
    return [[str(path) for path in paths if path.exists()] for paths in candidates]


def bytes_alone(files: list[list[str]]) -> None:
    """Reads every file and looks at nothing."""
    for paths in files:
        for path in paths:
            with open(path, "rb", buffering=0) as file:
                file.read()


def with_rasterio(files: list[list[str]]) -> None:
    """Pixels, CRS and transform of every file, without validation."""
    for paths in files:
        for path in paths:
            with rasterio.open(path) as source:
                source.read(1)
                _ = source.crs, source.transform


def with_decoder(files: list[list[str]]) -> None:
    """The same by eoforge's decoder."""
    for paths in files:
        for path in paths:
            with open(path, "rb", buffering=0) as file:
                read_geotiff(file.read(), path)


def with_archive(folder: Path, rows: Sequence[PatchMeta]) -> None:
    """Validated, assembled pairs, as ingestion takes them."""
    refused = sum(result.pair is None for result in open_archive(str(folder)).read(rows))
    if refused:
        raise SystemExit(f"{refused} patches were refused: the archive is not fit for a benchmark")


def to_rows(folder: Path, rows: Sequence[PatchMeta]) -> None:
    """Validated pairs as Arrow rows with digests and bounds: all that ingestion does before Lance writes."""
    pending = []
    for result in open_archive(str(folder)).read(rows):
        if result.pair is not None:
            pending.append(result.pair)
        if len(pending) == BATCH_ROWS:
            record_batch(pending)
            pending.clear()
    record_batch(pending)


def measure(ways: dict[str, Callable[[], None]], patches: int, rounds: int) -> dict[str, dict[str, float]]:
    """Best rate of each way over ``rounds`` turns."""
    best: dict[str, dict[str, float]] = {name: {"pairs_per_cpu_s": 0.0, "pairs_per_s": 0.0} for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            best[name]["pairs_per_cpu_s"] = max(best[name]["pairs_per_cpu_s"], round(patches / cpu, 1))
            best[name]["pairs_per_s"] = max(best[name]["pairs_per_s"], round(patches / wall, 1))
    return best


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Reading pairs: eoforge against rasterio and plain bytes.")
    parser.add_argument("--patches", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--archive", help="a folder in the official layout; default a synthetic one")
    parser.add_argument("--out", help="file for the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.archive or scratch)
        if options.archive is None:
            generate_archive(scratch, options.patches, seed=0)
        rows = list(open_archive(str(folder)).metadata())[: options.patches]
        files = files_of(folder, rows)
        ways: dict[str, Callable[[], None]] = {
            "bytes_alone": lambda: bytes_alone(files),
            "rasterio": lambda: with_rasterio(files),
            "eoforge_decoder": lambda: with_decoder(files),
            "eoforge_validated_pairs": lambda: with_archive(folder, rows),
            "eoforge_arrow_rows": lambda: to_rows(folder, rows),
        }
        bytes_alone(files)  # fills the page cache for all
        rates = measure(ways, len(rows), options.rounds)
    peer = rates["rasterio"]["pairs_per_cpu_s"]
    figures: dict[str, Any] = {
        "patches": len(rows),
        "files": sum(map(len, files)),
        "rates": rates,
        "ratio_to_rasterio_cpu": {name: round(rate["pairs_per_cpu_s"] / peer, 1) for name, rate in rates.items()},
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
