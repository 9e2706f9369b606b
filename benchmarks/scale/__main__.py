"""Search at 1 and 10 million codes: exact, Lance IVF and peers, each cell in a process of its own.

    python -m benchmarks.scale [--patches 500000 5000000] [--peer-python ENVIRONMENT/bin/python] [--largest 100000000]

A patch has two codes. Cells that are done are kept in ``--work`` and not repeated. Peers live in an environment of
their own that also has eoforge::

    python -m venv ENVIRONMENT && ENVIRONMENT/bin/pip install . lancedb usearch pymilvus milvus-lite
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.scale import archive, codes, engines, largest, peers
from eoforge.logs import configure_logs

CELL_S = 1_800
PATCHES = (500_000, 5_000_000)
HNSW_UP_TO = 500_000
"""Patches of the largest archive for usearch: HNSW takes some 80 us a code and core."""


def cell(name: str, patches: int, work: Path) -> dict[str, Any]:
    """One measurement, in this process."""
    folder = work / str(patches)
    if name == "largest":
        return largest.largest(patches, work)
    if name == "archive":
        folder.mkdir(parents=True, exist_ok=True)
        archive.write(folder, patches)
        return {"disk_mb": engines.disk_mb(folder)}
    return {**engines.ENGINES, **peers.PEERS}[name](str(folder / "codes.lance"), folder, folder / "truth.npy")


def most_patches(peer: str) -> int:
    """Patches of the largest archive that a peer builds in reasonable time."""
    return HNSW_UP_TO if peer == "usearch" else 1 << 60


def run(name: str, patches: int, work: Path, python: Path) -> dict[str, Any]:
    """A cell in a process of its own, or its kept result."""
    kept = work / "cells" / f"{name.replace(' ', '-')}-{patches}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    command = [str(python), "-m", "benchmarks.scale", "--cell", name, str(patches), "--work", str(work)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CELL_S, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"no end within {CELL_S} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"failed": (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]}
    found: dict[str, Any] = json.loads(lines[-1]) | {"load": round(os.getloadavg()[0], 1)}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found))
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    named = os.environ.get("EOFORGE_PEER_PYTHON")
    home = Path(os.environ.get("EOFORGE_BENCH_FOLDER") or Path("~/.cache/eoforge").expanduser(), "scale")
    parser.add_argument("--patches", type=int, nargs="*", default=list(PATCHES))
    every = ("archive", *engines.ENGINES, *peers.PEERS)
    parser.add_argument("--engines", nargs="*", choices=every, default=every, help="archive and exact come first")
    parser.add_argument("--largest", type=int, help="patches of an archive without tables (see largest.py)")
    parser.add_argument("--peer-python", type=Path, default=named and Path(named), help="or EOFORGE_PEER_PYTHON")
    parser.add_argument("--work", type=Path, default=home, help="folder for archives and finished cells")
    parser.add_argument("--fit", metavar="CODES", help="print figures of a table of codes and of the generator")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    configure_logs(as_json=True, level=logging.WARNING)
    if given.fit:
        real = codes.codes_of_table(given.fit)
        made = codes.block(codes.FITTED, 0, len(real[0]))  # the distance of a neighbour depends on the number of codes
        print(json.dumps({"table": codes.figures(*real), "generator": codes.figures(*made)}, indent=2))
        return
    if given.cell:
        given.work.mkdir(parents=True, exist_ok=True)
        print(json.dumps(cell(given.cell[0], int(given.cell[1]), given.work)))
        return
    rows = []
    for patches in given.patches:
        for name in given.engines:
            if name in peers.PEERS and (given.peer_python is None or patches > most_patches(name)):
                continue
            python = given.peer_python if name in peers.PEERS else Path(sys.executable)
            found = run(name, patches, given.work, python)
            rows.append({"patches": patches, "engine": name, **found})
            print(json.dumps(rows[-1]), flush=True)
            if name == "archive" and "failed" in found:
                break
    if given.largest:
        found = run("largest", given.largest, given.work, Path(sys.executable))
        rows.append({"patches": given.largest, "engine": "exact, without metadata of hits", **found})
        print(json.dumps(rows[-1]), flush=True)
    if given.out:
        generator = codes.figures(*codes.block(codes.FITTED, 0, 2_000))
        given.out.write_text(json.dumps({"generator": generator, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
