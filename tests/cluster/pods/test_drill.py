"""Disaster drill of docs/operations.md: a renewed certificate, a lost store, and a federated run that loses both."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eoforge.client import FederationClient
from eoforge.methods.federated_launch import prepare, upload_model
from tests.cluster import release
from tests.cluster.pods.callers import cli
from tests.cluster.pods.trial import BUCKET, GRPC, READY_S, STORE, Trial, addresses

SILOS = ("north", "south")
RUN, ROUNDS = "drill", 4
VICTIMS = {2: "federation", 3: STORE}
"""Round -> what is killed right after its first update was accepted."""
ATTEMPTS = 60


def test_a_renewed_certificate_is_used_without_a_restart(filled: Trial) -> None:
    home = (addresses()["retrieval"], GRPC)
    before = ssl.get_server_certificate(home)
    with filled.searching("certificate renewed") as searches:
        began = time.monotonic()
        filled.place.kubectl.apply(filled.credentials.server_secret())

        def renewed() -> bool:
            # A handshake while the kubelet replaces the files may fail; the next one counts.
            with contextlib.suppress(OSError):
                return ssl.get_server_certificate(home) != before
            return False

        release.wait_until(renewed, "the new certificate", READY_S)
        filled.report.append(f"renewed certificate shown after {time.monotonic() - began:.0f} s (the kubelet's period)")
    assert searches.failed == []


def test_searches_go_on_without_the_store(filled: Trial) -> None:
    with filled.searching("store killed", ATTEMPTS) as searches:
        filled.restart(STORE)
    assert searches.answered > 0
    assert searches.failed == []
    assert len(cli(filled.store(), "doctor", BUCKET)) > 5


def test_a_federated_run_survives_coordinator_and_store(filled: Trial, tmp_path: Path) -> None:
    operator = filled.credentials.caller("operator", "drill")
    files = {"ca_file": os.fspath(filled.credentials.ca)}
    files |= {"cert_file": os.fspath(operator.certificate), "key_file": os.fspath(operator.key)}
    opened, accepted, victims = 0, 0, dict(VICTIMS)
    lost: dict[str, float] = {}
    with (
        silos(filled, tmp_path) as statistics,
        FederationClient(filled.address("federation"), **files, attempts=ATTEMPTS) as client,
    ):
        settings = {"rounds": str(ROUNDS), "local_epochs": "1"}
        spec, model, roles = prepare("fl_rs", "tiny", settings, None, statistics)
        spec.policy.min_silos, spec.policy.quorum = len(SILOS), len(SILOS)
        spec.policy.deadline.FromSeconds(READY_S)
        upload_model(client, spec, model, roles)
        client.create_run(spec, RUN)
        for event in client.watch(RUN):
            kind = event.WhichOneof("event")
            for name, began in lost.items():
                filled.report.append(f"{name} killed: next event of the run {time.monotonic() - began:.1f} s later")
            lost.clear()
            opened += kind == "round_opened"
            accepted += kind == "accepted"
            if kind == "accepted" and (victim := victims.pop(opened, None)):
                lost[victim] = time.monotonic()
                filled.restart(victim)
        run = client.run(RUN)
    assert len(run.history) == ROUNDS
    assert accepted == ROUNDS * len(SILOS)


@contextmanager
def silos(trial: Trial, folder: Path) -> Iterator[str]:
    """Processes of two silos with a table each, outside the cluster; yields one table for their statistics."""
    tables, processes = {}, []
    for seed, silo in enumerate(SILOS):
        tables[silo] = str(folder / f"{silo}.lance")
        cli({}, "synth", str(folder / silo), "--patches", "60", "--seed", str(seed))
        cli({}, "ingest", str(folder / silo), tables[silo])
    try:
        for silo in SILOS:
            pair = trial.credentials.caller("silo", silo)
            command = ["federate", "silo", "--server", trial.address("federation"), "--data", tables[silo]]
            command += ["--until-end-of", RUN, "--ca", str(trial.credentials.ca), "--cert", str(pair.certificate)]
            command += ["--key", str(pair.key), "--state", str(folder / f"{silo}-state")]
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
