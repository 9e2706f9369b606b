"""Sign-in at a real provider: code flow with PKCE, the token that goes on, renewal, refusals."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from services.console.session import Session, Sessions
from services.console.settings import ConsoleSettings
from tests.console.conftest import console_of, csrf_of, running_retrieval
from tests.console.provider import Provider, running_provider, secret, signing_in, trusting
from tests.services.retrieval.fixtures import RetrievalFixture
from tests.services.support import Running, running


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider() as made:
        yield made


@pytest.fixture(scope="module")
def guarded_retrieval(
    archive: RetrievalFixture, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A retrieval service that takes the provider's tokens alone."""
    with running_retrieval(archive, **trusting(provider, tmp_path_factory.mktemp("jwks"))) as run:
        yield run


@pytest.fixture(scope="module")
def private(provider: Provider, guarded_retrieval: Running) -> Iterator[Running]:
    settings = signing_in(provider, retrieval_target=guarded_retrieval.target)
    with running(console_of(**settings)) as run:  # type: ignore[arg-type]
        yield run


@pytest.fixture
def person(private: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=private.rest, timeout=30.0) as client:
        yield client


def to_provider(person: httpx.Client, there: str = "/search") -> str:
    """Begins a sign-in; returns the provider's address."""
    begun = person.get(there)
    assert begun.status_code == 303
    assert begun.headers["location"].startswith("/sign-in?next=")
    sent = person.get(begun.headers["location"])
    assert sent.status_code == 302
    return sent.headers["location"]


def back_from_provider(address: str, **form: str) -> str:
    """Answers the provider's form; returns the address that it sends the browser to."""
    answer = httpx.post(address, data=form)
    assert answer.status_code == 302, answer.text[:500]
    return answer.headers["location"]


def test_sign_in_leads_to_the_page_that_was_wanted_with_rights_of_the_person(
    person: httpx.Client, provider: Provider, archive: RetrievalFixture
) -> None:
    name = archive.pairs[0].meta.patch_id
    before = len(provider.verified)
    address = to_provider(person, f"/search?patch_id={name}&k=3")
    assert "code_challenge_method=S256" in address
    done = person.get(back_from_provider(address, sub="alice"))
    assert done.status_code == 303
    assert done.headers["location"] == f"/search?patch_id={name}&k=3"
    assert len(provider.verified) == before + 1, "the provider saw the verifier of the challenge"
    page = person.get(done.headers["location"])
    assert page.status_code == 200, "the service took the person's token"
    assert "alice" in page.text
    assert page.text.count('class="hit ') == 4
    assert not [name for name in person.cookies if "sign_in" in name], "what waited for the answer is gone"
    out = person.post("/sign-out", data={"csrf": csrf_of(page)})
    assert "Signed out" in out.text
    assert person.get("/search").status_code == 303


def test_several_tabs_sign_in_at_the_same_time(person: httpx.Client) -> None:
    wanted = [f"/search?k={number}" for number in range(1, 5)]
    addresses = [to_provider(person, there) for there in wanted]
    answers = [person.get(back_from_provider(address, sub="alice")) for address in reversed(addresses)]
    led = [answer.headers.get("location") for answer in reversed(answers)]
    assert led == [None, *wanted[1:]], "the last three are kept"
    assert not [name for name in person.cookies if "sign_in" in name]


def test_a_very_long_address_is_forgotten(person: httpx.Client) -> None:
    sent = person.get("/sign-in", params={"next": "/search?patch_id=" + "x" * 30_000})
    assert person.get(back_from_provider(sent.headers["location"], sub="bob")).headers["location"] == "/"


def test_signing_out_needs_the_token_of_the_form(person: httpx.Client) -> None:
    person.get(back_from_provider(to_provider(person), sub="bob"))
    assert person.post("/sign-out").status_code == 403
    assert person.get("/search").status_code == 200


