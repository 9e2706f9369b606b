"""Search across owners: hits with their owner, owners that are left out, and pictures that are asked for on demand."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import quote

import grpc
import httpx
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, expect

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.client import RetrievalClient
from eoforge.client.messages import AcrossAnswer
from eoforge.storage.seaweed import free_ports
from services.retrieval.owners import EVERY_HUB, Partner
from tests.console.browser import PHONE, keep, open_page, require_accessible
from tests.console.conftest import console_of, known_method, running_retrieval
from tests.console.console_support import console_with, refused, words_of
from tests.services.retrieval.owners import EACH, EVERYTHING, Owners, make_owners, upstream
from tests.services.support import Running, running

K = 3 * EACH
NORTH = Partner(caller=EVERY_HUB, **EVERYTHING)  # type: ignore[arg-type]
WEST = Partner(caller=EVERY_HUB, distance_step=8)
"""Partners' rights: all at the north; at the west names and rounded distances alone."""


@dataclass(frozen=True)
class Site:
    """A console at the south, whose service asks the north, the west, and an owner that is not there."""

    address: str
    south: Running
    north: Running
    owners: Owners

    @property
    def name(self) -> str:
        return self.owners.by_name["south"].pairs[0].meta.patch_id

    def answer(self) -> AcrossAnswer:
        """What the service answers to the search of these tests."""
        with RetrievalClient(self.south.target) as client:
            return client.search_across(patch_id=self.name, source="s1", target="s2", k=K)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with known_method():
        owners = make_owners(tmp_path_factory.mktemp("owners"))
    (nobody,) = free_ports(1)
    with ExitStack() as stack:
        north, west = (
            stack.enter_context(running_retrieval(owners.by_name[name], owner=name, partners=(rights,)))
            for name, rights in (("north", NORTH), ("west", WEST))
        )
        asked = (
            upstream("north", north.target),
            upstream("west", west.target),
            upstream("gone", f"127.0.0.1:{nobody}", deadline_seconds=1.0),
        )
        south = stack.enter_context(running_retrieval(owners.by_name["south"], owner="south", upstreams=asked))
        made = console_of(retrieval_target=south.target, owner_targets=f"north={north.target}")
        console = stack.enter_context(running(made))  # type: ignore[arg-type]
        yield Site(console.rest, south, north, owners)


@pytest.fixture
def visitor(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.address, timeout=60.0) as client:
        yield client


def cards(page: httpx.Response) -> list[str]:
    """Hits of a page, in order."""
    return page.text.split('<ol class="hits"')[1].split("</ol>")[0].split('<li class="hit')[1:]


def test_hits_come_with_their_owner_in_the_order_of_the_service(visitor: httpx.Client, site: Site) -> None:
    page = visitor.get("/search", params={"patch_id": site.name, "k": K, "across": "1"})
    found = site.answer().hits
    assert {hit.owner for hit in found} == {"north", "south", "west"}
    shown = cards(page)
    names = [card.split('data-name="')[1].split('"')[0] for card in shown]
    assert names == [hit.patch_id for hit in found]
    assert 'value="1" aria-describedby="across-hint" checked' in page.text
    for card, hit in zip(shown, found, strict=True):
        assert f"of {hit.owner}" in card
        linked = f'href="/patch/{quote(hit.patch_id)}"' in card
        assert linked == (hit.owner == "south"), "our own archive alone has pages"
        assert ("?owner=north" in card) == (hit.owner == "north")
        assert ("stays with its owner" in card) == (hit.owner == "west")
    assert "date unknown" in "".join(shown), "the west tells names alone"
    alone = visitor.get("/search", params={"patch_id": site.name, "k": K})
    assert len(cards(alone)) == EACH


def test_owners_that_are_left_out_are_named(visitor: httpx.Client, site: Site) -> None:
    text = words_of(visitor.get("/search", params={"patch_id": site.name, "k": K, "across": "1"}))
    assert f"{K} hits, radar (Sentinel-1) to optical (Sentinel-2), from 3 of 4 owners" in text
    assert "gone is left out: it cannot be reached" in text
    assert f"north : {EACH} of the hits, {EACH} patches pass the filter" in text
    assert "it rounds distances to multiples of 8 bits" in text
    assert "127.0.0.1" not in text.partition("The same search in Python")[0]


