"""The federated demo at its smallest size, as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from eoforge.bundle import load_bundle
from tests.e2e.test_demo import eoforge


@pytest.mark.slow
def test_a_silo_and_the_coordinator_are_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    figures = eoforge("federate", "demo", "--out", str(tmp_path / "demo"), "--patches", "60", "--rounds", "4")
    assert figures["rounds"] == 4
    assert figures["kept_after_kill"] >= 1
    assert figures["resume_seconds"] > 0
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "kill -9 coordinator" in page
    assert (figures["owners_answered"], figures["patches_searched"]) == (4, 4 * 60)
    assert "One search across 4 archives" in page
    assert "data:image/png;base64," in page
    bundle = load_bundle(figures["bundle"])
    assert bundle.config["method"] == "fl_rs"
    assert bundle.weights()
