"""Sign-in in a real browser at a provider of another site: the whole way there and back, sign-out, ended sessions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from eoforge.methods.anneal.sessions import AnnotationSession
from eoforge.storage.addresses import TableRef
from services.console.session import Sessions
from services.console.settings import ConsoleSettings
from tests.console.browser import keep, open_page, require_accessible
from tests.console.conftest import console_of, running_retrieval
from tests.console.console_support import SMALL_SESSION
from tests.console.provider import Provider, running_provider, signing_in, trusting
from tests.services.retrieval.fixtures import RetrievalFixture
from tests.services.support import running

STYLES_OF_THE_PROVIDER = "https://cdn.jsdelivr.net/"


@dataclass(frozen=True)
class Site:
    """A console whose people sign in at a provider, and whose services take that provider's tokens alone."""

    address: str
    provider: Provider
    settings: dict[str, Any]
    sessions: Path


@contextmanager
def running_site(archive: RetrievalFixture, folder: Path, *, public: bool) -> Iterator[Site]:
    """The site during the block; to the browser, ``localhost`` and ``127.0.0.1`` are two sites."""
    key = folder / "key"
    key.write_text("k" * 32)
    with ExitStack() as stack:
        provider = stack.enter_context(running_provider(public=public, host="localhost"))
        service = stack.enter_context(running_retrieval(archive, **trusting(provider, folder)))
        values = {"retrieval_target": service.target, "annotations_uri": str(folder / "sessions")}
        settings = signing_in(provider, session_key_file=key, **values)
        console = stack.enter_context(running(console_of(**settings)))  # type: ignore[arg-type]
        yield Site(console.rest, provider, settings, folder / "sessions")


