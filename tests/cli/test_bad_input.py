"""Invalid input of the command line: one line per mistake, the exit code of its kind, no files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eoforge.cli import main
from tests.data.archives.archive_files import make_pair, write_archive


def refusal(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, str]]:
    """Exit code and error of a command that must fail, print one line of JSON to standard error and nothing else."""
    code = main([*map(str, args), "--json"])
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    error = json.loads(line)["error"]
    assert error["exit_code"] == code
    return code, error


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["nonsense"], "nonsense"),
        (["synth"], "out"),
        (["synth", "x", "--patches", "0"], "--patches"),
        (["synth", "x", "--patches", "many"], "--patches"),
        (["train", "ss_cm_rsir", "--data", "t.lance"], "--out"),
        (["search", "--patch-id", "x", "-k", "0"], "-k"),
        (["search", "--patch-id", "x", "--since", "yesterday"], "--since"),
        (["search", "--patch-id", "x", "--ca", "nowhere.pem"], "nowhere.pem"),
        (["search", "--patch-id", "x", "--server", ""], "HOST:PORT"),
        (["ingest", "archive", ""], "empty"),
        (["ingest", "", "table.lance"], "empty"),
        (["demo", "--method", "nope"], "nope"),
        (["demo", "--set", "nope=1"], "nope"),
    ],
)
def test_a_malformed_call_is_one_line_of_json(
    args: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, error = refusal(capsys, *args)
    assert (code, error["reason"]) == (2, "INVALID_ARGUMENT")
    assert named in error["message"]
    assert list(tmp_path.iterdir()) == []


def test_usage_errors_are_formatted_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", "x", "--patches", "0"]) == 2
    assert "Usage:" in capsys.readouterr().err


def test_an_operating_system_error_has_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    for command in (["synth", file], ["demo", "--out", file]):
        code, error = refusal(capsys, *command)
        assert (code, error["reason"]) == (1, "STORE_UNAVAILABLE")
        assert str(file) in error["message"]


def test_the_demo_refuses_a_wrong_archive_before_it_makes_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = refusal(capsys, "demo", "--archive", tmp_path / "nowhere", "--out", tmp_path / "demo")
    assert (code, error["reason"]) == (1, "NOT_FOUND")
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_not_written_among_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = write_archive(tmp_path / "archive", [make_pair(3, 4)])
    before = sorted(archive.rglob("*"))
    (tmp_path / "file").touch()
    for table in (archive / "BigEarthNet-S2", tmp_path / "file"):
        code, error = refusal(capsys, "ingest", archive, table)
        assert (code, error["reason"]) == (2, "INVALID_ARGUMENT")
        assert str(table) in error["message"]
    assert sorted(archive.rglob("*")) == before


def test_names_with_spaces_and_at_signs_are_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = write_archive(tmp_path / "my archive@home", [make_pair(3, 4)])
    table = tmp_path / "a table" / "me@home.lance"
    for _ in range(2):
        assert main(["ingest", str(archive), str(table), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["unchanged"] == 1


@pytest.mark.parametrize("flags", [["--json"], []])
def test_an_interrupted_command_says_what_resumes(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eoforge.data.ingest.run.ingest", interrupted)
    assert main(["ingest", "archive", "table", *flags]) == 130
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "resume when they are run again" in " ".join(printed.err.split())
    if flags:
        assert json.loads(printed.err)["error"]["exit_code"] == 130
