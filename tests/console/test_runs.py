"""Page Runs: bundles below one folder and nowhere else, their figures, and two side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.console.console_support import EVIL, console_with, refused, runs_in, words_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles in folders of their own, a damaged one, and a secret beside the folder of runs."""
    return runs_in(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def visitor(folder: Path) -> Iterator[httpx.Client]:
    with console_with(runs_uri=str(folder / "runs")) as client:
        yield client


def test_bundles_are_listed_with_their_score(visitor: httpx.Client) -> None:
    text = words_of(visitor.get("/runs"))
    assert "first/bundle ss_cm_rsir" in text
    assert "0.7500 validation score" in text
    assert "secret" not in text


def test_a_bundle_shows_figures_card_and_settings(visitor: httpx.Client) -> None:
    answer = visitor.get("/runs/bundle", params={"name": "second/bundle"})
    text = words_of(answer)
    assert "validation score 0.75" in text
    assert "weights.safetensors" in text
    assert "&lt;img src=x" in answer.text
    assert EVIL not in answer.text


def test_curves_have_steps_epochs_and_no_nan(visitor: httpx.Client) -> None:
    charts = visitor.get("/runs/curves", params={"name": "first/bundle"}).json()["charts"]
    assert [chart["title"] for chart in charts] == [
        "loss, every step",
        "loss, every epoch",
        "validation score, every epoch",
    ]
    assert charts[0]["curves"][0]["x"] == [0, 1, 2]
    assert charts[0]["curves"][0]["y"] == [3.0, 2.0, None]
    assert charts[1]["curves"][0]["y"] == [2.0, 1.0]
    both = visitor.get("/runs/curves", params={"name": "first/bundle", "other": "second/bundle"}).json()["charts"]
    assert [curve["name"] for curve in both[2]["curves"]] == ["first/bundle", "second/bundle"]


def test_two_bundles_side_by_side(visitor: httpx.Client) -> None:
    text = words_of(visitor.get("/runs/compare", params={"first": "first/bundle", "second": "second/bundle"}))
    assert "config.bits 64 32" in text
    assert "validation score 0.5 0.75 +0.25" in text
    refused(visitor.get("/runs/compare", params={"first": "first/bundle"}), 400, "two different bundles")


@pytest.mark.parametrize("path", ["/runs/bundle", "/runs/curves"])
@pytest.mark.parametrize(
    "name",
    ["absent", "first", "../secret/bundle", "first/../../secret/bundle", "/etc", "", EVIL, "first//bundle", "a\0b"],
)
def test_no_name_leads_outside_or_to_nothing(visitor: httpx.Client, path: str, name: str) -> None:
    answer = visitor.get(path, params={"name": name})
    refused(answer, 404, "There is no run bundle of this name")
    assert EVIL not in answer.text


def test_a_damaged_bundle_says_so(visitor: httpx.Client) -> None:
    refused(visitor.get("/runs/bundle", params={"name": "damaged"}), 422, "damaged")
    assert visitor.get("/runs").status_code == 200


def test_a_console_without_runs_says_so(tmp_path: Path) -> None:
    with console_with() as visitor:
        refused(visitor.get("/runs"), 404, "was given no folder of runs")
    with console_with(runs_uri=str(tmp_path / "empty")) as visitor:
        assert "There is no run bundle here" in words_of(visitor.get("/runs"))
