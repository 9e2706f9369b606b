"""``eoforge federate demo``: a federation on one machine that survives the kill of a silo and of its coordinator.

A coordinator and four silos run as processes, started as an operator would start them, with mutual TLS on loopback. One
silo is killed while it trains, and the coordinator after it has accepted updates (``kill -9`` both); each is started
again. The demo checks that no accepted update was lost. Then each silo indexes its patches with the result, and one
search asks all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from eoforge.cli import output
from eoforge.cli.demo.run import Stages, synthetic_archive
from eoforge.cli.federate.across import search_all
from eoforge.cli.federate.demo_report import write_report
from eoforge.cli.federate.timeline import SILOS, Timeline
from eoforge.errors import EoforgeError

if TYPE_CHECKING:
    from eoforge.client.federation import FederationClient

KILLED_SILO = SILOS[1]
SILO_KILLED_IN_ROUND, COORDINATOR_KILLED_IN_ROUND = 2, 3
QUORUM = 3
DEADLINE_S = 120.0
READY_S = 120.0
RUN_ID = "demo"
OVERRIDES = {"scenario": "ds2", "local_epochs": "1"}


def run_federated_demo(out: Path, *, patches: int = 240, rounds: int = 6, seed: int = 0) -> dict[str, Any]:
    """Runs the demo and leaves ``report.html`` in ``out``.

    Args:
        out: Folder for archives, tables, certificates, the coordinator's store and the silos' state.
        patches: Size of each silo's synthetic archive.
        rounds: Number of rounds; the kills happen in the second and third.
        seed: Of archives and training.

    Returns:
        Flat figures: rounds, updates, updates that survived the kill, metrics, bundle, report.

    Raises:
        EoforgeError: The run failed, or lost an update.
    """
    from eoforge.api.federation.v1 import federation_pb2 as pb

    out = out.expanduser().absolute()
    out.mkdir(parents=True, exist_ok=True)
    stages = Stages()
    with stages.stage("four archives, four tables: each silo sees only its own patches"):
        tables = {silo: _table(out / silo, patches, seed + i) for i, silo in enumerate(SILOS)}
    folder = _fresh_folder(out)
    with stages.stage("federation"), ExitStack() as stack:
        processes = stack.enter_context(_running(folder, tables))
        authority = processes.authority
        client = stack.enter_context(processes.operator())
        _create_run(client, tables[SILOS[0]], rounds, seed)
        timeline = Timeline({silo: _training_patches(t) for silo, t in tables.items()})
        _follow(client, processes, timeline)
        run = client.run(RUN_ID)
    if run.status != pb.RUN_STATUS_FINISHED:
        raise EoforgeError(f"the run ended as {pb.RunStatus.Name(run.status)}: {run.failure}")
    timeline.check(COORDINATOR_KILLED_IN_ROUND)
    with stages.stage("search across: each silo indexes its own patches with the common bundle, one search asks all"):
        shared = search_all(folder, authority, run.bundle_uri, tables)
    result = write_report(out, run, timeline, shared, stages.seconds)
    output.say(f"open [bold]{escape(str(out / 'report.html'))}[/]")
    return result


class _Processes:
    """Processes of the coordinator and the silos, each with its own certificate."""

    def __init__(self, folder: Path, tables: dict[str, str]) -> None:
        from eoforge.federated.ca import Authority
        from eoforge.storage.seaweed import free_ports

        self._folder, self._tables = folder, tables
        port, self._rest_port = free_ports(2)
        self.address = f"127.0.0.1:{port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.authority = authority = Authority.create(folder / "ca")
        certificates = folder / "certificates"
        authority.issue("server", "coordinator", certificates, hosts=("127.0.0.1", "localhost"))
        authority.issue("operator", "operator", certificates)
        for silo in SILOS:
            authority.issue("silo", silo, certificates)
        self._certificates = certificates

    def start(self, name: str) -> None:
        """Starts the coordinator or a silo."""
        command = self._serve() if name == "coordinator" else self._silo(name)
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "eoforge.cli", *command], env=self._environment(), stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        """``kill -9``."""
        self._processes[name].kill()
        self._processes[name].wait()

    def end(self) -> None:
        """Ends all running processes."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()

    def operator(self) -> FederationClient:
        """Client with the operator's certificate and enough attempts to outlast a restart of the coordinator."""
        from eoforge.client.federation import FederationClient

        files = self._files("operator")
        client = FederationClient(
            self.address, ca_file=files["ca"], cert_file=files["cert"], key_file=files["key"], attempts=60
        )
        if not client.wait_connected(READY_S):
            tail = (self._folder / "coordinator.log").read_text(errors="replace")[-2000:]
            raise EoforgeError(f"the coordinator was not ready within {READY_S:.0f} s; the end of its log:\n{tail}")
        return client

    def _files(self, name: str) -> dict[str, str]:
        files = {"ca": "ca.pem", "cert": f"{name}.pem", "key": f"{name}.key"}
        return {what: str(self._certificates / file) for what, file in files.items()}

    def _environment(self) -> dict[str, str]:
        files = self._files("coordinator")
        return {
            **os.environ,
            "EOFORGE_TLS_CERT_FILE": files["cert"],
            "EOFORGE_TLS_KEY_FILE": files["key"],
            "EOFORGE_TLS_CLIENT_CA_FILE": files["ca"],
            "EOFORGE_REVOKED_FILE": str(self._folder / "ca" / "crl.pem"),
            "EOFORGE_INSTANCE": "coordinator",  # a restart under the same name takes its runs back at once
            "OMP_NUM_THREADS": "1",  # five processes share this machine
        }

    def _serve(self) -> list[str]:
        ports = ["--port", self.address.rpartition(":")[2], "--rest-port", str(self._rest_port)]
        return ["serve", "federation", "--store", str(self._folder / "store"), *ports]

    def _silo(self, silo: str) -> list[str]:
        credentials = [text for what, file in self._files(silo).items() for text in (f"--{what}", file)]
        data = ["--data", self._tables[silo], "--state", str(self._folder / f"{silo}-state")]
        return ["federate", "silo", "--server", self.address, *credentials, *data, "--until-end-of", RUN_ID]


