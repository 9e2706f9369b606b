"""Flower as it is deployed: a SuperLink and SuperNodes with TLS, apps in processes of their own."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.federated.peers.common import PORT, SILO_ADDRESS, ByteCounter, Failed, Processes, wait_for
from benchmarks.federated.processes import TENSOR_ELEMENTS, MemorySampler, layers_of
from eoforge.federated.ca import Authority

APP = Path(__file__).with_name("flower_app")
WARM_UP, GIVEN_UP_S = 1, 60.0


def measure(python: Path, folder: Path, megabytes: int, silos: int, rounds: int, crash: bool) -> dict[str, Any]:
    """Figures of one size; with ``crash`` the server is killed in the last round instead, and nothing is timed."""
    tls, home = folder / "tls", folder / "home"
    home.mkdir()
    authority = Authority.create(folder / "ca")
    authority.issue("server", "coordinator", tls, hosts=["127.0.0.1", SILO_ADDRESS])
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "127.0.0.1:{PORT}"\n'
        f'root-certificates = "{tls / "ca.pem"}"\n'
    )
    bin_ = python.parent
    path = f"{bin_}:/usr/local/bin:/usr/bin:/bin"
    environment = {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "PATH": path, "PYTHONPATH": ""}
    processes = Processes(folder, environment)
    pair = ["--ssl-certfile", str(tls / "coordinator.pem"), "--ssl-keyfile", str(tls / "coordinator.key")]
    pair += ["--ssl-ca-certfile", str(tls / "ca.pem")]
    server = [str(bin_ / "flower-superlink"), "--disable-runtime-dependency-installation", *pair]
    server += ["--host", "0.0.0.0", "--port", str(PORT)]  # silos come in by another address
    if crash:
        server += ["--database", str(folder / "state.db")]
    wire = ByteCounter(address=SILO_ADDRESS)
    total = rounds + WARM_UP
    try:
        processes.start("superlink", server)
        wait_for(lambda: "running on" in processes.log("superlink"), "SuperLink", 90)
        memory = MemorySampler(lambda: processes.started["superlink"].pid)
        for i in range(silos):
            node = [str(bin_ / "flower-supernode"), "--root-certificates", str(tls / "ca.pem"), *pair]
            node += ["--superlink", f"{SILO_ADDRESS}:{PORT}", "--port", str(9100 + i)]
            processes.start(f"node-{i}", [*node, "--node-config", f"partition-id={i}"])
        wait_for(lambda: processes.log("superlink").count("Activated node") >= silos, "SuperNodes", 90)
        held = silos // 2 if crash else 0
        config = f'layers={layers_of(megabytes)} silos={silos} rounds={total} folder="{folder}" held={held}'
        processes.run([str(bin_ / "flwr"), "run", str(APP), "bench", "--run-config", config])
        if crash:
            return _crash(processes, server, folder, silos, total)
        wait_for(lambda: len(_rounds(folder)) == total, f"{total} rounds")
        lines = _rounds(folder)
        if failed := sum(line["failed"] for line in lines):
            raise Failed(f"{failed} replies of silos were errors")
        moved, ideal = wire(), 2 * silos * total * layers_of(megabytes) * 4 * TENSOR_ELEMENTS
        return {
            "median_seconds": float(np.median([line["seconds"] for line in lines[WARM_UP:]])),
            "server_peak_mb": round(memory.peak / 1e6),
            "wire_over_ideal": round(moved / ideal, 3) if moved else None,
        }
    finally:
        processes.stop()


def _rounds(folder: Path) -> list[dict[str, Any]]:
    path = folder / "rounds.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _crash(processes: Processes, server: list[str], folder: Path, silos: int, total: int) -> dict[str, Any]:
    """Kills the server with half of the answers of the last round in, and starts it again on its database."""
    answered = silos - silos // 2
    wait_for(lambda: len(list(folder.glob(f"answered-*-{total}"))) >= answered, "answers of the last round")
    time.sleep(5)  # the answer has left the app; let it reach the server
    processes.kill("superlink")
    processes.start("superlink", server)
    (folder / "go").touch()
    try:
        wait_for(lambda: len(_rounds(folder)) >= total, "last round", GIVEN_UP_S)
    except Failed:
        listed = processes.run([str(Path(server[0]).with_name("flwr")), "list", "bench", "--format", "json"])
        status = re.findall(r'"status":\s*"([^"]+)"', listed)
        return {"resumed": False, "status": status[0] if status else listed.strip()[-200:]}
    return {"resumed": True, "rounds": _rounds(folder)}
