"""Archive, Runs, Federation and Annotate in a real browser: by keyboard too, accessible, on a phone and in the dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from eoforge.client import FederationClient
from eoforge.methods.anneal.sessions import AnnotationSession
from eoforge.storage.addresses import TableRef
from services.console.live import STREAMS
from tests.console.browser import PHONE, keep, open_page, require_accessible
from tests.console.conftest import console_of
from tests.console.console_support import SMALL_SESSION, patches_to_annotate, runs_in
from tests.data.ingest.ingest_support import grown_table
from tests.services.federation.helpers import ManualSilo, deltas, server_for, start_run
from tests.services.support import Running, running, until

WIDE = """() => [...document.querySelectorAll('main *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth && !e.closest('.leaflet-container, .scroll'))
  .map(e => `${e.tagName} ${e.className} ${e.id} ${e.textContent.slice(0, 30)}`).slice(0, 8)"""
"""Script that names elements beyond the right edge."""


@dataclass(frozen=True)
class Site:
    """A console with all its pages, and what lies behind them."""

    address: str
    coordinator: Running
    sessions: Path
    table: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    table = patches_to_annotate(folder)
    settings = {
        "patches_uri": grown_table(folder / "grown").table,
        "runs_uri": str(runs_in(folder / "bundles") / "runs"),
        "annotations_uri": str(folder / "sessions"),
    }
    with running(server_for(folder / "store")) as coordinator:
        consoles = running(console_of(federation_target=coordinator.target, **settings))  # type: ignore[arg-type]
        with consoles as console:
            yield Site(console.rest, coordinator, folder / "sessions", table)


def session_of(site: Site, name: str) -> AnnotationSession:
    """A session with its first batch."""
    made = AnnotationSession.create(str(site.sessions / name), TableRef(site.table), SMALL_SESSION)
    made.select_next()
    return made


def tab_to(page: Page, name: str) -> None:
    """Moves the focus by the Tab key until a link or button with this text has it."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if name in page.evaluate(
            "document.activeElement.matches('a, button') ? document.activeElement.textContent : ''"
        ):
            return
    raise AssertionError(f"the Tab key does not reach {name!r}")


def press(page: Page, key: str) -> None:
    """Presses a key of the page Annotate and waits for the part that the server sends."""
    before = page.input_value("#undo [name=request_id]")
    page.keyboard.press(key)
    now = "document.querySelector('#undo [name=request_id]')?.value"
    page.wait_for_function(f"before => {now} && {now} !== before", arg=before)


def require_readable_on_a_phone(browser: Browser, site: Site, path: str, ready: str = "main") -> None:
    """Looks at a page on a phone in the dark, once an element is there: accessible, nothing wider than the screen."""
    with open_page(browser, site.address, viewport=PHONE, color_scheme="dark") as page:
        page.goto(path)
        page.wait_for_selector(ready)
        require_accessible(page)
        name = re.sub(r"/run-\w+$", "/run", path.partition("?")[0])
        keep(page, f"phone-dark{name.replace('/', '-')}")
        wide = page.evaluate(WIDE)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], f"too wide: {wide}"


@pytest.mark.parametrize(
    "path",
    [
        "/archive",
        "/archive/quarantine",
        "/archive/changes?older=2&newer=8",
        "/runs",
        "/runs/bundle?name=first/bundle",
        "/runs/compare?first=first/bundle&second=second/bundle",
        "/annotate",
    ],
)
def test_pages_are_readable_on_a_phone_and_in_the_dark(browser: Browser, site: Site, path: str) -> None:
    require_readable_on_a_phone(browser, site, path)


def test_a_federation_is_readable_on_a_phone_and_in_the_dark(browser: Browser, site: Site, tmp_path: Path) -> None:
    silo = ManualSilo(site.coordinator.target, tmp_path)
    with FederationClient(site.coordinator.target, attempts=2) as client:
        run = start_run(client, [silo], tmp_path)
        for path in ("/federation", f"/federation/runs/{run}"):
            require_readable_on_a_phone(browser, site, path, '#live[data-live="yes"]')
        client.cancel(run)


