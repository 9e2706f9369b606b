"""What a hostile caller costs the others: ``python -m benchmarks attack``.

Each service is started as the charts start it (TLS, tokens, default limits) and gets the hostile set. Per case: the
statuses that came back, peak memory over the idle process, the longest health answer, and the p99 of a well-behaved
caller beside the attack, against the same without one. All processes share the machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.services.attack_cases import Attack, cases
from benchmarks.services.attack_services import SERVICES, Neighbour, Secrets, Served

IDLE_S, AFTER_S = 4.0, 1.0
ALLOWED_MIB, ALLOWED_TIMES = 256.0, 5.0
DEAR_SIDE = 1020


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


def attacked(kind: str, folder: Path, files: Secrets, small: bytes, dear: bytes, only: str) -> list[dict[str, Any]]:
    """The table of one service."""
    rows: list[dict[str, Any]] = []
    served = Served(kind, folder, files)
    neighbour = Neighbour(served, files, small)
    idle: dict[str, Any] = {}
    try:
        for name, attack in cases(kind).items():
            if only not in name:
                continue
            if not served.process.is_alive() or served.status("VmRSS") > served.idle_mib + ALLOWED_MIB:
                neighbour.stop()
                served.stop()
                served, idle = Served(kind, folder, files), {}
                neighbour = Neighbour(served, files, small)
            if not idle:
                for _ in range(2):  # the first one warms up
                    neighbour.start()
                    time.sleep(IDLE_S / 2)
                    idle = neighbour.figures()
                served.idle_mib = served.status("VmRSS")
            served.forget_peak()
            neighbour.start()
            time.sleep(0.2)
            since = time.monotonic()
            codes = attack(Attack(served, files, small, dear))
            time.sleep(AFTER_S)
            seconds = time.monotonic() - since - AFTER_S
            seen = neighbour.figures()
            row = {
                "service": kind,
                "case": name,
                "statuses": dict(codes),
                "seconds": round(seconds, 1),
                "peak_over_idle_mib": round(served.status("VmHWM") - served.idle_mib),
                "health_ms": round(seen["health_ms"]),
                "p99_ms": round(seen["p99_ms"], 1),
                "idle_p99_ms": round(idle["p99_ms"], 1),
                "neighbour_errors": seen["errors"],
            }
            row["holds"] = (
                row["peak_over_idle_mib"] <= ALLOWED_MIB
                and row["p99_ms"] <= ALLOWED_TIMES * idle["p99_ms"]
                and not seen["errors"]
            )
            rows.append(row)
            print(line_of(row), flush=True)
    finally:
        neighbour.stop()
        served.stop()
    return rows


def line_of(row: dict[str, Any]) -> str:
    """One row for people."""
    codes = ", ".join(f"{count} {code}" for code, count in row["statuses"].items())
    return (
        f"{row['service']:11} {row['case']:38} {'ok' if row['holds'] else 'TOO MUCH':8} "
        f"+{row['peak_over_idle_mib']} MiB, "
        f"health {row['health_ms']} ms, p99 {row['p99_ms']} ms (idle {row['idle_p99_ms']}), {row['seconds']} s: {codes}"
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
        small, dear = payloads(folder)
        rows = [r for kind in arguments.services for r in attacked(kind, folder, files, small, dear, arguments.only)]
    if arguments.out:
        arguments.out.write_text(json.dumps({"cases": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
