"""Benchmark of the peak resident memory of an ingestion at growing archive sizes; a constant peak is the goal.

Each size is ingested by a fresh process; its resident set and those of its workers are sampled. Smaller archives are
the same files under shorter metadata.

    python -m benchmarks.data.ingest_memory [--sizes 1000 5000 20000] [--workers 1] [--archive FOLDER] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from eoforge.data.archives.layout import MAIN_FILE, MAP_FOLDER, S1_FOLDER, S2_FOLDER, SNOW_CLOUD_FILE
from eoforge.data.synthetic.archive import generate_archive

_SAMPLE_S = 0.02
_PROGRAM = """
import sys
from eoforge.data.ingest.run import ingest
if __name__ == "__main__":
    print(ingest(sys.argv[1], sys.argv[2], workers=int(sys.argv[3])).added)
"""


def shorter(archive: Path, rows: int, folder: Path) -> Path:
    """First ``rows`` patches of an archive: links to its folders, with its own metadata."""
    folder.mkdir()
    for name in (S2_FOLDER, S1_FOLDER, MAP_FOLDER):
        (folder / name).symlink_to(archive / name)
    tables = [pq.read_table(archive / name) for name in (MAIN_FILE, SNOW_CLOUD_FILE)]
    pq.write_table(pa.concat_tables(tables).slice(0, rows), folder / MAIN_FILE)
    return folder


def peak_of(archive: Path, table: Path, workers: int) -> dict[str, float]:
    """Ingestion in a new process, with its memory over time."""
    script = table.parent / "ingest_once.py"
    script.write_text(_PROGRAM)
    start = time.perf_counter()
    command = [sys.executable, str(script), str(archive), str(table), str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    largest, total = sampled(process)
    added = int(process.communicate()[0].splitlines()[-1])
    if process.returncode:
        raise SystemExit(f"ingestion of {archive} failed")
    return {
        "patches": added,
        "peak_process_mib": largest / 2**20,
        "peak_all_mib": total / 2**20,
        "seconds": time.perf_counter() - start,
    }


def sampled(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Peak resident bytes of one process, and of all together, sampled until a process and its workers end."""
    root = psutil.Process(process.pid)
    largest = total = 0
    while process.poll() is None:
        sizes = []
        try:
            for one in (root, *root.children(recursive=True)):
                sizes.append(one.memory_info().rss)
        except psutil.NoSuchProcess:  # the process ended between two samples
            continue
        largest, total = max(largest, *sizes), max(total, sum(sizes))
        time.sleep(_SAMPLE_S)
    return largest, total


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--archive", help="an archive with at least as many patches as the largest size")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        whole = options.archive or generate_archive(str(scratch / "archive"), max(options.sizes), workers=2).uri
        runs = []
        for size in sorted(options.sizes):
            place = scratch / f"tables-{size}"
            place.mkdir()
            archive = shorter(Path(whole).absolute(), size, scratch / f"archive-{size}")
            runs.append(peak_of(archive, place / "patches.lance", options.workers))
            print(json.dumps(runs[-1]), flush=True)
    growth = runs[-1]["peak_process_mib"] / runs[0]["peak_process_mib"]
    figures = {"workers": options.workers, "runs": runs, "largest_over_smallest": growth}
    print(f"largest archive over smallest: {growth:.2f} x the memory")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
