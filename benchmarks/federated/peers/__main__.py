"""Ours, Flower and NVIDIA FLARE with zero-work clients over loopback with TLS, one after the other on this machine.

    python -m benchmarks.federated.peers --peer-python ENVIRONMENT/bin/python [--megabytes 10 100] [--silos 4]

The peers live in an environment of their own, never in ours::

    python -m venv ENVIRONMENT && ENVIRONMENT/bin/pip install flwr nvflare

Each case runs in namespaces of its own (which takes root; elsewhere bytes on the wire are not counted), with one round
of warm-up. ``median_seconds`` is from a round's opening to its average, ``server_peak_mb`` the resident memory of all
server processes together. Once, at the first size, every server is killed with ``kill -9`` while half of the last
round's updates are in, and started again. The default sizes take about twenty minutes on two idle cores; a peer that
fails or is not there is named with the reason.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.federated.peers import flare, flower
from benchmarks.federated.peers.common import PORT, ByteCounter, Failed
from eoforge.logs import configure_logs

PEERS = {"flower": ("flwr", flower.measure), "flare": ("nvflare", flare.measure)}
CASE_S = 900.0
MEASURES = ("median_seconds", "server_peak_mb", "wire_over_ideal")


def case(system: str, python: Path | None, megabytes: int, silos: int, rounds: int, crash: bool) -> dict[str, Any]:
    """One measurement, in this process."""
    if system == "ours":
        from benchmarks.federated.rounds import measure

        found = measure(megabytes, silos, rounds, PORT, ByteCounter())
        kept = {"resumed": True, "status": f"{found['updates_kept']} updates kept", "round": "finished"}
        return kept if crash else {name: found[name] for name in MEASURES}
    assert python is not None
    with tempfile.TemporaryDirectory(dir=os.environ.get("EOFORGE_BENCH_FOLDER")) as folder:
        try:
            return PEERS[system][1](python, Path(folder), megabytes, silos, rounds, crash)
        except (Failed, subprocess.SubprocessError) as error:
            return {"failed": str(error)}


def isolated(arguments: list[str]) -> dict[str, Any]:
    """Runs :func:`case` in a process with a network of its own, if this machine lets us."""
    command = [sys.executable, "-m", "benchmarks.federated.peers", "--case", *arguments]
    environment = dict(os.environ)
    # Processes of its own, too: whatever a case leaves behind ends with it.
    own = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") and subprocess.run([*own, "true"], capture_output=True, check=False).returncode == 0:
        command = [*own, "sh", "-c", 'ip link set lo up && "$@"', "case", *command]
        environment["EOFORGE_BENCH_ISOLATED"] = "1"
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=CASE_S, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"no end within {CASE_S:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"failed": (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def installed(python: Path | None, package: str) -> str | None:
    """Version of a peer, or None."""
    if python is None:
        return None
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def compare(python: Path | None, megabytes: list[int], silos: list[int], rounds: int) -> dict[str, Any]:
    """All cases, and how many times ours the peers take."""
    systems = {"ours": version("eoforge")} | {name: installed(python, package) for name, (package, _) in PEERS.items()}
    for name, found in systems.items():
        if found is None:
            print(f"{name}: not measured, it is not installed; see --help", flush=True)
    there = [name for name, found in systems.items() if found]
    rows: list[dict[str, Any]] = []
    sizes = [(m, n) for m in megabytes for n in silos]
    for crash, (size, count) in [(False, sizes[0]), (True, sizes[0]), *((False, s) for s in sizes[1:])]:
        found = {}
        for system in there:
            arguments = [system, str(python or ""), str(size), str(count), str(rounds), str(int(crash))]
            found[system] = isolated(arguments) | {"load": round(os.getloadavg()[0], 1)}
            print(
                f"{size} MB x {count}{', server killed' if crash else ''}: {system} {json.dumps(found[system])}",
                flush=True,
            )
        ratios = (
            {} if crash else {system: _ratios(found["ours"], found[system]) for system in there if system != "ours"}  # type: ignore[arg-type]
        )
        rows.append({"megabytes": size, "silos": count, "crash": crash, "found": found, "times_ours": ratios})
        if any(ratios.values()):
            print(f"   times ours: {json.dumps(ratios)}", flush=True)
    return {"versions": systems, "rows": rows}


def _ratios(ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, float]:
    return {name: round(peer[name] / ours[name], 2) for name in MEASURES if peer.get(name) and ours.get(name)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.federated.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    named = os.environ.get("EOFORGE_PEER_PYTHON")
    parser.add_argument("--peer-python", type=Path, default=named and Path(named), help="or EOFORGE_PEER_PYTHON")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 200])
    parser.add_argument("--silos", type=int, nargs="+", default=[4])
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each size")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    configure_logs(as_json=True, level=logging.ERROR)
    if given.case:
        system, python, *numbers = given.case
        megabytes, silos, rounds, crash = map(int, numbers)
        print(json.dumps(case(system, Path(python) if python else None, megabytes, silos, rounds, bool(crash))))
        return
    result = compare(given.peer_python, given.megabytes, given.silos, given.rounds)
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