def test_the_archive_has_a_map_its_versions_and_its_quarantine(browser: Browser, site: Site) -> None:
    with open_page(browser, site.address) as page:
        page.goto("/archive")
        expect(page.locator("#archive-map-note")).to_contain_text("11 patches in view, as polygons")
        require_accessible(page)
        keep(page, "archive")
        tab_to(page, "2 findings")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Quarantine")).to_be_visible()
        picture = page.locator(".twins img").first
        picture.scroll_into_view_if_needed()
        page.wait_for_function("() => document.querySelector('.twins img').naturalWidth === 120")
        require_accessible(page)
        keep(page, "archive-quarantine")
        page.get_by_role("link", name="nodata s2").click()
        expect(page.locator(".finding")).to_have_count(1)
        page.goto("/archive")
        page.get_by_label("From version").fill("2")
        page.get_by_role("button", name="What changed").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("What changed from version 2")
        require_accessible(page)
        keep(page, "archive-changes")


def test_two_runs_are_compared_by_keyboard(browser: Browser, site: Site) -> None:
    with open_page(browser, site.address) as page:
        page.goto("/runs")
        require_accessible(page)
        keep(page, "runs")
        page.get_by_role("radio", name="first: first/bundle").focus()
        page.keyboard.press("Space")
        page.get_by_role("radio", name="second: second/bundle").focus()
        page.keyboard.press("Space")
        tab_to(page, "Compare")
        page.keyboard.press("Enter")
        page.wait_for_selector('[data-drawn="3"] canvas')
        expect(page.get_by_role("row", name="config.bits")).to_contain_text("32")
        require_accessible(page)
        keep(page, "runs-compare")
        page.get_by_role("link", name="second/bundle").click()
        page.wait_for_selector('[data-drawn="3"] canvas')
        require_accessible(page)
        keep(page, "runs-bundle")
        page.goto("/runs/bundle?name=absent")
        expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
        keep(page, "runs-absent")


def test_a_federation_is_watched_and_steered(browser: Browser, site: Site, tmp_path: Path) -> None:
    silo = ManualSilo(site.coordinator.target, tmp_path)
    with FederationClient(site.coordinator.target, attempts=2) as client:
        run = start_run(client, [silo], tmp_path, policy={"rounds": 3})
        with open_page(browser, site.address) as page:
            page.goto("/federation")
            page.wait_for_selector('#live[data-live="yes"]')
            row = page.get_by_role("row", name=run)
            expect(row).to_contain_text("1 of 3")
            silo.send(run, 1, deltas(), metrics={"loss": 0.5})
            expect(row).to_contain_text("2 of 3")
            require_accessible(page)
            keep(page, "federation")
            tab_to(page, run)
            page.keyboard.press("Enter")
            expect(page.locator("#journal")).to_contain_text("round_closed")
            page.wait_for_selector('[data-drawn="1"] canvas')
            require_accessible(page)
            keep(page, "federation-run")
            page.get_by_label("Reason for the journal").fill("a look by people")
            tab_to(page, "Pause")
            page.keyboard.press("Enter")
            expect(page.locator("p.notice")).to_contain_text("The run is paused")
            expect(page.locator("#journal")).to_contain_text("a look by people")
            page.get_by_role("button", name="Resume").click()
            expect(page.locator("p.notice")).to_contain_text("The run goes on")
            page.get_by_role("button", name="Cancel the run").click()
            expect(page.locator("#live")).to_contain_text("The run has ended")
            keep(page, "federation-cancelled")
            page.goto("/federation")
            page.wait_for_selector('#live[data-live="yes"]')
            assert STREAMS.open == 1
            page.goto("/runs")
            until(lambda: STREAMS.open == 0, 20)


