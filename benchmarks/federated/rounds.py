"""Cost of a round without training: ``python -m benchmarks.federated.rounds --megabytes 10 100 200 --silos 2 4``.

Zero-work silos over loopback with mutual TLS: each is a process that downloads the model, drops it, and answers with a
file. The coordinator is a process of its own. Measured:

- seconds per round, from opened to reduced as an operator sees it, and the reduction's part of it;
- memory of the coordinator: its peak, and beyond what the idle process holds;
- bytes of chunks over the ideal ``2 * silos * model``;
- in the first round, which is not timed, one silo is cut off at 90 % of its upload: what it sent afterwards;
- in the last round the coordinator is killed with half of the updates in: seconds until it answers again, and how many
  of those updates it has kept.

The default takes about fifteen minutes on two idle cores; models of 1,000 MB by ``--megabytes``.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.federated.processes import CoordinatorProcess, certificates, idle_silo, options, write_model
from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.federation import FederationClient
from eoforge.logs import configure_logs
from eoforge.storage.tensorfile import CHUNK_BYTES

WARM_UP = 1
DEADLINE_S = 60
"""Deadline of a round; one second per megabyte is added."""


def measure(
    megabytes: int, silos: int, rounds: int = 3, port: int = 0, wire: Callable[[], int | None] = lambda: None
) -> dict[str, Any]:
    """Figures of one size.

    Args:
        megabytes: Size of the model.
        silos: Number of silos.
        rounds: Number of timed rounds.
        port: Port of the coordinator; 0 for any free one.
        wire: Number of bytes on that port so far, or None without a counter.
    """
    with tempfile.TemporaryDirectory(dir=os.environ.get("EOFORGE_BENCH_FOLDER")) as temporary:
        folder = Path(temporary)
        names = [f"silo-{i:02d}" for i in range(silos)]
        tls = certificates(folder, names)
        size = write_model(folder, megabytes)
        coordinator = CoordinatorProcess(folder, tls, port)
        idle = coordinator.memory.now()
        last = WARM_UP + rounds + 1
        context = multiprocessing.get_context("spawn")
        release, resent = context.Event(), context.Value("q", 0)
        workers = []
        for number, name in enumerate(names):
            plan = (WARM_UP if number == 0 else 0, last if number >= silos // 2 else 0)
            arguments = (coordinator.target, tls, name, str(folder / "update"), *plan, release, resent)
            workers.append(context.Process(target=idle_silo, args=arguments, daemon=True))
            workers[-1].start()
        try:
            with FederationClient(coordinator.target, **options(tls, "bench")) as client:
                policy = pb.RoundPolicy(rounds=last, min_silos=silos, selection=pb.SELECTION_ALL)
                policy.missed_quorum = pb.MISSED_QUORUM_FAIL  # a silo that died must end the measurement
                policy.deadline.FromSeconds(DEADLINE_S + megabytes)
                model = client.put_model(str(folder / "model"))
                spec = pb.RunSpec(method="none", strategy="fedavg", policy=policy, initial_model=model)
                client.create_run(spec, "bench")
                seen = _watch(client, coordinator, tls, last, silos // 2, release, wire)
                done = client.run("bench")
            if done.status != pb.RUN_STATUS_FINISHED:
                raise SystemExit(f"{megabytes} MB x {silos}: {pb.RunStatus.Name(done.status)}, {done.failure}")
            # The model once from the operator; the last round lacks half of its uploads.
            ideal = size * (1 + 2 * silos * (last - 1) + silos + silos // 2)
            phases = [dict(s.seconds) for s in done.history[WARM_UP:-1]]
            return {
                "megabytes": round(size / 1e6, 1),
                "silos": silos,
                "seconds_per_round": sorted(round(s, 3) for s in seen["seconds"]),
                "median_seconds": round(float(np.median(seen["seconds"])), 3),
                "reduce_seconds": round(float(np.median([p["reduce"] for p in phases])), 3),
                "server_peak_mb": round(seen["peak"] / 1e6),
                "server_peak_beyond_idle_mb": round((seen["peak"] - idle) / 1e6),
                "resume_seconds_after_kill": round(seen["resumed"], 2),
                "updates_kept": f"{seen['kept']}/{silos // 2}",
                "sent_after_cut_over_model": round(resent.value / size, 4),
                "payload_over_ideal": round(seen["payload"] / ideal, 4),
                "wire_over_ideal": round(seen["wire"] / ideal, 4) if seen["wire"] else None,
                "chunk_bytes": CHUNK_BYTES,
                "load": round(os.getloadavg()[0], 1),
            }
        finally:
            for worker in workers:
                worker.kill()
            coordinator.stop()


def _watch(
    client: FederationClient,
    coordinator: CoordinatorProcess,
    tls: Path,
    last: int,
    half: int,
    release: Any,
    wire: Callable[[], int | None],
) -> dict[str, Any]:
    """Follows the run to its end, and kills the coordinator after ``half`` of the last round's updates."""
    seen: dict[str, Any] = {"seconds": [], "kept": 0}
    opened, accepted = 0.0, 0
    for event in client.watch("bench"):
        kind = event.WhichOneof("event")
        if kind == "round_opened":
            opened, accepted, number = time.monotonic(), 0, event.round_opened.number
        elif kind == "accepted":
            accepted += 1
            if event.accepted.round == last and accepted == half:
                seen |= {"peak": coordinator.memory.peak, "payload": coordinator.payload_bytes(tls), "wire": wire()}
                coordinator.kill()
                killed = time.monotonic()
                coordinator.start()
                seen["kept"] = len(client.run("bench").round.accepted)
                seen["resumed"] = time.monotonic() - killed
                release.set()
        elif kind == "reduced" and WARM_UP < number < last:
            seen["seconds"].append(time.monotonic() - opened)
    return seen


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federated.rounds")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 200])
    parser.add_argument("--silos", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each size")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    configure_logs(as_json=True, level=logging.ERROR)
    figures = []
    for megabytes in given.megabytes:
        for silos in given.silos:
            figures.append(measure(megabytes, silos, given.rounds))
            print(json.dumps(figures[-1]), flush=True)
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
