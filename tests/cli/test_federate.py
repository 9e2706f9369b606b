"""``eoforge federate`` against a real coordinator: a run from its start to its model, and what may go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
import stamina

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.cli import main
from eoforge.client import FederationClient
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.storage.tensorfile import read_file
from tests.services.federation.helpers import ManualSilo, deltas, server_for, start_run
from tests.services.support import Running, running

SMALL = ["rounds=1", "local_epochs=1", "width=8", "size=20", "bits=16", "batch_size=16"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(server_for(tmp_path_factory.mktemp("store"))) as run:
        yield run


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("silo") / "patches.lance")
    lance.write_dataset(pa.Table.from_batches([record_batch(list(synthetic_pairs(48, seed=0)))]), uri)
    return uri


class Cli:
    """Runs commands in this process and reads their JSON."""

    def __init__(self, capsys: pytest.CaptureFixture[str], target: str) -> None:
        self._capsys, self._target = capsys, target

    def run(self, *args: object, server: str = "") -> tuple[int, list[Any], list[Any]]:
        """Exit code, and what was printed to standard output and standard error, a JSON value a line."""
        words = ["federate", *map(str, args), "--server", server or self._target, "--json"]
        code = main(words)
        printed = self._capsys.readouterr()
        return code, *([json.loads(line) for line in text.splitlines()] for text in (printed.out, printed.err))

    def ok(self, *args: object) -> list[Any]:
        code, out, err = self.run(*args)
        assert code == 0, err
        return out

    def refused(self, *args: object, server: str = "") -> dict[str, Any]:
        code, out, err = self.run(*args, server=server)
        assert (code != 0, out) == (True, [])
        found: dict[str, Any] = err[-1]["error"]
        return found


@pytest.fixture
def cli(served: Running, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys, served.target)


def test_a_run_from_start_to_model(served: Running, cli: Cli, table: str, tmp_path: Path) -> None:
    start = ["run", "fl_rs", "algorithm=fedavg", *SMALL, "--statistics", table, "--min-silos", 1, "--name", "first"]
    silo = subprocess.Popen(
        [sys.executable, "-m", "eoforge.cli", "federate", "silo", "--data", table, "--state", str(tmp_path / "silo"),
         "--name", "berlin", "--until-end-of", "first", "--server", served.target, "--json"],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        (begun,) = cli.ok(*start)
        assert (begun["run"], begun["status"], begun["rounds"]) == ("first", "running", 1)
        *events, end = cli.ok("watch", "first")
        assert [kind for event in events for kind in event if kind in ("accepted", "sealed", "reduced")] == [
            "accepted", "sealed", "reduced",
        ]  # fmt: skip
        assert (end["status"], end["round"]) == ("finished", 1)
        assert Path(end["bundle"], "manifest.json").exists()
        printed, _ = silo.communicate(timeout=300)
        assert (silo.returncode, json.loads(printed)) == (0, {"run": "first", "status": "finished"})
    finally:
        silo.kill()
        silo.wait()
    (model,) = cli.ok("model", "first", tmp_path / "first.safetensors", "--round", 1)
    assert model["round"] == 1
    assert read_file(tmp_path / "first.safetensors")
    assert cli.ok(*start)[0]["status"] == "finished"  # the same command again is the same run
    (silos,) = cli.ok("list", "--silos")
    assert [row["silo"] for row in silos] == ["berlin"]

    (estimate,) = cli.ok(*start[:-1], "other", "--dry-run")
    assert estimate["bytes_up"] > 0
    (waiting,) = cli.ok(*start[:-1], "other", "--silo", "nobody")
    assert waiting["status"] == "running"
    assert cli.ok("pause", "other")[0]["status"] == "paused"
    assert cli.ok("pause", "other", "--resume")[0]["status"] == "running"
    assert cli.ok("cancel", "other", "--reason", "enough")[0]["failure"] == "enough"
    (runs,) = cli.ok("list")
    assert [(row["run"], row["status"]) for row in runs] == [("other", "cancelled"), ("first", "finished")]


@pytest.mark.parametrize(
    ("args", "reason", "named"),
    [
        (["watch", "nothing"], "NOT_FOUND", "nothing"),
        (["cancel", "../x"], "NOT_FOUND", "../x"),
        (["model", "nothing", "out.safetensors"], "NOT_FOUND", "nothing"),
        (["run", "fl_rs", "algorithm=guess", "--statistics", "TABLE"], "INVALID_ARGUMENT", "guess"),
        (["run", "fl_rs"], "INVALID_ARGUMENT", "--statistics"),
        (["run", "csmae"], "INVALID_ARGUMENT", "csmae"),
        (["run", "fl_rs", "--statistics", "TABLE", "--policy", "nowhere.json"], "INVALID_ARGUMENT", "nowhere.json"),
    ],
)
def test_refusals_name_the_fault(cli: Cli, table: str, args: list[str], reason: str, named: str) -> None:
    error = cli.refused(*(table if word == "TABLE" else word for word in args))
    assert error["reason"] == reason
    assert named in error["message"]


def test_text_of_silos_is_escaped_in_events(
    served: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Markup that closes what was never opened would end the command, and control characters rule the terminal."""
    with FederationClient(served.target) as client:
        silos = [ManualSilo(served.target, tmp_path) for _ in range(2)]
        run = start_run(client, silos, tmp_path, policy={"rounds": 1, "quorum": 1})
        silos[0].send(run, 1, deltas(), metrics={"[/loss]": 1.0})
        silos[1].client.answer(run, 1, failure=pb.FailureAnswer(reason="no disk\x1b[2J"))
    assert main(["federate", "watch", run, "--server", served.target]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "[/loss] 1" in printed
    assert f"{silos[1].name}: no disk?[2J" in printed


@pytest.mark.parametrize("args", [["list"], ["watch", "first"], ["cancel", "first"], ["list", "--silos"]])
def test_a_server_that_cannot_be_reached_is_named_as_such(cli: Cli, args: list[str]) -> None:
    stamina.set_testing(True, attempts=1)
    try:
        error = cli.refused(*args, server="127.0.0.1:1")
    finally:
        stamina.set_testing(False)
    assert error["reason"] == "UNAVAILABLE"
    assert "127.0.0.1:1" in error["message"]
    assert "running there?" in error["message"]


def test_certificates_are_issued_and_revoked(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ca(*args: str) -> int:
        return main(["federate", "ca", *args, "--ca", str(tmp_path / "ca"), "--json"])

    assert ca("init") == 0
    assert ca("issue", "berlin", "--out", str(tmp_path / "berlin")) == 0
    assert {path.name for path in (tmp_path / "berlin").iterdir()} >= {"berlin.pem", "berlin.key", "ca.pem"}
    assert ca("revoke", "berlin") == 0
    assert ca("revoke", "nobody") != 0
    assert "nobody" in capsys.readouterr().err