def test_pairs_are_answered_by_keys_and_the_next_batch_comes_by_itself(browser: Browser, site: Site) -> None:
    session = session_of(site, "keys")
    with open_page(browser, site.address) as page:
        page.goto("/annotate")
        page.get_by_role("link", name="keys").click()
        progress = page.locator("#progress")
        expect(progress).to_have_attribute("value", "0")
        page.wait_for_function("() => [...document.querySelectorAll('.card > .picture')].every(i => i.naturalWidth)")
        require_accessible(page)
        page.get_by_text("All bands").first.click()
        page.wait_for_function(
            "() => [...document.querySelectorAll('.bands')][0].querySelector('img').naturalWidth > 0"
        )
        page.get_by_text("Radar", exact=True).first.click()
        page.get_by_text("Where they lie").click()
        page.wait_for_selector("[data-pair-map].leaflet-container")
        require_accessible(page)
        keep(page, "annotate")
        shown = page.input_value("#answer [name=first]"), page.input_value("#answer [name=second]")
        for key, value in (("s", "1"), ("d", "2"), ("k", "2"), ("u", "2"), ("u", "1"), ("u", "0")):
            press(page, key)
            expect(progress).to_have_attribute("value", value)
        again = page.input_value("#answer [name=first]"), page.input_value("#answer [name=second]")
        assert again == shown
        for number in range(4):
            press(page, "s" if number % 2 else "d")
            expect(progress).to_have_attribute("value", str(number + 1))
        page.wait_for_selector('[data-iteration="1"] #answer', timeout=120_000)
        page.wait_for_selector("[data-drawn] canvas")
        require_accessible(page)
        keep(page, "annotate-next-batch")
    assert len(session.annotations().standing) == 4


def test_no_answer_is_lost(browser: Browser, site: Site) -> None:
    session = session_of(site, "kept")
    provoked = ("htmx:", "ERR_INTERNET_DISCONNECTED", "Response Status Error Code")
    with open_page(browser, site.address, expected=provoked) as page:
        page.goto("/annotate/kept")
        page.wait_for_selector("#answer")
        page.context.set_offline(True)
        page.keyboard.press("s")
        expect(page.locator("#work .notice").first).to_contain_text("cannot be reached")
        keep(page, "annotate-offline")
        page.context.set_offline(False)
        page.keyboard.press("s")
        expect(page.locator("#progress")).to_have_attribute("value", "1")
        page.context.clear_cookies()
        page.keyboard.press("d")
        expect(page.locator("#work")).to_contain_text("nothing was changed")
        page.reload()
        expect(page.locator("#progress")).to_have_attribute("value", "2")
        table = Path(session.address, "annotations.lance", "_transactions")
        table.rename(table.with_name("aside"))
        table.write_text("in the place of a folder")
        page.keyboard.press("s")
        expect(page.locator("#work")).to_contain_text("is kept in this form")
        require_accessible(page)
        keep(page, "annotate-dead-store")
        table.unlink()
        table.with_name("aside").rename(table)
        page.get_by_role("button", name="Send the answer again").click()
        expect(page.locator("#progress")).to_have_attribute("value", "3")
    assert [row.answer for row in session.annotations().rows] == ["similar", "dissimilar", "similar"]


def test_disagreements_are_adjudicated(browser: Browser, site: Site) -> None:
    session = AnnotationSession.create(str(site.sessions / "two"), TableRef(site.table), SMALL_SESSION, votes=2)
    session.select_next()
    for who, answer in (("anna", "similar"), ("ben", "dissimilar")):
        session.answer(session.rounds()[0].pairs[0], answer, who, 1.0, f"{who}-0")
    for path in ("/annotate/two?as=cleo", "/annotate/two/disagreements"):
        require_readable_on_a_phone(browser, site, path)
    with open_page(browser, site.address) as page:
        page.goto("/annotate/two?as=cleo")
        page.get_by_role("link", name="1 disagreement").click()
        require_accessible(page)
        keep(page, "annotate-disagreements")
        page.get_by_role("button", name="Similar", exact=True).click()
        expect(page.locator("p.notice")).to_contain_text("The final answer is stored")
    assert len(session.annotations().adjudicated) == 1
