"""Local runs: what is refused before anything starts, and how a failed step is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eoforge.errors import DataRefused, EoforgeError, NotFound, UsageError
from pipelines.run_local import LocalArtifact, LocalRun, main, run_local
from pipelines.run_local import _FailureReader as FailureReader
from pipelines.run_local import _new_folder as new_folder

LOG = """\
10:13:21.054 - INFO - Executing task \x1b[96m'ingest-range'\x1b[0m
        {indent}Traceback (most recent call last):
        {indent}  File "/tmp/ephemeral_component.py", line 15, in ingest_range
        {indent}    ingest_shards(table)
        {indent}{exception}
        {indent}

10:13:21.187 - ERROR - Task \x1b[96m'ingest-range'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m
10:13:21.190 - ERROR - Task \x1b[96m'later'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m
"""


def read(exception: str, indent: str = "") -> EoforgeError:
    reader = FailureReader()
    for line in LOG.format(exception=exception, indent=indent).splitlines(keepends=True):
        reader.read(line)
    return reader.error("ingest", {"error": "Inner task failed"}, Path("run.log"))


@pytest.mark.parametrize("indent", ["", " " * 40])
def test_step_and_its_own_error_are_found_at_any_indentation(indent: str) -> None:
    error = read("eoforge.errors.DataRefused: patch P has 3 bands, expected 12: re-download it", indent)
    assert type(error) is DataRefused
    assert str(error) == (
        "step ingest-range of pipeline ingest failed: patch P has 3 bands, expected 12: re-download it (log: run.log)"
    )


def test_other_exceptions_are_our_general_error() -> None:
    error = read("ValueError: boom")
    assert type(error) is EoforgeError
    assert "ingest-range of pipeline ingest failed: boom" in str(error)


def test_messages_of_several_lines_are_kept() -> None:
    indented = "eoforge.errors.DataRefused: two are bad\n          first: no B02\n          second: no VV"
    assert "two are bad\nfirst: no B02\nsecond: no VV" in str(read(indented))


def test_unknown_pipeline_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="archive_to_service"):
        run_local("fly", tmp_path, {})


def test_missing_and_unknown_parameters_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown: colour, missing: archive"):
        run_local("ingest", tmp_path, {"table": str(tmp_path / "t.lance"), "colour": "red"})


def test_failed_step_is_named_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = {"archive": str(tmp_path / "nowhere"), "table": str(tmp_path / "t.lance")}
    lines: list[str] = []
    with pytest.raises(EoforgeError, match="step plan-ingest of pipeline ingest failed") as caught:
        run_local("ingest", tmp_path / "runs", params, echo=lines.append)
    assert "nowhere" in str(caught.value)
    assert isinstance(caught.value, NotFound | DataRefused)
    assert any("plan-ingest" in line for line in lines)
    assert (tmp_path / "runs" / "ingest-000" / "run.log").read_text().splitlines() == lines
    given = [f"{name}={value}" for name, value in params.items()]
    assert main(["ingest", "--root", str(tmp_path / "runs"), *given]) == caught.value.exit_code
    assert "error: step plan-ingest" in capsys.readouterr().err


def test_two_runs_in_one_root_get_a_folder_each(tmp_path: Path) -> None:
    taken = [new_folder(tmp_path, "ingest") for _ in range(2)]
    taken[0].rmdir()  # one folder is left, and its number is the next by counting
    assert new_folder(tmp_path, "ingest") not in taken
    assert taken[1].exists()


def test_asking_for_an_artifact_that_is_not_there_lists_those_that_are() -> None:
    run = LocalRun({}, [LocalArtifact("train", "curves", "HTML", "x.html", {})], "run.log")
    assert run.find("train", "curves").path == "x.html"
    with pytest.raises(UsageError, match="train/curves"):
        run.find("train", "report")


def test_parameters_on_the_command_line_are_json_where_they_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = {}

    def fake(pipeline: str, root: str, params: dict[str, object], *, echo: object) -> LocalRun:
        seen.update(params)
        return LocalRun({"version": "1"}, [], "log")

    monkeypatch.setattr("pipelines.run_local.run_local", fake)
    texts = ["table=s3://lake/p.lance", "shard_rows=64", "strict=true", 'overrides=["epochs=2"]']
    assert main(["ingest", "--root", str(tmp_path), *texts]) == 0
    assert seen == {"table": "s3://lake/p.lance", "shard_rows": 64, "strict": True, "overrides": ["epochs=2"]}
    assert json.loads(capsys.readouterr().out)["outputs"] == {"version": "1"}
    assert main(["ingest", "table"]) == 2