def test_an_upload_of_a_stranger_is_refused_before_its_body_is_sent(private: Running) -> None:
    host, port = private.rest.removeprefix("http://").split(":")
    head = (
        f"POST /search/upload HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: 60000000\r\n"
        "content-type: multipart/form-data; boundary=x\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(head.encode())
        assert line.recv(1 << 12).startswith(b"HTTP/1.1 401")


def test_the_answer_to_another_browser_is_refused(person: httpx.Client, private: Running) -> None:
    address = back_from_provider(to_provider(person), sub="mallory")
    with httpx.Client(base_url=private.rest) as victim:
        answer = victim.get(address)
        assert answer.status_code == 401
        assert "not begun in this browser" in answer.text
        to_provider(victim)
        assert victim.get(address).status_code == 401, "the state is that of another sign-in"
        assert victim.get("/search").status_code == 303


def test_who_declines_at_the_provider_is_told_so(person: httpx.Client) -> None:
    address = to_provider(person)
    state = dict(part.split("=", 1) for part in urlsplit(address).query.split("&"))["state"]
    answer = person.get(f"/sign-in/callback?error=access_denied&state={state}&error_description=<b>x</b>")
    assert answer.status_code == 401
    assert "access_denied" in answer.text
    assert "<b>x</b>" not in answer.text


@pytest.mark.parametrize("code", ["", "&code=", "&code=forged", "&code=%00", "&code=" + "z" * 20_000])
def test_an_answer_without_the_code_of_the_provider_signs_nobody_in(person: httpx.Client, code: str) -> None:
    address = to_provider(person)
    state = dict(part.split("=", 1) for part in urlsplit(address).query.split("&"))["state"]
    answer = person.get(f"/sign-in/callback?state={state}{code}")
    assert answer.status_code == 401
    assert "sign in again" in answer.text
    assert person.get("/search").status_code == 303


@pytest.mark.parametrize("there", ["//evil.test/", "https://evil.test/", "/\\evil.test", "javascript:alert(1)"])
def test_no_sign_in_leads_to_another_site(person: httpx.Client, there: str) -> None:
    sent = person.get("/sign-in", params={"next": there})
    done = person.get(back_from_provider(sent.headers["location"], sub="carol"))
    assert done.headers["location"] == "/"


def test_htmx_is_sent_to_the_sign_in_as_a_whole_page(person: httpx.Client) -> None:
    answer = person.get("/search?k=3", headers={"hx-request": "true"})
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/sign-in?next=%2Fsearch%3Fk%3D3"


def test_a_token_that_a_service_refuses_is_no_endless_loop(provider: Provider, guarded_retrieval: Running) -> None:
    """An opaque access token is none that the service can verify: a page says so, without another redirection."""
    settings = signing_in(provider, oidc_service_token="access_token", retrieval_target=guarded_retrieval.target)
    with running(console_of(**settings)) as run, httpx.Client(base_url=run.rest) as person:  # type: ignore[arg-type]
        person.get(back_from_provider(to_provider(person), sub="dave"))
        answer = person.get("/search")
    assert answer.status_code == 401
    assert "token was refused" in answer.text


def test_a_token_that_ends_is_renewed(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32)
    with running_provider(seconds=20) as provider:
        settings = signing_in(provider, oidc_service_token="access_token", session_key_file=key)
        with running(console_of(**settings)) as run, httpx.Client(base_url=run.rest) as person:  # type: ignore[arg-type]
            person.get(back_from_provider(to_provider(person), sub="erin"))
            sessions = Sessions(ConsoleSettings(**settings))
            first, _ = sessions.load(dict(person.cookies))
            assert first.subject == "erin"
            assert person.get("/search").status_code == 404, "signed in; this console has no service"
            second, _ = sessions.load(dict(person.cookies))
    assert second.token != first.token
    assert (second.subject, second.csrf, second.began) == (first.subject, first.csrf, first.began)


def test_a_cookie_of_another_console_signs_nobody_in(person: httpx.Client, provider: Provider, tmp_path: Path) -> None:
    person.get(back_from_provider(to_provider(person), sub="grace"))
    assert person.get("/search").status_code == 200
    key = tmp_path / "key"
    key.write_text("another key of another console....")
    others = Sessions(ConsoleSettings(session_key_file=key))
    for header in others.headers(Session(name="grace", subject="grace", token="t"), {}):
        person.cookies.set(*header.partition(";")[0].split("=", 1))
    answer = person.get("/search")
    assert answer.headers["location"] == "/sign-in?next=%2Fsearch"
    assert "eoforge_session" in answer.headers["set-cookie"], "a session of nobody takes its place"


def test_a_public_client_shows_its_verifier_and_no_secret() -> None:
    with running_provider(public=True) as provider:
        settings = signing_in(provider)
        with running(console_of(**settings)) as run, httpx.Client(base_url=run.rest) as person:  # type: ignore[arg-type]
            done = person.get(back_from_provider(to_provider(person), sub="frank"))
        assert done.status_code == 303
        assert provider.ways == ["none"]
        assert len(provider.verified) == 1


def test_a_wrong_secret_is_a_page(provider: Provider) -> None:
    settings = signing_in(provider, oidc_client_secret_file=secret("another secret"))
    with running(console_of(**settings)) as run, httpx.Client(base_url=run.rest) as person:  # type: ignore[arg-type]
        answer = person.get(back_from_provider(to_provider(person), sub="grace"))
    assert answer.status_code == 401
    assert "invalid_client" in answer.text
    assert "another secret" not in answer.text


def test_who_signs_out_is_told_where_to_end_the_session_of_the_provider(
    person: httpx.Client, provider: Provider
) -> None:
    person.get(back_from_provider(to_provider(person), sub="heidi"))
    out = person.post("/sign-out", data={"csrf": csrf_of(person.get("/search"))})
    assert f'href="{provider.issuer}/oauth2/end_session?client_id=eoforge-console"' in out.text


def test_an_ended_session_leads_back_to_the_page_and_never_to_a_part_of_it(tmp_path: Path, provider: Provider) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32)
    settings = signing_in(provider, session_key_file=key)
    with running(console_of(**settings)) as run, httpx.Client(base_url=run.rest) as person:  # type: ignore[arg-type]
        person.get(back_from_provider(to_provider(person), sub="ivan"))
        sessions = Sessions(ConsoleSettings(**settings))
        session, _ = sessions.load(dict(person.cookies))
        for header in sessions.headers(replace(session, expires=1.0, refresh=""), {}):
            person.cookies.set(*header.partition(";")[0].split("=", 1))
        there = {"hx-request": "true", "hx-current-url": f"{run.rest}/annotate/coast?as=anna"}
        part = person.get("/annotate/coast/work?as=anna", headers=there)
        assert part.headers["hx-redirect"] == "/sign-in?next=%2Fannotate%2Fcoast%3Fas%3Danna"
        form = {"csrf": session.csrf, "first": "a", "second": "b", "answer": "similar", "request_id": "x"}
        answer = person.post("/annotate/coast/answer", data=form, headers=there)
        assert answer.status_code == 401
        assert 'href="/sign-in?next=/annotate/coast%3Fas%3Danna"' in answer.text
        foreign = person.post("/annotate/coast/answer", data=form, headers={"referer": "https://evil.test/x"})
        assert 'href="/sign-in?next=/"' in foreign.text
        for headers in ({"accept": "application/json"}, {"sec-fetch-mode": "no-cors", "accept": "image/png"}):
            assert person.get("/annotate/coast/curves", headers=headers).status_code == 401, "nobody sees a redirection"


def test_a_provider_that_is_down_is_a_page() -> None:
    with running_provider() as provider:
        settings = signing_in(provider)
    with running(console_of(**settings)) as run, httpx.Client(base_url=run.rest, timeout=30) as person:  # type: ignore[arg-type]
        answer = person.get("/sign-in")
    assert answer.status_code == 503
    assert "cannot be reached at the moment" in answer.text