def test_the_address_the_code_and_the_exports_are_those_of_the_same_search(visitor: httpx.Client, site: Site) -> None:
    page = visitor.get("/search", params={"patch_id": site.name, "k": K, "across": "1"})
    shown = html.unescape(page.text.split('<pre tabindex="0"><code>')[1].split("</code>")[0])
    scope: dict[str, object] = {}
    exec(shown, scope)  # the page's own words
    assert scope["hits"] == site.answer().hits
    assert html.unescape(page.text.split('<pre tabindex="0"><code>')[2].split("</code>")[0]).endswith("--across")
    link = html.unescape(page.text.split('">Link to this search')[0].rpartition('href="')[2])
    assert len(cards(visitor.get(link))) == K
    export = html.unescape(page.text.split('" download>CSV')[0].rpartition('href="')[2])
    rows = list(csv.DictReader(io.StringIO(visitor.get(export).text)))
    assert [row["owner"] for row in rows] == [hit.owner for hit in site.answer().hits]
    table = pq.read_table(io.BytesIO(visitor.get(export.replace("csv", "parquet")).content))
    assert set(table["owner"].to_pylist()) == {"north", "south"}, "the west withholds footprints"


def test_pictures_of_other_owners_are_asked_where_the_settings_allow_it(visitor: httpx.Client, site: Site) -> None:
    theirs = site.owners.by_name["north"].pairs[0].meta.patch_id
    answer = visitor.get(f"/thumbnail/s2/{theirs}", params={"owner": "north"})
    with RetrievalClient(site.north.target) as client:
        assert answer.content == client.get_patch(theirs, thumbnails=True).s2_thumbnail_png
    own = site.owners.by_name["south"].pairs[0].meta.patch_id
    assert visitor.get(f"/thumbnail/s2/{own}").status_code == 200
    refused(visitor.get(f"/thumbnail/s2/{own}", params={"owner": "north"}), 404, "No patch")
    for owner in ("west", "127.0.0.1:9", "<b>"):
        refused(visitor.get(f"/thumbnail/s2/{theirs}", params={"owner": owner}), 404, "may not ask there")


@pytest.mark.parametrize("picture", [b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n" + bytes(1 << 20)])
def test_of_an_owner_small_pictures_are_taken_and_nothing_else(picture: bytes) -> None:
    def answer(request: pb.GetPatchRequest, _: object) -> pb.GetPatchResponse:
        return pb.GetPatchResponse(patch=pb.PatchMetadata(patch_id=request.patch_id), s2_thumbnail_png=picture)

    handler = grpc.unary_unary_rpc_method_handler(
        answer, pb.GetPatchRequest.FromString, pb.GetPatchResponse.SerializeToString
    )
    service = pb.DESCRIPTOR.services_by_name["RetrievalService"].full_name
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"GetPatch": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with console_with(owner_targets=f"evil=127.0.0.1:{port}") as visitor:
            refused(visitor.get("/thumbnail/s2/x", params={"owner": "evil"}), 422, "a thumbnail as PNG of at most")
    finally:
        server.stop(0).wait()


def test_a_mark_and_a_service_without_upstreams_are_clear_pages(
    visitor: httpx.Client, site: Site, browser_of_one: httpx.Client
) -> None:
    both = {"patch_id": site.name, "across": "1", "up": site.name}
    refused(visitor.get("/search", params=both), 400, "cannot be marked")
    alone = browser_of_one.get("/search", params={"patch_id": site.name, "across": "1"})
    assert alone.status_code in (400, 404)
    assert "Request id" in alone.text


def test_in_the_browser_a_foreign_picture_is_fetched_when_somebody_looks(browser: Browser, site: Site) -> None:
    with open_page(browser, site.address) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url) if "owner=" in request.url else None)
        page.goto("/search")
        page.locator("#patch_id").fill(site.name)
        page.locator("#k").fill(str(K))
        page.get_by_label("Across owners").focus()
        page.keyboard.press("Space")
        page.keyboard.press("Enter")
        expect(page.locator("#results-title")).to_contain_text("from 3 of 4 owners")
        assert "across=1" in page.url
        shown = "[...document.querySelectorAll('li.hit img')].filter(image => image.complete && image.naturalWidth)"
        page.wait_for_function(f"() => {shown}.length > 2")
        assert asked == [], "nobody has looked"
        picture = page.locator("li.hit details").first
        picture.locator("summary").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelector('li.hit details img').naturalWidth === 120")
        assert len(asked) == 1
        require_accessible(page)
        keep(page, "search-across")
    with open_page(browser, site.address, viewport=PHONE, color_scheme="dark") as page:
        page.goto(f"/search?patch_id={site.name}&k={K}&across=1")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        require_accessible(page)
        keep(page, "phone-dark-search-across")
