"""The command line's promises: stable commands, exit codes, errors that say what to do."""

from __future__ import annotations

import io
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import structlog

from eoforge.bundle import write_bundle
from eoforge.cli import main
from eoforge.cli.output import configure, emit, emit_rows, fail
from eoforge.errors import UsageError
from tests.data.archives.archive_files import make_pair, write_archive

COMMANDS = ("synth", "ingest", "train", "runs", "eval", "index", "serve", "search", "doctor", "demo", "federate")
COMMANDS += ("compress", "decompress", "inspect", "predict")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "--json" in capsys.readouterr().out or command in ("serve", "federate")


def test_unknown_command_is_a_usage_error() -> None:
    assert main(["fly"]) == 2


def test_missing_argument_is_a_usage_error() -> None:
    assert main(["ingest"]) == 2


def test_bad_override_names_what_was_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "ss_cm_rsir", "epochs", "--data", "nowhere.lance", "--out", "runs", "--json"]) == 2
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert error["reason"] == "INVALID_ARGUMENT"
    assert "key=value" in error["message"]
    assert "epochs" in error["message"]


def test_missing_table_is_an_error_that_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "ss_cm_rsir", "--data", "nowhere.lance", "--out", "runs", "--json"]) == 1
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert "nowhere.lance" in error["message"]


def test_an_archive_without_one_good_patch_is_refused_after_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = write_archive(tmp_path / "a", [make_pair(3, 4)])
    shutil.rmtree(archive / "BigEarthNet-S1")
    assert main(["ingest", str(archive), str(tmp_path / "t.lance"), "--json"]) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["quarantined"] == 1
    error = json.loads(printed.err.splitlines()[-1])["error"]
    assert error["reason"] == "DATA_REFUSED"
    assert "s1_missing" in error["message"]


def test_text_that_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Folders may be named like rich's tags: those must neither vanish nor end the command."""
    configure(as_json=False)
    emit({"table": "/data/[bold]x[/y]"})
    emit_rows([{"detail": "[/data/z]"}])
    printed = capsys.readouterr().out
    assert "/data/[bold]x[/y]" in printed
    assert "[/data/z]" in printed


def test_what_nobody_expected_is_one_line_of_json_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("eoforge.data.ingest.run.ingest", broken)
    assert main(["ingest", "archive", "table", "--json"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "a bug" in json.loads(lines[-1])["error"]["message"]
    assert any("Traceback" in line for line in lines[:-1])


def test_search_wants_exactly_one_query(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--json"]) == 2
    assert "--patch-id" in capsys.readouterr().err


def test_logs_follow_standard_error_when_it_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    first = io.StringIO()
    monkeypatch.setattr("sys.stderr", first)
    assert main(["synth", "--help"]) == 0
    first.close()
    second = io.StringIO()
    monkeypatch.setattr("sys.stderr", second)
    structlog.get_logger("after").info("still heard")
    assert "still heard" in second.getvalue()


def test_a_line_for_machines_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks of a training share their output: lines written in parts would run into each other."""

    class Writes(list[str]):
        write = list.append

        def flush(self) -> None: ...

    out, err = Writes(), Writes()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    configure(as_json=True)
    emit({"bundle": "b"})
    emit_rows([{"id": 1}])
    structlog.get_logger("x").warning("event")
    assert fail(UsageError("wrong")) == 2
    assert out == ['{"bundle": "b"}\n', '[{"id": 1}]\n']
    assert [json.loads(line).get("event") for line in err] == ["event", None]
    assert all(line.endswith("}\n") for line in err)


LONG = "/data/" + "patches-of-a-very-long-name/" * 12 + "table.lance"


@pytest.mark.parametrize("columns", ["40", "80"])
def test_results_in_a_pipe_are_never_cut(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    configure(as_json=False)
    emit({"table": LONG, "rows": 3}, title="ingested")
    emit_rows([{"bundle": LONG, "data": LONG + "@7", "score": None}])
    fail(UsageError(f"no table at {LONG}"))
    printed = capsys.readouterr()
    assert printed.out.count(LONG) == 3
    assert LONG + "@7" in printed.out
    assert "None" not in printed.out
    assert LONG in printed.err


def test_a_long_word_on_a_terminal_is_folded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    configure(as_json=False)
    emit({"table": LONG})
    printed = capsys.readouterr().out
    assert "\u2026" not in printed
    assert LONG in "".join(character for character in printed if character.isascii() and not character.isspace())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_in_a_pipe_is_not_cut(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    assert "\u2026" not in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    name, number, *_ = capsys.readouterr().out.split()
    assert (name, number) == ("eoforge", version("eoforge"))


def test_runs_lists_bundles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    facts = {"method": "csmae", "patches": None}
    bundle = write_bundle(
        str(tmp_path), weights={"w": torch.ones(1)}, config=facts, metrics={"validation_score": 0.5}, readme=""
    )
    assert main(["runs", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["bundle"], row["method"], row["score"]) == (bundle.uri, "csmae", 0.5)
    assert main(["runs", str(tmp_path)]) == 0
    assert bundle.uri in capsys.readouterr().out
    assert main(["eval", str(tmp_path), "--data", "t.lance", "--json"]) == 1
    assert bundle.uri in json.loads(capsys.readouterr().err)["error"]["message"]
    assert main(["runs", str(tmp_path / "absent")]) == 0
    assert "no run bundle below" in capsys.readouterr().err
