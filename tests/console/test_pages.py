"""Search and patch pages over a real retrieval service."""

from __future__ import annotations

import csv
import html
import io
import json
import shlex
import shutil
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eoforge.cli import main
from eoforge.client import RetrievalClient
from eoforge.codec.coder import Coder, MaxError, Rate
from eoforge.index.streams import compress_archive
from eoforge.storage.addresses import TableRef
from tests.console.conftest import console_of, csrf_of, known_method
from tests.services.retrieval.fixtures import FIRST, RetrievalFixture, bands_of, write_tiff
from tests.services.support import Running, running


@pytest.fixture
def name(archive: RetrievalFixture) -> str:
    return archive.pairs[0].meta.patch_id


def test_hits_are_those_of_the_service_in_its_order(
    browser_of_one: httpx.Client, retrieval: Running, name: str
) -> None:
    page = browser_of_one.get("/search", params={"patch_id": name, "from": "s1", "to": "s2", "k": "7"})
    assert page.status_code == 200
    with RetrievalClient(retrieval.target) as client:
        hits = client.search(patch_id=name, source="s1", target="s2", k=7)
    places = [page.text.index(f'src="/thumbnail/s2/{quote(hit.patch_id)}"') for hit in hits]
    assert places == sorted(places)
    assert page.text.count('class="hit ') == 8, "seven hits and the query"
    for hit in hits:
        assert f"{hit.distance} bits" in page.text


def test_the_python_and_the_command_that_a_page_shows_find_the_same(
    browser_of_one: httpx.Client, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"patch_id": name, "to": "s2", "k": "4", "since": "2015-01-01", "split": ["train", "test"]}
    page = browser_of_one.get("/search", params=given)
    shown = html.unescape(page.text.split('<pre tabindex="0"><code>')[1].split("</code>")[0])
    scope: dict[str, object] = {}
    exec(shown, scope)  # the page's own words
    hits = scope["hits"]
    assert isinstance(hits, list)
    assert hits
    assert all(f"/thumbnail/s2/{quote(hit.patch_id)}" in page.text for hit in hits)
    command = html.unescape(page.text.split('<pre tabindex="0"><code>')[2].split("</code>")[0])
    assert "--since 2015-01-01" in command
    program, *words = shlex.split(command)
    assert (program, main([*words, "--json"])) == ("eoforge", 0)
    said = json.loads(capsys.readouterr().out)
    assert [row["patch_id"] for row in said] == [hit.patch_id for hit in hits]


def test_a_filter_narrows_and_an_empty_answer_says_so(browser_of_one: httpx.Client, name: str) -> None:
    page = browser_of_one.get("/search", params={"patch_id": name, "bbox": "100,10,101,11"})
    assert page.status_code == 200
    assert "No patch passes these filters" in page.text


def test_a_place_leads_to_its_patch(browser_of_one: httpx.Client, archive: RetrievalFixture) -> None:
    page = browser_of_one.get("/search", params={"bbox": "-180,-90,180,90", "k": "200"})
    assert page.text.count('class="hit ') == FIRST
    box = page.text.split('data-box="')[1].split('"')[0]
    west, south, east, north = map(float, box.split(","))
    found = browser_of_one.get("/search", params={"at": f"{(west + east) / 2},{(south + north) / 2}", "from": "s2"})
    assert found.status_code == 303
    assert found.headers["location"].startswith("/search?patch_id=")
    nowhere = browser_of_one.get("/search", params={"at": "170,-80"})
    assert nowhere.status_code == 404
    assert "no radar (Sentinel-1) patch at longitude 170" in nowhere.text


def test_footprints_in_view(browser_of_one: httpx.Client) -> None:
    answer = browser_of_one.get("/search/footprints", params={"bbox": "-180,-90,180,90"})
    patches = answer.json()["patches"]
    assert len(patches) == FIRST
    assert all(west < east and south < north for _, west, south, east, north in patches)


