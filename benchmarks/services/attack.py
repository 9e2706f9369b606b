"""What a hostile caller costs the others: ``python -m benchmarks attack``.

Each service is started as the charts start it (TLS, tokens, default limits) and gets the hostile set. Per case: the
statuses that came back, peak memory over the idle process, the longest turn of the event loop in CPU time, the longest
health answer, and the p99 of a well-behaved caller beside the attack, against the same just before it. All processes
share the machine, whose load average stands beside the figures: memory and the loop's CPU time do not depend on it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.services.attack_cases import WARM, Attacker, cases
from benchmarks.services.attack_services import PREDICTION_BUNDLE, SERVICES, Neighbour, Secrets, Served

WARM_S, IDLE_S, LEAD_S, AFTER_S = 2.0, 3.0, 0.2, 1.0
ALLOWED_MIB, ALLOWED_TIMES = 256.0, 5.0
DEAR_SIDE = 1020
MOST_PATCHES = 32


def payloads(folder: Path) -> tuple[bytes, bytes]:
    """Decompress requests: of a patch, and of a few kilobytes that stand for as many pixels as are allowed."""
    import numpy as np

    from benchmarks.codec.samples import pairs_of, rasters, untrained_bundle
    from eoforge.api.compression.v1 import compression_pb2 as pb
    from eoforge.codec.coder import Rate
    from eoforge.codec.raster import Raster, factor_of
    from eoforge.data.bands import MODALITIES
    from eoforge.methods.codecs import open_coder
    from eoforge.methods.rs_jcif.config import Config

    bundle = untrained_bundle(str(folder), pairs_of("synthetic", 16), Config.tiny())
    (folder / "bundle").write_text(bundle.uri)
    coder, rate = open_coder([bundle.uri]), Rate(quality=0.0)
    [small] = coder.compress(rasters(pairs_of("synthetic", 1), "s2"), rate)
    sides = {band: -(-DEAR_SIDE // factor_of(band)) for band in MODALITIES["s2"]}
    flat = {band: np.full((side, side), 1500, np.uint16) for band, side in sides.items()}
    [dear] = coder.compress([Raster(flat)], rate)
    return tuple(bytes(pb.DecompressRequest(stream=s).SerializeToString()) for s in (small, dear))  # type: ignore[return-value]


def patches(folder: Path) -> tuple[bytes, bytes]:
    """Requests of predictions: of one patch, and of as many as one request may hold."""
    import numpy as np

    from benchmarks.services.prediction import patches_of, request_of, untrained_bundle
    from eoforge.methods.reben.config import Config

    (folder / PREDICTION_BUNDLE).write_text(untrained_bundle(str(folder), Config.tiny()).uri)
    [one] = patches_of(1)
    many = {name: np.repeat(pixels, MOST_PATCHES, axis=0) for name, pixels in one.items()}
    return request_of(one).SerializeToString(), request_of(many).SerializeToString()


def attacked(kind: str, folder: Path, files: Secrets, small: bytes, dear: bytes, only: str) -> list[dict[str, Any]]:
    """The table of one service."""
    rows: list[dict[str, Any]] = []
    chosen = [name for name in cases(kind) if only in name]
    if not chosen:
        return rows
    served = Served(kind, folder, files)
    neighbour, attacker = Neighbour(served, files, small), Attacker(served, files, small, dear)
    try:
        for number, name in enumerate(chosen):
            if not served.process.is_alive() or served.status("VmRSS") > served.idle_mib + ALLOWED_MIB / 4:
                for one in (attacker, neighbour, served):
                    one.stop()
                served = Served(kind, folder, files)
                neighbour, attacker = Neighbour(served, files, small), Attacker(served, files, small, dear)
                number = 0
            if not number:
                attacker.send(WARM)
                watched(neighbour, partial(time.sleep, WARM_S))
                served.idle_mib = served.status("VmRSS")
            idle, _ = watched(neighbour, partial(time.sleep, IDLE_S))
            served.forget_peak()
            since = time.monotonic()
            seen, codes = watched(neighbour, partial(attacker.send, name))
            row = {
                "service": kind,
                "case": name,
                "statuses": dict(codes),
                "seconds": round(time.monotonic() - since - LEAD_S - AFTER_S, 1),
                "peak_over_idle_mib": round(served.status("VmHWM") - served.idle_mib),
                "loop_ms": round(served.loop_ms, 1),
                "health_ms": round(seen["health_ms"]),
                "p99_ms": round(seen["p99_ms"], 1),
                "idle_p99_ms": round(idle["p99_ms"], 1),
                "times_idle": round(seen["p99_ms"] / idle["p99_ms"], 1),
                "neighbour_errors": seen["errors"],
                "load": round(os.getloadavg()[0], 1),
            }
            row["holds"] = (
                row["peak_over_idle_mib"] <= ALLOWED_MIB and row["times_idle"] <= ALLOWED_TIMES and not seen["errors"]
            )
            rows.append(row)
            print(line_of(row), flush=True)
    finally:
        for one in (attacker, neighbour, served):
            one.stop()
    return rows


def watched(neighbour: Neighbour, work: Callable[[], Counter[str] | None]) -> tuple[dict[str, Any], Counter[str]]:
    """What the well-behaved caller sees while ``work`` runs, and shortly before and after; what ``work`` returned."""
    neighbour.start()
    time.sleep(LEAD_S)
    codes = work() or Counter()
    time.sleep(AFTER_S)
    return neighbour.figures(), codes


def line_of(row: dict[str, Any]) -> str:
    """One row for people."""
    codes = ", ".join(f"{count} {code}" for code, count in row["statuses"].items())
    return (
        f"{row['service']:11} {row['case']:38} {'ok' if row['holds'] else 'TOO MUCH':8} "
        f"+{row['peak_over_idle_mib']} MiB, loop {row['loop_ms']} ms, health {row['health_ms']} ms, "
        f"p99 {row['p99_ms']} ms = {row['times_idle']} x idle, load {row['load']}, {row['seconds']} s: {codes}"
        + (f"; neighbour: {row['neighbour_errors']}" if row["neighbour_errors"] else "")
    )


def main() -> None:
    """Attacks every service, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--services", nargs="*", default=SERVICES, choices=SERVICES)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        files = Secrets(folder)
        files.write()
        streams = payloads(folder) if {"compression", "retrieval"} & set(arguments.services) else (b"", b"")
        images = patches(folder) if "prediction" in arguments.services else (b"", b"")
        rows = []
        for kind in arguments.services:
            small, dear = images if kind == "prediction" else streams
            rows += attacked(kind, folder, files, small, dear, arguments.only)
    if arguments.out:
        arguments.out.write_text(json.dumps({"cases": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