@contextmanager
def _running(folder: Path, tables: dict[str, str]) -> Iterator[_Processes]:
    processes = _Processes(folder, tables)
    try:
        for name in ("coordinator", *SILOS):
            processes.start(name)
        yield processes
    finally:
        processes.end()


def _create_run(client: FederationClient, statistics: str, rounds: int, seed: int) -> None:
    from eoforge.methods.federated_launch import prepare, upload_model

    overrides = {**OVERRIDES, "rounds": str(rounds), "seed": str(seed)}
    spec, model, roles = prepare("fl_rs", "tiny", overrides, None, statistics)
    spec.policy.min_silos, spec.policy.quorum, spec.policy.evaluate_every = len(SILOS), QUORUM, 1
    spec.policy.deadline.FromSeconds(int(DEADLINE_S))
    upload_model(client, spec, model, roles)
    client.create_run(spec, RUN_ID)


def _follow(client: FederationClient, processes: _Processes, timeline: Timeline) -> None:
    """Watches the run to its end, and kills the silo and the coordinator on the way."""
    terminal = Console(stderr=True)
    with Live(timeline.table(), console=terminal, auto_refresh=False) if terminal.is_terminal else ExitStack() as live:
        killed_at = None
        for event in client.watch(RUN_ID):
            if killed_at is not None:
                timeline.resume_seconds, killed_at = round(time.monotonic() - killed_at, 2), None
                timeline.add(f"coordinator back after {timeline.resume_seconds} s, still in round {timeline.round}")
            timeline.record(event)
            kind = event.WhichOneof("event")
            if kind == "round_opened" and timeline.round == SILO_KILLED_IN_ROUND:
                processes.kill(KILLED_SILO)
                timeline.add(f"kill -9 {KILLED_SILO}; it is started again")
                processes.start(KILLED_SILO)
            if kind == "accepted" and timeline.round == COORDINATOR_KILLED_IN_ROUND and not timeline.kept:
                processes.kill("coordinator")
                killed_at = time.monotonic()
                timeline.kept = tuple(timeline.accepted[timeline.round])
                timeline.add(f"kill -9 coordinator, which had accepted {', '.join(timeline.kept)}; it is started again")
                processes.start("coordinator")
            if isinstance(live, Live):
                live.update(timeline.table(), refresh=True)


def _table(folder: Path, patches: int, seed: int) -> str:
    from eoforge.data.ingest.run import ingest

    archive = synthetic_archive(folder / "archive", patches, seed)
    table = str(folder / "patches.lance")
    ingest(archive, table)
    return table


def _training_patches(table: str) -> int:
    from eoforge.methods.federated_launch import training_patches
    from eoforge.storage.addresses import TableRef

    return training_patches(TableRef.parse(table))


def _fresh_folder(out: Path) -> Path:
    """Folder for certificates, store and silo states of this run; all runs of the demo share the tables."""
    folder = out / f"run-{sum(1 for _ in out.glob('run-*')):03d}"
    folder.mkdir()
    return folder