@pytest.fixture(scope="module", params=["confidential", "public"])
def each_site(
    request: pytest.FixtureRequest, archive: RetrievalFixture, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with running_site(archive, folder, public=request.param == "public") as made:
        yield made


@pytest.fixture(scope="module")
def site(archive: RetrievalFixture, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(archive, tmp_path_factory.mktemp("site"), public=False) as made:
        yield made


@contextmanager
def visiting(browser: Browser, site: Site, **options: Any) -> Iterator[Page]:
    """A browser without history; the provider's pages ask for a style of another server, which is not reached."""
    others = (f"{site.provider.issuer}/", STYLES_OF_THE_PROVIDER)
    with open_page(browser, site.address, others=others, **options) as page:
        page.context.route(f"{STYLES_OF_THE_PROVIDER}**", lambda route: route.fulfill(body="", content_type="text/css"))
        yield page


def sign_in(page: Page, site: Site, name: str) -> None:
    """Fills in the provider's form, which the browser must have reached."""
    page.wait_for_url(f"{site.provider.issuer}/oauth2/authorize**")
    page.locator("input[name=sub]").fill(name)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{site.address}/**")


def end_token(page: Page, site: Site) -> None:
    """Replaces the session by one whose token has ended and cannot be renewed, as after a long break."""
    sessions = Sessions(ConsoleSettings(**site.settings))
    session, new = sessions.load({cookie["name"]: cookie["value"] for cookie in page.context.cookies()})
    assert not new
    for header in sessions.headers(replace(session, expires=1.0, refresh=""), {}):
        name, value = header.partition(";")[0].split("=", 1)
        page.context.add_cookies([{"name": name, "value": value, "url": site.address}])


def test_there_and_back_with_rights_of_the_person(browser: Browser, each_site: Site, archive: RetrievalFixture) -> None:
    name = archive.pairs[0].meta.patch_id
    with visiting(browser, each_site) as page:
        page.goto(f"/search?patch_id={name}&k=3")
        sign_in(page, each_site, "alice")
        assert page.url == f"{each_site.address}/search?patch_id={name}&k=3", "the page that was wanted"
        expect(page.locator("ol.hits > li")).to_have_count(3)
        expect(page.locator(".person")).to_contain_text("alice")
        drawn = "[...document.querySelectorAll('img.picture')].filter(i => i.complete && i.naturalWidth).length > 2"
        page.wait_for_function(drawn)
        assert each_site.provider.ways[-1] == ("none" if each_site.provider.public else "secret")
        assert len(each_site.provider.verified) == 1
        (cookie,) = page.context.cookies(each_site.address)
        assert cookie["name"].startswith("eoforge_session"), "what waited for the answer is gone"
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
        require_accessible(page)
        keep(page, f"signed-in-{'public' if each_site.provider.public else 'confidential'}")
        page.get_by_role("button", name="Sign out").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Signed out")
        require_accessible(page)
        keep(page, "signed-out")
        page.go_back()
        page.wait_for_url(f"{each_site.provider.issuer}/**")  # the page was not kept by the browser
        page.go_back()
        page.goto("/archive")
        page.wait_for_url(f"{each_site.provider.issuer}/**")


def test_the_session_of_the_provider_is_ended_there(browser: Browser, site: Site) -> None:
    with visiting(browser, site) as page:
        page.goto("/search")
        sign_in(page, site, "bob")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("link", name="End the session at the provider").click()
        page.wait_for_url(f"{site.provider.issuer}/oauth2/end_session?client_id=eoforge-console")
        expect(page.get_by_role("heading", level=1)).to_have_text("End Session")


def test_a_search_after_the_session_has_ended_is_found_after_the_next_sign_in(
    browser: Browser, site: Site, archive: RetrievalFixture
) -> None:
    name = archive.pairs[1].meta.patch_id
    with visiting(browser, site) as page:
        page.goto("/search")
        sign_in(page, site, "carol")
        end_token(page, site)
        page.locator("#patch_id").fill(name)
        page.keyboard.press("Enter")
        sign_in(page, site, "carol")
        assert f"patch_id={name}" in page.url
        expect(page.locator("ol.hits > li")).to_have_count(20)


def test_an_answer_after_the_session_has_ended_is_not_lost(
    browser: Browser, site: Site, archive: RetrievalFixture
) -> None:
    session = AnnotationSession.create(str(site.sessions / "coast"), TableRef(archive.patches), SMALL_SESSION)
    session.select_next()
    with visiting(browser, site, expected=("Response Status Error Code",)) as page:
        page.goto("/annotate/coast")
        sign_in(page, site, "dora")
        expect(page.locator("#progress")).to_have_attribute("value", "0")
        end_token(page, site)
        page.keyboard.press("d")
        expect(page.locator("#work")).to_contain_text("session has ended")
        expect(page.locator("#work .notice")).to_contain_text("Your answer is kept in this tab")
        keep(page, "annotate-session-ended")
        assert session.annotations().rows == ()
        page.get_by_role("link", name="Sign in again").click()
        sign_in(page, site, "dora")
        expect(page.locator("#progress")).to_have_attribute("value", "1")
    (row,) = session.annotations().rows
    assert (row.answer, row.who) == ("dissimilar", "dora")


def test_the_answer_to_a_foreign_sign_in_signs_nobody_in(browser: Browser, site: Site) -> None:
    with httpx.Client(base_url=site.address) as mallory:
        address = mallory.get("/sign-in").headers["location"]
    foreign = httpx.post(address, data={"sub": "mallory"}).headers["location"]
    with visiting(browser, site) as page:
        page.goto(foreign)
        expect(page.locator(".problem")).to_contain_text("was not begun in this browser")
        require_accessible(page)
        keep(page, "signin-foreign")
        page.goto("/search")
        page.wait_for_url(f"{site.provider.issuer}/**")
        page.goto(foreign)
        expect(page.locator(".problem")).to_contain_text("sign in again")
        assert "mallory" not in page.content()
        page.get_by_role("link", name="Sign in again").click()
        sign_in(page, site, "erin")
        expect(page.locator(".person")).to_contain_text("erin")


def test_who_declines_is_told_so(browser: Browser, site: Site) -> None:
    with visiting(browser, site) as page:
        page.goto("/search")
        page.get_by_role("button", name="Deny").click()
        expect(page.locator(".problem")).to_contain_text("access_denied")
        page.get_by_role("link", name="Sign in again").click()
        sign_in(page, site, "frank")
        expect(page.locator(".person")).to_contain_text("frank")
