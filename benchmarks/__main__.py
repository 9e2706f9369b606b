"""``python -m benchmarks [CASE ...]``: runs the cases and keeps what they printed, with device and versions.

Every case is a module that measures ours and its peer in the same run and writes its figures with ``--out``. Results go
to ``benchmarks/results/<device>/<case>.json``; they are records of a run on a named machine, never expectations.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

CASES: dict[str, str] = {
    "read_archive": "benchmarks.data.read_archive",
    "ingest": "benchmarks.data.ingest",
    "ingest_memory": "benchmarks.data.ingest_memory",
    "construct": "benchmarks.data.construct --loop-columns 17",
    "construct_shard": "benchmarks.data.construct --shards 1 --loop-columns 8",
    "loader": "benchmarks.data.loader",
    "search": "benchmarks.index.search",
    "scale": "benchmarks.scale",
    "commits": "benchmarks.scale.commits",
    "retrieval_service": "benchmarks.services.retrieval",
    "compression_service": "benchmarks.services.compression",
    "across": "benchmarks.services.across",
    "attack": "benchmarks.services.attack",
    "console_annotate": "benchmarks.services.console_annotate",
    "console_pages": "benchmarks.services.console_pages",
    "federated_rounds": "benchmarks.federated.rounds",
    "federated_rounds_large": "benchmarks.federated.rounds --megabytes 1000 --silos 2 4 --rounds 2",
    "federated_peers": "benchmarks.federated.peers",
    "federated_peers_large": "benchmarks.federated.peers --megabytes 1000 --silos 2 --rounds 1",
    "federated_soak": "benchmarks.federated.soak",
    "federated_many": "benchmarks.federated.many",
    "fl_compare": "benchmarks.methods.fl_compare",
    "cross_modal": "benchmarks.methods.cross_modal",
    "rs_jcif": "benchmarks.methods.rs_jcif",
    "reben": "benchmarks.methods.reben epochs=12",
    "dml_s2r": "benchmarks.regression",
    "dml_s2r_images": "benchmarks.regression.images",
    "anneal": "benchmarks.anneal",
    "spatial_leakage": "benchmarks.methods.spatial_leakage",
    "prediction_service": "benchmarks.services.prediction",
    "label_noise": "benchmarks.label_noise --peer-rates 0.4",
    "label_noise_overhead": "benchmarks.label_noise.overhead --batch 4 --steps 4",
    "codec_lossless": "benchmarks.codec.lossless",
    "codec_speed": "benchmarks.codec.speed",
    "codec_memory": "benchmarks.codec.memory",
    "codec_fuzz": "benchmarks.codec.fuzz",
}
"""Case -> module and its arguments. Kernels have a runner of their own: ``python -m benchmarks.kernels``."""

VERSIONS = (
    "torch",
    "pylance",
    "pyarrow",
    "numpy",
    "faiss-cpu",
    "rasterio",
    "grpcio",
    "lmdb",
    "constriction",
    "imagecodecs",
)


def environment() -> dict[str, Any]:
    """The machine and the versions a figure belongs to."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "device": f"cpu-{os.cpu_count()}",
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "revision": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def run_case(name: str) -> Path:
    """Runs one case in a process of its own and writes its record."""
    described = environment()
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = ["python", "-m", *CASES[name].split()]
        subprocess.run([sys.executable, *command[1:], "--out", str(figures)], cwd=ROOT, check=True)
        record = {"case": name, "command": " ".join(command), "environment": described}
        record["figures"] = json.loads(figures.read_text())
    target = RESULTS / str(described["device"]) / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record, indent=2) + "\n")
    return target


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"any of {', '.join(CASES)}; all of them by default")
    names = parser.parse_args().cases or list(CASES)
    unknown = sorted(set(names) - set(CASES))
    if unknown:
        parser.error(f"unknown cases {', '.join(unknown)}; expected any of {', '.join(CASES)}")
    for name in names:
        print(f"== {name}", flush=True)
        print(f"   {run_case(name).relative_to(ROOT)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
