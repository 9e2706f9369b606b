"""Commit of many shards of tiny rasters: ``python -m benchmarks.scale.commits --shards 1000 10000``.

A shard has 500 rows of a raster of 4 x 4 pixels, and a manifest of its own. Each size runs in a process of its own; one
that is done is kept in ``--work``. Measured, with the time of this process and its peak of memory:

- the commit of all shards, and its repetition, which finds the result of the first;
- a later load of ten shards, half of whose rows are in the table with other pixels;
- the files of Lance that grow with the number of shards: manifest and transaction;
- opening, and the same after a compaction.

With ``--s3`` tables and manifests are on a SeaweedFS server of this machine, and sizes of files are left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from eoforge.data.tables.commit import Job, commit, create_table, write_fragments
from eoforge.data.tables.schema import PRIMARY_KEY
from eoforge.logs import configure_logs
from eoforge.storage.addresses import TableRef, is_s3, open_table
from eoforge.storage.seaweed import seaweedfs

ROWS, LATER_SHARDS = 500, 10
KEYS = ("patch_id",)
SCHEMA = pa.schema(
    [
        pa.field("patch_id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        pa.field("raster", pa.fixed_shape_tensor(pa.uint16(), (1, 4, 4)), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
    ]
)


def shard(first: int, content: str) -> pa.RecordBatch:
    """Rows ``first`` to ``first + ROWS - 1`` with names as long as real ones."""
    numbers = range(first, first + ROWS)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(16 * ROWS, dtype=np.uint16)), 16)
    columns = [
        pa.array([f"S2A_MSIL2A_20180101T000000_N9999_R001_T35VNK_{i:09d}" for i in numbers]),
        pa.ExtensionArray.from_storage(SCHEMA.field("raster").type, pixels),
        pa.array([f"{content}{i:031x}" for i in numbers]),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def staged(uri: str, name: str, shards: int, first: int, content: str) -> Job:
    """Job with data files and manifests of its shards."""
    job = Job(uri, name)
    for number in range(shards):
        batch = shard(first + number * ROWS, content)
        job.put_manifest(number, {"fragments": write_fragments(uri, SCHEMA, [batch])})
    return job


@contextmanager
def measured(figures: dict[str, Any], name: str) -> Iterator[None]:
    """Seconds, CPU seconds and peak of memory of a block."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start, cpu = time.perf_counter(), time.process_time()
    yield
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    figures[name] = {
        "s": round(time.perf_counter() - start, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "peak_mb": round(int(status["VmHWM"].split()[0]) / 1024),
    }


def sizes(folder: Path) -> dict[str, float]:
    """Kilobytes of the newest manifest and the newest transaction; megabytes of all manifests, and of data files."""

    def newest(pattern: str) -> float:
        return round(max(folder.glob(pattern), key=lambda path: path.stat().st_mtime).stat().st_size / 1e3, 1)

    def total(name: str) -> float:
        return round(sum(path.stat().st_size for path in (folder / name).iterdir()) / 1e6, 1)

    return {
        "manifest_kb": newest("_versions/*.manifest"),
        "transaction_kb": newest("_transactions/*"),
        "manifests_mb": total("_versions"),
        "data_mb": total("data"),
        "data_files": len(list((folder / "data").iterdir())),
    }


def measure(shards: int, uri: str) -> dict[str, Any]:
    """Figures of one number of shards, with a table at ``uri``."""
    create_table(uri, SCHEMA)
    found: dict[str, Any] = {"shards": shards, "rows": shards * ROWS}
    with measured(found, "write"):
        job = staged(uri, "first", shards, 0, "a")
    with measured(found, "commit"):
        committed = commit(uri, job, shards, KEYS, digest="digest")
    with measured(found, "commit again"):
        repeated = commit(uri, job, shards, KEYS, digest="digest")
    if committed != repeated or committed.added != shards * ROWS:
        raise SystemExit(f"expected {shards * ROWS} rows, once; got {committed}, then {repeated}")
    if not is_s3(uri):
        found["files"] = sizes(Path(uri))
    later = staged(uri, "later", LATER_SHARDS, shards * ROWS - LATER_SHARDS * ROWS // 2, "b")
    with measured(found, "later load of 10 shards"):
        changed = commit(uri, later, LATER_SHARDS, KEYS, digest="digest")
    if (changed.added, changed.changed) != (LATER_SHARDS * ROWS // 2,) * 2:
        raise SystemExit(f"expected half of the rows new and half changed; got {changed}")
    with measured(found, "open"):
        table = open_table(TableRef(uri))
    with measured(found, "read keys"):
        table.to_table(columns=["patch_id"])
    with measured(found, "compact"):
        done = table.optimize.compact_files(num_threads=1)
    found["compacted"] = {"fragments_before": done.fragments_removed, "fragments_after": done.fragments_added}
    if not is_s3(uri):
        found["files after compaction"] = sizes(Path(uri))
    with measured(found, "open after compaction"):
        table = open_table(TableRef(uri))
    with measured(found, "read keys after compaction"):
        rows = table.to_table(columns=["patch_id"]).num_rows
    if rows != shards * ROWS + changed.added:
        raise SystemExit(f"expected {shards * ROWS + changed.added} rows after compaction; got {rows}")
    again = staged(uri, "again", LATER_SHARDS, rows * 2, "c")
    with measured(found, "later load after compaction"):
        commit(uri, again, LATER_SHARDS, KEYS, digest="digest")
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale.commits")
    parser.add_argument("--shards", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--work", type=Path, default=Path("~/.cache/eoforge/scale").expanduser())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--s3", action="store_true", help="on SeaweedFS instead of a local folder")
    parser.add_argument("--cell", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    configure_logs(as_json=True, level=logging.WARNING)
    folder = given.work / "commits"
    if given.cell:
        if not given.s3:
            print(json.dumps(measure(given.cell, str(folder / "t.lance"))))
            return
        with seaweedfs(folder) as server:
            os.environ.update(server.env)
            print(json.dumps(measure(given.cell, server.uri("t.lance"))))
        return
    rows = []
    for shards in given.shards:
        kept = given.work / "cells" / f"commits{'-s3' * given.s3}-{shards}.json"
        if not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            kept.parent.mkdir(exist_ok=True)
            command = [
                sys.executable,
                "-m",
                "benchmarks.scale.commits",
                "--cell",
                str(shards),
                "--work",
                str(given.work),
            ]
            command += ["--s3"] * given.s3
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            kept.write_text(done.stdout)
            shutil.rmtree(folder)
        rows.append({"store": "SeaweedFS" if given.s3 else "local"} | json.loads(kept.read_text()))
        print(json.dumps(rows[-1]), flush=True)
    if given.out:
        given.out.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
