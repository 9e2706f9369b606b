"""The command line's promises: stable commands, exit codes, errors that say what to do."""

from __future__ import annotations

import json

import pytest

from eoforge.cli import main

COMMANDS = ("synth", "ingest", "train", "eval", "index", "serve", "search", "doctor", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "--json" in capsys.readouterr().out or command == "serve"


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


def test_search_wants_exactly_one_query(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--json"]) == 2
    assert "--patch-id" in capsys.readouterr().err
