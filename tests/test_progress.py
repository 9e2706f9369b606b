"""Progress off a terminal: a line at even intervals, also while a single step lasts."""

from __future__ import annotations

import json
import threading

import pytest

from eoforge import progress
from eoforge.logs import configure_logs


def test_a_long_step_shows_life(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.01)
    reported = threading.Semaphore(0)
    report = progress._LogTracker.report

    def counted(self: progress._LogTracker, event: str) -> None:
        report(self, event)
        reported.release()

    monkeypatch.setattr(progress._LogTracker, "report", counted)
    configure_logs(as_json=True)
    with progress.track("training", 5) as tracker:
        tracker.advance(2)
        for _ in range(3):  # no step ends in this time
            assert reported.acquire(timeout=10)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines][:3] == ["progress"] * 3
    assert lines[-1]["event"] == "done"
    assert {(line["what"], line["total"], line["done"]) for line in lines} == {("training", 5, 2)}
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_the_thread_ends_with_a_failed_block() -> None:
    with pytest.raises(ValueError, match="stop"), progress.track("failing"):
        raise ValueError("stop")
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]
