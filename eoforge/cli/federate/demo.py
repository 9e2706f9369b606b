"""``eoforge federate demo``: a federation on one machine that loses a silo and its coordinator, and goes on.

A coordinator and four silos run as processes of their own, started as an operator would start them, with mutual TLS on
loopback. One silo is killed while it trains and the coordinator right after it has accepted updates (``kill -9`` both);
each is started again. The report says what was lost: nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from eoforge.cli import output
from eoforge.cli.demo.run import Stages, synthetic_archive
from eoforge.errors import EoforgeError

if TYPE_CHECKING:
    from eoforge.api.federation.v1 import federation_pb2 as pb
    from eoforge.client.federation import FederationClient

SILOS = ("silo-1", "silo-2", "silo-3", "silo-4")
VICTIM = SILOS[1]
"""The silo that is killed while it trains."""
SILO_DIES_IN_ROUND, COORDINATOR_DIES_IN_ROUND = 2, 3
QUORUM = 3
DEADLINE_S = 120.0
READY_S = 120.0
RUN_ID = "demo"
OVERRIDES = {"scenario": "ds2", "local_epochs": "1"}


@dataclass
class Story:
    """What happened, for the table in the terminal and for the report.

    Attributes:
        patches: Training patches of each silo.
        state: What each silo was last seen doing.
        updates: Accepted updates of each silo.
        loss: Training loss of each silo's last update.
        events: Seconds since the start, and a sentence.
        accepted: By round: silos in the order in which their updates were accepted, as the journal has it.
        sealed: By round: silos whose updates made the model.
        kept: Updates of the open round that had been accepted when the coordinator was killed.
        resume_seconds: From that kill to the next event of the same run.
    """

    patches: dict[str, int]
    state: dict[str, str] = field(default_factory=lambda: dict.fromkeys(SILOS, "starting"))
    updates: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SILOS, 0))
    loss: dict[str, float] = field(default_factory=dict)
    events: list[tuple[float, str]] = field(default_factory=list)
    accepted: dict[int, list[str]] = field(default_factory=dict)
    sealed: dict[int, list[str]] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    resume_seconds: float | None = None
    round: int = 0
    started: float = field(default_factory=time.monotonic)

    def tell(self, sentence: str) -> None:
        """Remembers and prints one line."""
        self.events.append((round(time.monotonic() - self.started, 1), sentence))
        output.say(f"{self.events[-1][0]:6.1f} s  {sentence}")

    def table(self) -> Table:
        """One row a silo."""
        shown = Table("silo", "patches", "state", "updates", "loss", title=f"round {self.round}", title_justify="left")
        for silo in SILOS:
            loss = f"{self.loss[silo]:.3f}" if silo in self.loss else ""
            shown.add_row(silo, str(self.patches[silo]), self.state[silo], str(self.updates[silo]), loss)
        return shown


def run_federated_demo(out: Path, *, patches: int = 240, rounds: int = 6, seed: int = 0) -> dict[str, Any]:
    """Runs the demo and leaves ``report.html`` in ``out``.

    Args:
        out: Folder for archives, tables, certificates, the coordinator's store and the silos' state.
        patches: Size of each silo's synthetic archive.
        rounds: Rounds; the accidents happen in the second and third.
        seed: Of archives and training.

    Returns:
        Flat figures: rounds, updates, what survived the accidents, metrics, the bundle, the report.

    Raises:
        EoforgeError: The run failed, or lost something.
    """
    from eoforge.cli.federate.demo_report import write_report

    out = out.expanduser().absolute()
    out.mkdir(parents=True, exist_ok=True)
    stages = Stages()
    with stages.stage("four archives, four tables: nobody sees the other's patches"):
        tables = {silo: _table(out / silo, patches, seed + i) for i, silo in enumerate(SILOS)}
    folder = _fresh_folder(out)
    with stages.stage("federation"), ExitStack() as stack:
        cast = stack.enter_context(_cast(folder, tables))
        client = stack.enter_context(cast.operator())
        _create_run(client, tables[SILOS[0]], rounds, seed)
        story = _follow(client, cast, Story({silo: _training_patches(t) for silo, t in tables.items()}))
        run = client.run(RUN_ID)
    _check(run, story)
    result = write_report(out, run, story, stages.seconds)
    output.say(f"open [bold]{out / 'report.html'}[/]")
    return result


class _Cast:
    """The processes: a coordinator and the silos, each with its own certificate."""

    def __init__(self, folder: Path, tables: dict[str, str]) -> None:
        from eoforge.federated.ca import Authority
        from eoforge.storage.seaweed import free_ports

        self._folder, self._tables = folder, tables
        port, self._rest_port = free_ports(2)
        self.address = f"127.0.0.1:{port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        authority = Authority.create(folder / "ca")
        certificates = folder / "certificates"
        authority.issue("server", "coordinator", certificates, hosts=("127.0.0.1", "localhost"))
        authority.issue("operator", "operator", certificates)
        for silo in SILOS:
            authority.issue("silo", silo, certificates)
        self._certificates = certificates

    def start(self, name: str) -> None:
        """Starts the coordinator or a silo."""
        command = self._serve() if name == "coordinator" else self._take_part(name)
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "eoforge.cli", *command], env=self._environment(), stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        """``kill -9``."""
        self._processes[name].kill()
        self._processes[name].wait()

    def end(self) -> None:
        """Ends all that still runs."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()

    def operator(self) -> FederationClient:
        """A client with the operator's certificate that has patience with a coordinator that is away."""
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

    def _take_part(self, silo: str) -> list[str]:
        credentials = [text for what, file in self._files(silo).items() for text in (f"--{what}", file)]
        data = ["--data", self._tables[silo], "--state", str(self._folder / f"{silo}-state")]
        return ["federate", "silo", "--server", self.address, *credentials, *data, "--until-end-of", RUN_ID]


