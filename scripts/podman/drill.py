"""The disaster drill of docs/operations.md, as far as one machine can hold it: ``python -m scripts.podman.drill``.

Starts the pods of ``scripts/podman/services.py``, searches all the time, lets two silos train with the coordinator, and
meanwhile kills what the page says may be lost: the retrieval pod, its certificate, the store, the coordinator in the
middle of a round and the store in the middle of another. Prints one JSON line with what callers saw.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eoforge.client import FederationClient, RetrievalClient
from eoforge.errors import EoforgeError
from scripts.podman import pipelines as podman_pipelines
from scripts.podman.engine import Podman, cli, wait_ready
from scripts.podman.services import STORE, World, build, doctor, make_world, some_patch, with_podman

SILOS = ("north", "south")
RUN, ROUNDS = "drill", 4
COORDINATOR_DIES, STORE_DIES = 2, 3
"""Rounds."""
AWAY_S = 10.0
PATIENCE = 60


@dataclass
class Searches:
    """Searches one after the other, as one patient caller makes them.

    Attributes:
        answered: How many were answered.
        failed: Messages of those that were not.
        longest: Seconds that the slowest took.
    """

    world: World
    patch: str
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    longest: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until :meth:`end`."""
        target, secrets = f"{self.world.addresses['retrieval']}:8081", self.world.credentials
        with RetrievalClient(target, token=secrets.token, ca_file=str(secrets.ca), attempts=PATIENCE) as client:
            while not self._over.is_set():
                began = time.monotonic()
                try:
                    client.search(patch_id=self.patch, source="s2", target="s1", k=5)
                    self.answered += 1
                except EoforgeError as error:
                    self.failed.append(str(error)[:200])
                self.longest = max(self.longest, time.monotonic() - began)
                time.sleep(0.02)

    @contextmanager
    def going_on(self, findings: dict[str, Any]) -> Iterator[None]:
        """Searches while the body runs; puts what was seen into ``findings``."""
        thread = threading.Thread(target=self.run)
        thread.start()
        time.sleep(1.0)
        try:
            yield
        finally:
            time.sleep(1.0)
            self._over.set()
            thread.join()
        findings |= {"answered": self.answered, "failed": len(self.failed), "longest_s": round(self.longest, 2)}
        findings |= {"first_failure": self.failed[0]} if self.failed else {}


def restart(world: World, service: str, away: float = 0.0) -> float:
    """``kill -9`` and a start, as the kubelet does; seconds from the kill until the probe answers."""
    name, began = world.container(service), time.monotonic()
    world.podman("kill", "--signal", "KILL", name)
    time.sleep(away)
    world.podman("wait", name)
    world.podman("start", name)
    wait_ready(world.podman, world.pods[service, "" if service == STORE else "server"], world.addresses[service])
    return round(time.monotonic() - began, 1)


def renew_certificate(world: World) -> float:
    """Puts another certificate where the pod reads its own; seconds until new callers are shown it.

    Raises:
        EoforgeError: They never are.
    """
    home = (world.addresses["retrieval"], 8081)
    before = ssl.get_server_certificate(home)
    certificate, key = world.credentials.servers.issue(world.credentials.names)
    folder = Path(world.podman("volume", "inspect", "--format", "{{.Mountpoint}}", "eoforge-tls"))
    for name, text in (("tls.key", key), ("tls.crt", certificate)):
        (folder / name).write_text(text)
    began = time.monotonic()
    while time.monotonic() - began < 120:
        # A handshake between the two writes may fail; the next one counts.
        with contextlib.suppress(OSError):
            if ssl.get_server_certificate(home) != before:
                return round(time.monotonic() - began, 1)
        time.sleep(0.2)
    raise EoforgeError("the old certificate was still shown after two minutes")


