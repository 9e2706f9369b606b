"""NVIDIA FLARE as it is deployed: a provisioned server and sites with mutual TLS, jobs in processes of their own."""

from __future__ import annotations

import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.federated.peers.common import ByteCounter, Failed, Processes, wait_for
from benchmarks.federated.processes import TENSOR_ELEMENTS, MemorySampler, layers_of

APP = Path(__file__).with_name("flare_app")
WARM_UP, GIVEN_UP_S = 1, 60.0
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) - FedAvg - ")
_STARTED = re.compile(r"^\s*Round \d+ started\.")
_DONE = re.compile(r"Aggregated (\d+)/(\d+) results")


def measure(python: Path, folder: Path, megabytes: int, silos: int, rounds: int, crash: bool) -> dict[str, Any]:
    """Figures of one size; with ``crash`` the server is killed in the last round instead, and nothing is timed."""
    home = folder / "home"
    home.mkdir()
    path = f"{python.parent}:/usr/local/bin:/usr/bin:/bin"
    environment = {"NVFLARE_POC_WORKSPACE": str(folder / "poc"), "HOME": str(home), "PATH": path, "PYTHONPATH": ""}
    processes = Processes(folder, environment | {"PYTHONUNBUFFERED": "1"})
    processes.run([str(python.parent / "nvflare"), "poc", "prepare", "-n", str(silos), "--force"])
    kits = folder / "poc" / "example_project" / "prod_00"
    wire = ByteCounter()
    elements = layers_of(megabytes) * TENSOR_ELEMENTS
    total = rounds + WARM_UP

    def node(kind: str, name: str) -> list[str]:
        module = f"nvflare.private.fed.app.{kind}.{kind}_train"
        facts = [
            "secure_train=true",
            "org=nvidia",
            "config_folder=config",
            *([f"uid={name}"] if kind == "client" else []),
        ]
        return [str(python), "-u", "-m", module, "-m", str(kits / name), "-s", f"fed_{kind}.json", "--set", *facts]

    try:
        processes.start("server", node("server", "server"), kits / "server")
        time.sleep(5)
        memory = MemorySampler(lambda: processes.started["server"].pid)
        sites = [f"site-{i + 1}" for i in range(silos)]
        for site in sites:
            processes.start(site, node("client", site), kits / site)
        wait_for(lambda: all("Successfully registered" in processes.log(s) for s in sites), "registered sites", 120)
        held = sites[: silos // 2] if crash else []
        submit = [str(python), str(APP / "job.py"), "--kit", str(kits / "admin@nvidia.com"), "--folder", str(folder)]
        submit += ["--elements", str(elements), "--silos", str(silos), "--rounds", str(total)]
        processes.run([*submit, *(["--held", ",".join(held)] if held else [])], timeout=180)
        if crash:
            return _crash(processes, node("server", "server"), kits, folder, total, silos)
        wait_for(lambda: "Finished FedAvg" in processes.log("server"), f"{total} rounds")
        moved, ideal = wire(), 2 * silos * total * 4 * elements
        return {
            "median_seconds": float(np.median(_seconds(processes.log("server"))[WARM_UP:])),
            "server_peak_mb": round(memory.peak / 1e6),
            "wire_over_ideal": round(moved / ideal, 3) if moved else None,
        }
    finally:
        processes.stop()


def _seconds(log: str) -> list[float]:
    """Per round, from its start to the last aggregated result, by the server's own log."""
    now = begun = 0.0
    seconds = []
    for line in log.splitlines():
        if stamp := _STAMP.match(line):
            now = datetime.fromisoformat(stamp[1]).timestamp() + int(stamp[2]) / 1000
            if (done := _DONE.search(line)) and done[1] == done[2]:
                seconds.append(now - begun)
        elif _STARTED.match(line):
            begun = now  # a boxed line without a stamp of its own, right after one with
    return seconds


def _crash(processes: Processes, server: list[str], kits: Path, folder: Path, total: int, silos: int) -> dict[str, Any]:
    """Kills the server with half of the answers of the last round in, and starts it again."""
    answered = silos - silos // 2
    wait_for(lambda: len(list(folder.glob(f"answered-*-{total - 1}"))) >= answered, "answers of the last round")
    time.sleep(5)  # the answer has left the app; let it reach the server
    processes.kill("server")
    before = len(processes.log("server"))
    processes.start("server", server, kits / "server")
    (folder / "go").touch()
    try:
        wait_for(lambda: "Finished FedAvg" in processes.log("server")[before:], "last round", GIVEN_UP_S)
    except Failed:
        again = "Round 0 started" in processes.log("server")[before:]
        return {"resumed": False, "status": "the job began again at round 0" if again else "the job did not go on"}
    again = "Round 0 started" in processes.log("server")[before:]
    return {"resumed": not again, "status": "the job began again at round 0" if again else "finished"}
