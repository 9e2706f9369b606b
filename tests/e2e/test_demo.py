"""The main job end to end at its smallest size, through the command line, locally and on S3."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ["--patches", "240", "--set", "epochs=2", "--set", "batch_size=32"]


def run_demo(folder: Path, *more: str) -> dict[str, object]:
    """Runs ``eoforge demo`` as a user does and returns what it printed."""
    command = [sys.executable, "-m", "eoforge.cli", "demo", "--out", str(folder), "--json", *SMALL, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("store", [[], ["--store", "seaweedfs"]], ids=["local", "s3"])
def test_demo_leaves_a_report_with_answered_queries(tmp_path: Path, store: list[str]) -> None:
    figures = run_demo(tmp_path / "demo", *store)

    assert figures["patches_in"] == 240
    assert figures["quarantined"] == 0
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 9 * 2, "queries and hits carry pictures"
    assert not re.search(r"(src|href)=\"https?://", page), "the page needs nothing from a network"
    for name in re.findall(r'href="([a-z]+\.html)"', page):
        assert (tmp_path / "demo" / name).stat().st_size > 1000
    assert json.loads((tmp_path / "demo" / "report.json").read_text()) == figures


@pytest.mark.slow
def test_a_second_demo_continues_from_the_first(tmp_path: Path) -> None:
    first = run_demo(tmp_path / "demo")
    second = run_demo(tmp_path / "demo")
    assert (first["bundle"], first["codes"]) == (second["bundle"], second["codes"])
