"""Page Archive: what it counts is what the table holds, and whatever is missing is a clear page."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from eoforge.data.tables import footprints
from eoforge.data.tables.contents import class_rows, table_contents
from eoforge.storage.addresses import TableRef
from tests.console.console_support import console_with, refused, words_of
from tests.data.ingest.ingest_support import Grown, grown_table

WORLD = {"west": -180, "south": -90, "east": 180, "north": 90}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    return grown_table(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def visitor(grown: Grown) -> Iterator[httpx.Client]:
    with console_with(patches_uri=grown.table) as client:
        yield client


def test_the_page_counts_what_the_table_holds(visitor: httpx.Client, grown: Grown) -> None:
    answer = visitor.get("/archive")
    text = words_of(answer)
    assert answer.status_code == 200
    assert "patches 11" in text
    assert "2 findings" in text
    contents = table_contents(TableRef(grown.table))
    for split, count in contents.splits.items():
        assert f"{split} {count}" in text
    for name, *counts, share in class_rows(contents):
        assert " ".join([str(name), *map(str, counts), str(share)]) in text
    assert grown.second.ingest_id in text
    assert "style=" not in answer.text, "the policy of the pages forbids styles in elements"


def test_an_older_version_has_its_own_counts(visitor: httpx.Client, grown: Grown) -> None:
    assert "patches 8" in words_of(visitor.get("/archive", params={"version": grown.first.version}))
    assert "patches 11" in words_of(visitor.get("/archive"))
    empty = words_of(visitor.get("/archive", params={"version": 1}))
    assert "The table is empty" in empty


def test_the_map_gets_polygons_or_counts(visitor: httpx.Client, grown: Grown, monkeypatch: pytest.MonkeyPatch) -> None:
    few = visitor.get("/archive/footprints", params=WORLD).json()
    assert (few["kind"], few["total"]) == ("patches", 11)
    assert {f["properties"]["patch_id"] for f in few["features"]} == set(grown.names) - {grown.bad}
    older = visitor.get("/archive/footprints", params=WORLD | {"version": grown.first.version}).json()
    assert older["total"] == 8
    monkeypatch.setattr(footprints, "MAX_POLYGONS", 5)
    many = visitor.get("/archive/footprints", params=WORLD).json()
    assert (many["kind"], sum(f["properties"]["count"] for f in many["features"])) == ("cells", 11)
    assert "patch_id" not in many["features"][0]["properties"]


def test_a_change_is_named(visitor: httpx.Client, grown: Grown) -> None:
    versions = {"older": grown.first.version, "newer": grown.second.version}
    text = words_of(visitor.get("/archive/changes", params=versions))
    assert "patches added 3" in text
    assert "patches with other content 1" in text
    assert all(name in text for name in (grown.names[0], *grown.names[8:11]))


def test_quarantine_has_reasons_and_pictures(visitor: httpx.Client, grown: Grown) -> None:
    page = visitor.get("/archive/quarantine")
    text = words_of(page)
    assert "all 2" in text
    assert "nodata s2 1" in text
    assert "missing band 1" in text
    assert grown.bad in text
    assert "/tmp" not in page.text, "the address of the archive stays here"
    only = words_of(visitor.get("/archive/quarantine", params={"reason": "nodata_s2"}))
    assert "6 pixels are 0" in only
    assert "VH does not exist" not in only
    asked = {"ingest": grown.second.ingest_id, "patch": grown.bad, "sensor": "s2"}
    picture = visitor.get("/archive/quarantine/picture", params=asked)
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["cache-control"].startswith("private"), "no proxy keeps it for others"
    pixels = np.asarray(Image.open(io.BytesIO(picture.content)).convert("RGB"))
    assert (pixels == (255, 0, 200)).all(axis=-1).sum() == 6


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/archive?version=99", 404, "has no version 99"),
        ("/archive?version=0", 400, "version"),
        ("/archive?version=<b>", 400, "version"),
        (f"/archive?version={10**30}", 400, "version"),
        (f"/archive?before={10**30}", 400, "before"),
        (f"/archive/changes?older=1&newer={2**64}", 400, "newer"),
        (f"/archive/quarantine?start={10**30}", 400, "start"),
        ("/archive/changes?older=1&newer=99", 404, "has no version 99"),
        ("/archive/footprints?west=3&south=0&east=2&north=1", 400, "west < east"),
        ("/archive/footprints?west=nan&south=0&east=2&north=1", 400, "west"),
        ("/archive/quarantine?reason=<script>alert(1)</script>", 404, "no patch was set aside"),
        ("/archive/quarantine/picture?ingest=ingest-0&patch=x&sensor=s2", 404, "not there any more"),
        ("/archive/quarantine/picture?ingest=../x&patch=x&sensor=s2", 400, "ingest"),
    ],
)
def test_bad_questions_get_clear_pages(visitor: httpx.Client, path: str, status: int, words: str) -> None:
    answer = visitor.get(path)
    refused(answer, status)
    assert words.lower() in words_of(answer).lower()
    assert "<script>alert" not in answer.text


def test_a_table_that_vanished_is_a_clear_page(tmp_path: Path, grown: Grown) -> None:
    table = tmp_path / "patches.lance"
    shutil.copytree(grown.table, table)
    with console_with(patches_uri=str(table)) as visitor:
        assert visitor.get("/archive").status_code == 200
        shutil.rmtree(table)
        for path in ("/archive", "/archive/quarantine", "/archive/changes?older=1&newer=2"):
            refused(visitor.get(path), 404, "removed")
        gone = visitor.get("/archive/footprints", params=WORLD, headers={"accept": "application/json"})
        assert (gone.status_code, "removed" in gone.json()["error"]) == (404, True)


def test_a_console_without_a_table_says_so() -> None:
    with console_with() as visitor:
        refused(visitor.get("/archive"), 404, "was given no table of patches")
