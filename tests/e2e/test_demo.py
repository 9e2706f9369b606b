"""The main job end to end at its smallest size, through the command line, locally and on S3."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eoforge.cli.demo.service import running_service

SMALL = ["--patches", "240", "--set", "epochs=2", "--set", "batch_size=32"]


def eoforge(*args: str, code: int = 0) -> Any:
    """Runs the command as a user does and returns the JSON it printed (of the error, if ``code`` is not 0)."""
    command = [sys.executable, "-m", "eoforge.cli", *args, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr[-4000:]
    return json.loads((done.stderr if code else done.stdout).splitlines()[-1])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished demo on local storage: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "with space"
    return folder, eoforge("demo", "--out", str(folder), *SMALL)


def check_report(folder: Path, figures: dict[str, Any]) -> None:
    """The figures are of this run and the page shows answered queries without needing a network."""
    assert figures["patches_in"] == 240
    assert figures["quarantined"] == 0
    assert json.loads((folder / "report.json").read_text()) == figures
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 9 * 5, "nine queries with their hits carry pictures"
    assert not re.search(r"(src|href)=\"https?://", page)
    linked = re.findall(r'href="([a-z]+\.html)"', page)
    assert len(linked) == 4
    assert (folder / "compression.html").read_text().count("data:image/png;base64,") == 3 * 9
    rates = [figures[f"compression_quality_{quality}_bpp"] for quality in (1, 4, 7)]
    assert rates == sorted(rates)
    assert rates[-1] < figures["compression_lossless_bpp"]
    assert all((folder / name).stat().st_size > 1000 for name in linked)


@pytest.mark.slow
def test_demo_leaves_a_report_with_answered_queries(demo: tuple[Path, dict[str, Any]]) -> None:
    check_report(*demo)


@pytest.mark.slow
@pytest.mark.s3
def test_demo_on_an_s3_server_that_it_starts(tmp_path: Path) -> None:
    figures = eoforge("demo", "--out", str(tmp_path / "demo"), "--store", "seaweedfs", *SMALL)
    check_report(tmp_path / "demo", figures)
    assert str(figures["bundle"]).startswith("s3://")
    assert str(figures["codes"]).startswith("s3://")


@pytest.mark.slow
def test_a_second_demo_continues_from_the_first(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, first = demo
    second = eoforge("demo", "--out", str(folder), *SMALL)
    assert (first["bundle"], first["codes"]) == (second["bundle"], second["codes"])


@pytest.mark.slow
def test_commands_on_what_the_demo_left(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, figures = demo
    table, bundle = str(folder / "store" / "patches.lance"), str(figures["bundle"])

    again = eoforge("ingest", str(folder / "archive"), table)
    assert (again["added"], again["unchanged"]) == (0, 240)

    codes = str(tmp_path / "codes.lance")
    indexed = eoforge("index", bundle, table, codes)
    assert indexed["added"] == 2 * 240

    measured = eoforge("eval", bundle, "--data", table, "--out", str(tmp_path / "evaluation"))
    assert measured["queries"] == 60
    assert (tmp_path / "evaluation" / "report.html").stat().st_size > 10_000

    with running_service(codes, tmp_path / "service.log") as address:
        query = eoforge("search", "--server", address, "--patch-id", "nowhere", code=1)
        assert query["error"]["reason"] == "NOT_FOUND"
        for source, target in (("s1", "s2"), ("s2", "s1")):
            patch = _any_patch(table)
            wanted = ["--from", source, "--to", target, "-k", "5", "--split", "test"]
            hits = eoforge("search", "--server", address, "--patch-id", patch, *wanted)
            assert len(hits) == 5
            assert {h["modality"] for h in hits} == {target}
            assert {h["split"] for h in hits} == {"test"}
            distances = [h["distance"] for h in hits]
            assert distances == sorted(distances)


def _any_patch(table: str) -> str:
    import lance

    return str(lance.dataset(table).to_table(columns=["patch_id"], limit=1)["patch_id"][0])


def test_a_damaged_archive_is_refused_whole_in_strict_mode(tmp_path: Path) -> None:
    archive, table = tmp_path / "archive", tmp_path / "patches.lance"
    eoforge("synth", str(archive), "--patches", "12", "--seed", "5")
    victim = sorted(archive.glob("BigEarthNet-S2/*/*/*_B08.tif"))[0]
    victim.write_bytes(victim.read_bytes()[:1000])

    refused = eoforge("ingest", str(archive), str(table), "--strict", code=3)
    assert victim.parent.name in refused["error"]["message"]
    assert not table.exists()

    taken = eoforge("ingest", str(archive), str(table))
    assert (taken["patches_in"], taken["added"], taken["quarantined"]) == (12, 11, 1)