def test_an_image_is_searched_by_its_code_and_the_address_can_be_shared(
    browser_of_one: httpx.Client, archive: RetrievalFixture
) -> None:
    pair = archive.pairs[3]
    tiff = write_tiff(dict(bands_of(pair, "s1")))
    form = {"csrf": csrf_of(browser_of_one.get("/search")), "to": "s1"}
    answer = browser_of_one.post("/search/upload", data=form, files={"files": ("x.tif", tiff, "image/tiff")})
    if answer.status_code == 200:  # notes on how it was read come first
        address = answer.text.split('href="/search?code=')[1].split('"')[0]
        address = "/search?code=" + address.replace("&amp;", "&")
    else:
        address = answer.headers["location"]
    assert len(parse_qs(urlsplit(address).query)["code"][0]) == 16
    page = httpx.get(browser_of_one.base_url.join(address), timeout=30)
    (card,) = (part for part in page.text.split('<li class="hit ')[1:] if f"/patch/{pair.meta.patch_id}" in part)
    assert "<strong>0 bits</strong>" in card, "the image is that of the patch"


def test_a_file_that_is_no_image_is_refused_by_name(browser_of_one: httpx.Client) -> None:
    form = {"csrf": csrf_of(browser_of_one.get("/search")), "to": "s1"}
    files = {"files": ("B02.tif", b"II*\0 nonsense", "image/tiff")}
    answer = browser_of_one.post("/search/upload", data=form, files=files)
    assert answer.status_code == 422
    assert "B02.tif" in answer.text
    assert "/tmp" not in answer.text


def test_a_large_image_is_refused_before_its_pixels_are_read(browser_of_one: httpx.Client) -> None:
    """A file of half a megabyte took 400 MB, as often as a person sent it at the same time."""
    tiff = write_tiff(dict.fromkeys(("VV", "VH"), np.full((1800, 1800), -10, np.float32)), compress="deflate")
    form = {"csrf": csrf_of(browser_of_one.get("/search")), "to": "s1"}
    answer = browser_of_one.post("/search/upload", data=form, files={"files": ("x.tif", tiff, "image/tiff")})
    assert answer.status_code == 413
    assert "1800 x 1800 pixels; at most 2684354" in answer.text


def test_exports_hold_the_hits(browser_of_one: httpx.Client, name: str) -> None:
    given = {"patch_id": name, "k": "5"}
    table = browser_of_one.get("/search/export", params=given | {"format": "csv"})
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4, 5]
    parquet = browser_of_one.get("/search/export", params=given | {"format": "parquet"})
    found = pq.read_table(io.BytesIO(parquet.content))
    assert found["patch_id"].to_pylist() == [row["patch_id"] for row in rows]
    assert b"geo" in found.schema.metadata


def test_a_patch_page_shows_each_band_and_its_neighbours(
    browser_of_one: httpx.Client, archive: RetrievalFixture, name: str
) -> None:
    page = browser_of_one.get(f"/patch/{name}")
    assert page.status_code == 200
    for label in archive.pair(name).meta.labels:
        assert label in page.text
    for view in ("true", "infrared", "shortwave", "radar", "map", "VV", "B02", "B12", "B01"):
        assert f"/{view}.png" in page.text
    picture = browser_of_one.get(f"/patch/{name}/B02.png")
    image = np.asarray(Image.open(io.BytesIO(picture.content)))
    band = archive.pair(name).s2_10m
    assert band is not None
    assert image.shape == (120, 120, 3)
    assert np.corrcoef(image[..., 0].ravel(), band[0].ravel())[0, 1] > 0.9
    assert browser_of_one.get(f"/patch/{name}/B99.png").status_code == 404
    assert browser_of_one.get(f"/thumbnail/s2/{name}").headers["content-type"] == "image/png"


def test_streams_are_shown_with_their_quality_as_long_as_their_table_is_there(
    retrieval: Running, archive: RetrievalFixture, name: str, tmp_path: Path
) -> None:
    streams = tmp_path / "streams.lance"
    table = TableRef(archive.patches, 1)
    bound = Rate(max_error=MaxError(s2=0, s1=0.5))
    with known_method():
        compress_archive(archive.bundle.uri, table, str(streams), bound, Coder(), archive.encoder)
    with running(console_of(retrieval_target=retrieval.target, streams_uri=str(streams))) as run:  # type: ignore[arg-type]
        page = httpx.get(f"{run.rest}/patch/{name}", timeout=60).text
        rows = page.split("Streams</h2>")[1].split("<tbody>")[1].split("</tbody>")[0]
        assert "lossless" in rows
        assert "no sample off by more than 0.5 dB" in rows
        radar = rows.split("<tr>")[1]
        worst, quality = (float(part.split("</td>")[0]) for part in radar.split('<td class="number">')[4:6])
        assert 0 < worst <= 0.5
        assert quality > 20
        shutil.rmtree(streams)
        gone = httpx.get(f"{run.rest}/patch/{name}", timeout=60)
    assert gone.status_code == 404
    assert "there is no table of streams" in gone.text.casefold()
    assert str(tmp_path) not in gone.text


