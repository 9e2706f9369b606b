"""A machine that cannot run real pods says so loudly, and what it lacks."""

from __future__ import annotations

import pytest

from tests.cluster.pods import machine


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machine.os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None if name in ("runc", "podman") else name)
    assert machine.main([]) == 3
    assert capsys.readouterr().err == "NOT RUN: programs are missing: apt-get install runc podman\n"
    assert machine.main(["--packages"]) == 0
    assert capsys.readouterr().out == "runc podman\n"


def test_without_root_the_run_says_why_it_did_not_happen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine.os, "geteuid", lambda: 1000)
    assert machine.main([]) == 3
    assert "root is needed" in capsys.readouterr().err