@contextmanager
def silos(world: World, folder: Path) -> Iterator[str]:
    """Two silos with a table each; gives one table for the statistics of all."""
    target, processes = f"{world.addresses['federation']}:8081", []
    tables = {}
    for seed, silo in enumerate(SILOS):
        tables[silo] = str(folder / f"{silo}.lance")
        cli({}, "synth", str(folder / silo), "--patches", "60", "--seed", str(seed))
        cli({}, "ingest", str(folder / silo), tables[silo])
    try:
        for silo in SILOS:
            certificate, key = world.credentials.caller("silo", silo)
            command = ["federate", "silo", "--server", target, "--data", tables[silo], "--until-end-of", RUN]
            command += ["--ca", str(world.credentials.ca), "--cert", str(certificate), "--key", str(key)]
            command += ["--state", str(folder / f"{silo}-state")]
            with (folder / f"{silo}.log").open("wb") as log:
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                whole = [sys.executable, "-m", "eoforge.cli", *command]
                processes.append(subprocess.Popen(whole, env=environment, stdout=log, stderr=log))
        yield tables[SILOS[0]]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)


def federate(world: World, folder: Path) -> dict[str, Any]:
    """A run that loses its coordinator in one round and its store in the next, and ends with all its rounds.

    Raises:
        EoforgeError: It did not.
    """
    from eoforge.methods.federated_launch import prepare, upload_model

    target = f"{world.addresses['federation']}:8081"
    certificate, key = world.credentials.caller("operator", "drill")
    files = {"ca_file": str(world.credentials.ca), "cert_file": str(certificate), "key_file": str(key)}
    findings: dict[str, Any] = {}
    with silos(world, folder) as statistics, FederationClient(target, **files, attempts=PATIENCE) as client:
        spec, model, roles = prepare("fl_rs", "tiny", {"rounds": str(ROUNDS), "local_epochs": "1"}, None, statistics)
        spec.policy.min_silos, spec.policy.quorum = len(SILOS), len(SILOS)
        spec.policy.deadline.FromSeconds(300)
        upload_model(client, spec, model, roles)
        client.create_run(spec, RUN)
        number, lost, accepted = 0, None, 0
        for event in client.watch(RUN):
            kind = event.WhichOneof("event")
            if lost is not None:
                name, began = lost
                findings[f"{name}_to_next_event_s"], lost = round(time.monotonic() - began, 1), None
            number += kind == "round_opened"
            accepted += kind == "accepted"
            if kind == "accepted" and number == COORDINATOR_DIES and "coordinator_restart_s" not in findings:
                lost = "coordinator", time.monotonic()
                findings["coordinator_restart_s"] = restart(world, "federation")
            if kind == "accepted" and number == STORE_DIES and "store_restart_s" not in findings:
                lost = "store", time.monotonic()
                findings["store_restart_s"] = restart(world, STORE, AWAY_S)
        run = client.run(RUN)
        findings |= {"rounds": len(run.history), "updates_accepted": accepted, "status": run.status}
    if findings["rounds"] != ROUNDS or accepted != ROUNDS * len(SILOS):
        raise EoforgeError(f"expected {ROUNDS} rounds of {len(SILOS)} updates; got {findings}")
    return findings


def drill(podman: Podman, folder: Path) -> dict[str, Any]:
    """All accidents, one after the other.

    Raises:
        EoforgeError: Something did not come back.
    """
    build(podman, folder, ["retrieval", "federation"])
    world = make_world(podman, folder)
    doctor(world.environment)
    podman_pipelines.fill(podman_pipelines.Steps(podman, world.environment, folder / "outputs"))
    for service in ("retrieval", "federation"):
        world.start(service)
    patch = some_patch(world)
    lost_pod: dict[str, Any] = {}
    with Searches(world, patch).going_on(lost_pod):
        lost_pod["restart_s"] = restart(world, "retrieval")
    renewal: dict[str, Any] = {}
    with Searches(world, patch).going_on(renewal):
        renewal["shown_after_s"] = renew_certificate(world)
    lost_store: dict[str, Any] = {}
    with Searches(world, patch).going_on(lost_store):
        lost_store["restart_s"] = restart(world, STORE, AWAY_S)
    lost_store["doctor"] = doctor(world.environment)
    return {
        "lost_pod": lost_pod,
        "renewed_certificate": renewal,
        "lost_store": lost_store,
        "federation": federate(world, folder),
    }


if __name__ == "__main__":
    sys.exit(with_podman(drill, keep="--keep" in sys.argv))
