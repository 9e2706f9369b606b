"""Disaster drill of docs/operations.md on one machine: ``python -m scripts.podman.drill``.

Starts the pods of ``scripts/podman/services.py``, searches continuously, trains two silos with the coordinator, and
meanwhile kills the retrieval pod, replaces its certificate, kills the store, kills the coordinator in one round and the
store in another. Prints one JSON line with the effects on callers.
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
from scripts.podman.services import STORE, Deployment, build, deploy, doctor, indexed_patch, with_podman

SILOS = ("north", "south")
RUN, ROUNDS = "drill", 4
COORDINATOR_FAILS, STORE_FAILS = 2, 3
"""Rounds of the failures."""
DOWN_S = 10.0
ATTEMPTS = 60


@dataclass
class Searches:
    """Consecutive searches of one caller with retries.

    Attributes:
        deployment: Pods of the trial.
        patch: Id of the query patch.
        answered: Number of answered searches.
        failed: Messages of failed searches.
        longest: Seconds of the slowest search.
    """

    deployment: Deployment
    patch: str
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    longest: float = 0.0
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Searches until stopped."""
        target, secrets = f"{self.deployment.addresses['retrieval']}:8081", self.deployment.credentials
        with RetrievalClient(target, token=secrets.token, ca_file=str(secrets.ca), attempts=ATTEMPTS) as client:
            while not self._stopped.is_set():
                began = time.monotonic()
                try:
                    client.search(patch_id=self.patch, source="s2", target="s1", k=5)
                    self.answered += 1
                except EoforgeError as error:
                    self.failed.append(str(error)[:200])
                self.longest = max(self.longest, time.monotonic() - began)
                time.sleep(0.02)

    @contextmanager
    def in_background(self, findings: dict[str, Any]) -> Iterator[None]:
        """Searches in a thread while the block runs; adds the results to ``findings``."""
        thread = threading.Thread(target=self.run)
        thread.start()
        time.sleep(1.0)
        try:
            yield
        finally:
            time.sleep(1.0)
            self._stopped.set()
            thread.join()
        findings |= {"answered": self.answered, "failed": len(self.failed), "longest_s": round(self.longest, 2)}
        findings |= {"first_failure": self.failed[0]} if self.failed else {}


def restart(deployment: Deployment, service: str, down: float = 0.0) -> float:
    """Kill with SIGKILL and restart; returns the seconds from the kill until the probe succeeds."""
    name, began = deployment.container(service), time.monotonic()
    deployment.podman("kill", "--signal", "KILL", name)
    time.sleep(down)
    deployment.podman("wait", name)
    deployment.podman("start", name)
    wait_ready(
        deployment.podman, deployment.pods[service, "" if service == STORE else "server"], deployment.addresses[service]
    )
    return round(time.monotonic() - began, 1)


def renew_certificate(deployment: Deployment) -> float:
    """Replaces the certificate in the mounted secret; returns the seconds until new connections get it.

    Raises:
        EoforgeError: New connections get the old certificate for two minutes.
    """
    home = (deployment.addresses["retrieval"], 8081)
    before = ssl.get_server_certificate(home)
    certificate, key = deployment.credentials.servers.issue(deployment.credentials.names)
    folder = Path(deployment.podman("volume", "inspect", "--format", "{{.Mountpoint}}", "eoforge-tls"))
    for name, text in (("tls.key", key), ("tls.crt", certificate)):
        (folder / name).write_text(text)
    began = time.monotonic()
    while time.monotonic() - began < 120:
        # A handshake between the two writes may fail; the next one counts.
        with contextlib.suppress(OSError):
            if ssl.get_server_certificate(home) != before:
                return round(time.monotonic() - began, 1)
        time.sleep(0.2)
    raise EoforgeError("the old certificate was still in use after two minutes")


@contextmanager
def silos(deployment: Deployment, folder: Path) -> Iterator[str]:
    """Processes of two silos with a table each; yields one table for the statistics of all silos."""
    target, processes = f"{deployment.addresses['federation']}:8081", []
    tables = {}
    for seed, silo in enumerate(SILOS):
        tables[silo] = str(folder / f"{silo}.lance")
        cli({}, "synth", str(folder / silo), "--patches", "60", "--seed", str(seed))
        cli({}, "ingest", str(folder / silo), tables[silo])
    try:
        for silo in SILOS:
            certificate, key = deployment.credentials.caller("silo", silo)
            command = ["federate", "silo", "--server", target, "--data", tables[silo], "--until-end-of", RUN]
            command += ["--ca", str(deployment.credentials.ca), "--cert", str(certificate), "--key", str(key)]
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


def federate(deployment: Deployment, folder: Path) -> dict[str, Any]:
    """Federated run with a failure of the coordinator in one round and of the store in the next.

    Raises:
        EoforgeError: The run did not end with all rounds and updates.
    """
    from eoforge.methods.federated_launch import prepare, upload_model

    target = f"{deployment.addresses['federation']}:8081"
    certificate, key = deployment.credentials.caller("operator", "drill")
    files = {"ca_file": str(deployment.credentials.ca), "cert_file": str(certificate), "key_file": str(key)}
    findings: dict[str, Any] = {}
    with silos(deployment, folder) as statistics, FederationClient(target, **files, attempts=ATTEMPTS) as client:
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
            if kind == "accepted" and number == COORDINATOR_FAILS and "coordinator_restart_s" not in findings:
                lost = "coordinator", time.monotonic()
                findings["coordinator_restart_s"] = restart(deployment, "federation")
            if kind == "accepted" and number == STORE_FAILS and "store_restart_s" not in findings:
                lost = "store", time.monotonic()
                findings["store_restart_s"] = restart(deployment, STORE, DOWN_S)
        run = client.run(RUN)
        findings |= {"rounds": len(run.history), "updates_accepted": accepted, "status": run.status}
    if findings["rounds"] != ROUNDS or accepted != ROUNDS * len(SILOS):
        raise EoforgeError(f"expected {ROUNDS} rounds of {len(SILOS)} updates; got {findings}")
    return findings


def drill(podman: Podman, folder: Path) -> dict[str, Any]:
    """All failures, one after the other; returns the findings.

    Raises:
        EoforgeError: A part did not recover.
    """
    build(podman, folder, ["retrieval", "federation"])
    deployment = deploy(podman, folder)
    doctor(deployment.environment)
    podman_pipelines.fill(podman_pipelines.Steps(podman, deployment.environment, folder / "outputs"))
    for service in ("retrieval", "federation"):
        deployment.start(service)
    patch = indexed_patch(deployment)
    lost_pod: dict[str, Any] = {}
    with Searches(deployment, patch).in_background(lost_pod):
        lost_pod["restart_s"] = restart(deployment, "retrieval")
    renewal: dict[str, Any] = {}
    with Searches(deployment, patch).in_background(renewal):
        renewal["shown_after_s"] = renew_certificate(deployment)
    lost_store: dict[str, Any] = {}
    with Searches(deployment, patch).in_background(lost_store):
        lost_store["restart_s"] = restart(deployment, STORE, DOWN_S)
    lost_store["doctor"] = doctor(deployment.environment)
    return {
        "lost_pod": lost_pod,
        "renewed_certificate": renewal,
        "lost_store": lost_store,
        "federation": federate(deployment, folder),
    }


if __name__ == "__main__":
    sys.exit(with_podman(drill, keep="--keep" in sys.argv))