def test_a_patch_that_is_not_there_is_said_so_with_its_markup_escaped(browser_of_one: httpx.Client) -> None:
    for evil in ("<img src=x onerror=alert(1)>", "<script>alert(1)</script>"):
        for address in (f"/patch/{quote(evil, safe='')}", f"/search?patch_id={quote(evil)}"):
            answer = browser_of_one.get(address)
            assert answer.status_code == 404
            assert evil not in answer.text
            assert answer.headers["x-request-id"] in answer.text
            if "/" not in evil or "patch_id" in address:  # a path with a slash is none of a patch
                assert f"No patch '{evil}'" in html.unescape(answer.text)


def test_malformed_parameters_are_named(browser_of_one: httpx.Client) -> None:
    for given, words in (
        ({"bbox": "1,2,3"}, "bbox: expected west,south,east,north"),
        ({"k": "0"}, "k: expected a number of hits from 1 to 200"),
        ({"k": "000000001999"}, "k: expected a number of hits from 1 to 200"),
        ({"from": "s3"}, "modality must be one of s1, s2"),
        ({"since": "tomorrow"}, "since: expected a day"),
        ({"code": "zz"}, "code: expected hexadecimal digits"),
        ({"label": "Forrest"}, "unknown label"),
    ):
        answer = browser_of_one.get("/search", params=given)
        assert answer.status_code == 400
        assert words.casefold() in answer.text.replace("&#39;", "'").casefold()


def test_a_service_that_is_down_is_a_page(archive: RetrievalFixture) -> None:
    from eoforge.storage.seaweed import free_ports

    (port,) = free_ports(1)
    console = console_of(retrieval_target=f"127.0.0.1:{port}", service_seconds=1.0)
    with running(console) as run:  # type: ignore[arg-type]
        answer = httpx.get(f"{run.rest}/search?patch_id=x", timeout=30)
    assert answer.status_code == 503
    assert "cannot be reached at the moment" in answer.text
    assert str(port) not in answer.text.replace(answer.headers["x-request-id"], "")


def test_a_page_whose_service_was_not_given_says_which_setting_names_it() -> None:
    with running(console_of()) as run:  # type: ignore[arg-type]
        answer = httpx.get(f"{run.rest}/search")
    assert answer.status_code == 404
    assert "EOFORGE_RETRIEVAL_TARGET" in answer.text


def test_marks_rank_by_rocchios_rule(browser_of_one: httpx.Client, retrieval: Running, name: str) -> None:
    """Against the formula in another form: on codes of -1 and 1, inner products are Hamming distances."""
    with RetrievalClient(retrieval.target) as client:
        found = client.search(patch_id=name, source="s1", target="s2", k=FIRST, codes=True)
        own = client.search(patch_id=name, source="s1", target="s1", k=1, codes=True)[0].code
    up, down = found[9], found[0]

    def apart(one: bytes, other: bytes) -> int:
        return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()

    assert [apart(own, hit.code) for hit in found] == [hit.distance for hit in found]
    cost = {
        h.patch_id: round(h.distance + 0.75 * apart(up.code, h.code) - 0.15 * apart(down.code, h.code), 4)
        for h in found
    }
    wanted = sorted(cost, key=lambda patch_id: (cost[patch_id], patch_id))[:6]
    given = {"patch_id": name, "k": "6", "up": up.patch_id, "down": down.patch_id}
    page = browser_of_one.get("/search", params=given)
    assert "Re-ranked by 1 similar and 1 dissimilar hits" in page.text
    shown = [part.split('data-name="')[1].split('"')[0] for part in page.text.split('<li class="hit ')[2:]]
    assert shown == wanted
    assert shown != [hit.patch_id for hit in found[:6]]
    table = browser_of_one.get("/search/export", params=given | {"format": "csv"})
    assert [row["patch_id"] for row in csv.DictReader(io.StringIO(table.text))] == wanted
    gone = browser_of_one.get("/search", params=given | {"up": "nobody"})
    assert gone.status_code == 404