@contextmanager
def _cast(folder: Path, tables: dict[str, str]) -> Iterator[_Cast]:
    cast = _Cast(folder, tables)
    try:
        for name in ("coordinator", *SILOS):
            cast.start(name)
        yield cast
    finally:
        cast.end()


def _create_run(client: FederationClient, statistics: str, rounds: int, seed: int) -> None:
    from eoforge.methods.federated_launch import prepare, upload_model

    overrides = {**OVERRIDES, "rounds": str(rounds), "seed": str(seed)}
    spec, model, roles = prepare("fl_rs", "tiny", overrides, None, statistics)
    spec.policy.min_silos, spec.policy.quorum, spec.policy.evaluate_every = len(SILOS), QUORUM, 1
    spec.policy.deadline.FromSeconds(int(DEADLINE_S))
    upload_model(client, spec, model, roles)
    client.create_run(spec, RUN_ID)


def _follow(client: FederationClient, cast: _Cast, story: Story) -> Story:
    """Watches the run to its end, and lets the two accidents happen on the way."""
    terminal = Console(stderr=True)
    with Live(story.table(), console=terminal, auto_refresh=False) if terminal.is_terminal else ExitStack() as live:
        killed_at = None
        for event in client.watch(RUN_ID):
            if killed_at is not None:
                story.resume_seconds, killed_at = round(time.monotonic() - killed_at, 2), None
                story.tell(f"coordinator back after {story.resume_seconds} s, still in round {story.round}")
            _note(event, story)
            kind = event.WhichOneof("event")
            if kind == "round_opened" and story.round == SILO_DIES_IN_ROUND:
                cast.kill(VICTIM)
                story.tell(f"kill -9 {VICTIM}; it is started again")
                cast.start(VICTIM)
            if kind == "accepted" and story.round == COORDINATOR_DIES_IN_ROUND and not story.kept:
                cast.kill("coordinator")
                killed_at = time.monotonic()
                story.kept = tuple(story.accepted[story.round])
                story.tell(f"kill -9 coordinator, which had accepted {', '.join(story.kept)}; it is started again")
                cast.start("coordinator")
            if isinstance(live, Live):
                live.update(story.table(), refresh=True)
    return story


def _note(event: pb.RunEvent, story: Story) -> None:
    kind = event.WhichOneof("event")
    if kind == "round_opened":
        story.round = event.round_opened.number
        story.state.update(dict.fromkeys(event.round_opened.selected, "training"))
    elif kind == "accepted":
        update = event.accepted
        story.accepted.setdefault(story.round, []).append(update.silo)
        story.updates[update.silo] += 1
        story.state[update.silo] = "waiting"
        story.loss[update.silo] = update.metrics["loss"]
    elif kind == "sealed":
        story.sealed[story.round] = list(event.sealed.silos)
    elif kind == "dropped":
        story.state[event.dropped.silo] = "away"
    elif kind == "round_closed":
        summary = event.round_closed.summary
        figures = ", ".join(f"{n} {v:.3f}" for n, v in sorted({**summary.training, **summary.evaluation}.items()))
        story.tell(f"round {summary.number}: {len(summary.silos)} silos, {figures}")


def _check(run: pb.Run, story: Story) -> None:
    """What the demo promises.

    Raises:
        EoforgeError: It did not come true.
    """
    from eoforge.api.federation.v1 import federation_pb2 as pb

    if run.status != pb.RUN_STATUS_FINISHED:
        raise EoforgeError(f"the run ended as {pb.RunStatus.Name(run.status)}: {run.failure}")
    again = {n: silos for n, silos in story.accepted.items() if len(set(silos)) < len(silos)}
    lost = set(story.kept) - set(story.sealed.get(COORDINATOR_DIES_IN_ROUND, ()))
    if not story.kept or lost or again:
        raise EoforgeError(
            f"accepted updates must survive the coordinator; kept {story.kept}, lost {sorted(lost)}, twice {again}"
        )


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
    """Certificates, store and states of this run; tables are shared by all runs of the demo."""
    folder = out / f"run-{sum(1 for _ in out.glob('run-*')):03d}"
    folder.mkdir()
    return folder
