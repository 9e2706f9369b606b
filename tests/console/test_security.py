"""What strangers send: foreign forms, foreign cookies, large bodies, other hosts; and what each answer carries."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from eoforge.errors import UsageError
from scripts.settings_table import table
from services.console.session import Caller, Cookies, Session, Sessions
from services.console.settings import ConsoleSettings
from services.console.sources import Sources
from tests.console.browser import ROOT
from tests.console.conftest import console_of, csrf_of
from tests.services.retrieval.fixtures import RetrievalFixture
from tests.services.support import Pki, Running, make_pki, running, until


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


UPLOAD = {"files": ("x.tif", b"x", "image/tiff")}


def test_a_form_without_its_token_changes_nothing(browser_of_one: httpx.Client) -> None:
    browser_of_one.get("/search")
    for data in ({}, {"csrf": "x" * 43}):
        answer = browser_of_one.post("/search/upload", data=data, files=UPLOAD)
        assert answer.status_code == 403
        assert "nothing was changed" in answer.text


def test_the_token_of_another_person_is_refused(console: Running, browser_of_one: httpx.Client) -> None:
    browser_of_one.get("/search")
    other = csrf_of(httpx.get(f"{console.rest}/search"))
    answer = browser_of_one.post("/search/upload", data={"csrf": other}, files=UPLOAD)
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.test"},
        {"origin": "http://["},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_form_of_another_site_is_refused_before_its_body_is_read(
    browser_of_one: httpx.Client, headers: dict[str, str]
) -> None:
    token = csrf_of(browser_of_one.get("/search"))
    answer = browser_of_one.post("/search/upload", data={"csrf": token}, files=UPLOAD, headers=headers)
    assert answer.status_code == 403
    assert "another site" in answer.text


def test_two_gigabytes_are_refused_by_their_declared_length(console: Running) -> None:
    host, port = console.rest.removeprefix("http://").split(":")
    head = (
        f"POST /search/upload HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: multipart/form-data; boundary=x\r\n"
        f"content-length: {2 << 30}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(head.encode())
        answer = ""
        while piece := line.recv(1 << 16):
            answer += piece.decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "2,147,483,648" in answer


def test_a_body_without_a_length_is_refused(browser_of_one: httpx.Client) -> None:
    answer = browser_of_one.post("/search/upload", content=iter([b"abc"]))
    assert answer.status_code == 400
    assert "Content-Length" in answer.text


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data; boundary=x; charset=punycode",  # 256 kB of it held the event loop for 3 s
        "multipart/form-data; charset=idna; boundary=x",
        "multipart/form-data; boundary=x;charset=punycode",
        'multipart/form-data; boundary="x";charset=idna',
        "application/x-www-form-urlencoded; charset=utf-7",
        "text/plain",
        "",
    ],
)
def test_a_form_of_another_kind_is_refused_before_it_is_read(console: Running, kind: str) -> None:
    answer = httpx.post(f"{console.rest}/search/upload", content=b"--x--", headers={"content-type": kind})
    assert answer.status_code == 400
    assert "form-data, in UTF-8; got another kind" in answer.text


def test_a_form_without_files_is_small_also_where_files_may_come(console: Running) -> None:
    kind = {"content-type": "application/x-www-form-urlencoded"}  # 60 MB of "&" took 27 s
    answer = httpx.post(f"{console.rest}/search/upload", content=b"&" * 70_000, headers=kind)
    assert answer.status_code == 413
    assert "a form may have 65,536 bytes" in answer.text.lower()


@pytest.mark.parametrize("host", ["rebound.test", "127.0.0.1@rebound.test", "[::1", "\xe9", ""])
def test_another_host_name_is_refused(console: Running, host: str) -> None:
    answer = httpx.get(f"{console.rest}/search", headers=[("host", host.encode("latin-1"))])
    assert answer.status_code == 400
    assert "another host" in answer.text


def test_a_slow_service_of_one_caller_leaves_threads_for_others(archive: RetrievalFixture) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=200) as silent:  # takes connections and never answers
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        given = {"retrieval_target": target, "patches_uri": archive.patches, "service_seconds": 20.0}
        with running(console_of(**given)) as run, ThreadPoolExecutor(60) as pool:  # type: ignore[arg-type]
            near = httpx.HTTPTransport(local_address="127.0.0.2")
            with httpx.Client(base_url=run.rest, transport=near, timeout=60) as busy:
                waiting = [pool.submit(busy.get, "/search") for _ in range(60)]
                until(lambda: len(run.server._server.server_state.tasks) == 60)  # type: ignore[attr-defined]
                assert httpx.get(f"{run.rest}/archive", timeout=15).status_code == 200
                assert not any(one.done() for one in waiting), "they wait for the service still"
                silent.close()


@pytest.mark.parametrize("path", ["//evil.test/", "/\\evil.test", "/%5Cevil.test", "/%09/evil.test"])
def test_no_page_of_an_error_leads_to_another_site(console: Running, path: str) -> None:
    host, port = console.rest.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n".encode())
        answer = ""
        while piece := line.recv(1 << 16):
            answer += piece.decode()
    assert answer.startswith("HTTP/1.1 404")
    (again,) = re.findall('href="([^"]*)">Try again', answer)
    assert again in ("/", path)
    assert not again.startswith(("//", "/\\"))


def test_cookies_of_somebody_else_are_no_session(tmp_path: Path) -> None:
    mine, theirs = Sessions(ConsoleSettings()), Sessions(ConsoleSettings())
    session = Session(name="Eve", subject="eve", token="t")
    (header,) = theirs.headers(session, {})
    cookies = dict([header.partition(";")[0].split("=", 1)])
    assert theirs.load(cookies) == (session, False)
    assert mine.load(cookies)[1], "made with another key"
    name, value = next(iter(cookies.items()))
    changed = value[:-10] + ("A" if value[-10] != "A" else "B") + value[-9:]
    assert theirs.load({name: changed})[1], "changed by a character"
    other_kind = Cookies(ConsoleSettings(), "eoforge_sign_in", 60)
    assert other_kind.read({name.replace("session", "sign_in"): value}) is None


def test_a_long_session_is_spread_over_cookies_and_replicas_share_a_key(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32 + "\n")
    first, second = (Sessions(ConsoleSettings(session_key_file=key)) for _ in range(2))
    session = Session(subject="x", token="t" * 6000)
    headers = first.headers(session, {})
    assert len(headers) == 3
    assert all(len(header) < 4096 for header in headers)
    cookies = dict(header.partition(";")[0].split("=", 1) for header in headers)
    assert second.load(cookies) == (session, False)
    shorter = first.headers(Session(), cookies)
    assert sum("Max-Age=0" in header for header in shorter) == 2, "what is left over is removed"
    with pytest.raises(UsageError, match="too long for cookies"):
        first.headers(Session(token="t" * 12_000), {})
    key.write_text("n" * 32 + "\n" + "k" * 32 + "\n")
    assert Sessions(ConsoleSettings(session_key_file=key)).load(cookies) == (session, False), "the former key counts"
    key.write_text("short")
    with pytest.raises(UsageError, match="at least 32 bytes"):
        Sessions(ConsoleSettings(session_key_file=key))


def test_cookies_are_out_of_reach_of_scripts_and_of_plain_http() -> None:
    (plain,) = Sessions(ConsoleSettings()).headers(Session(), {})
    assert "HttpOnly" in plain
    assert "SameSite=Lax" in plain
    assert "Secure" not in plain
    (secure,) = Sessions(ConsoleSettings(public_url="https://console.test")).headers(Session(), {})
    assert secure.startswith("__Host-eoforge_session.0=")
    assert "Secure" in secure
    assert "Path=/" in secure


def test_every_answer_carries_the_policy_and_no_page_breaks_it(browser_of_one: httpx.Client) -> None:
    for address in ("/search", "/nothing", "/static/console.css", "/health/live"):
        answer = browser_of_one.get(address)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
    page = browser_of_one.get("/search").text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", page)


def test_pages_are_not_kept_and_files_are(browser_of_one: httpx.Client) -> None:
    assert browser_of_one.get("/search").headers["cache-control"] == "no-store"
    style = browser_of_one.get("/static/console.css")
    assert "max-age=3600" in style.headers["cache-control"]
    assert style.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in browser_of_one.get("/search").headers, "a page's length must not tell its secret"
    assert browser_of_one.get("/static/vendor/../../settings.py").status_code == 404


def begun(run: Running, path: str, length: int, address: str = "127.0.0.1") -> socket.socket:
    """Connection on which a form has begun that does not go on."""
    host, port = run.rest.removeprefix("http://").split(":")
    line = socket.create_connection((host, int(port)), timeout=30, source_address=(address, 0))
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: multipart/form-data; boundary=x\r\n"
        f"content-length: {length}\r\n\r\n-"
    )
    line.sendall(head.encode())
    return line


def test_a_form_that_does_not_arrive_is_not_waited_for() -> None:
    with running(console_of(receive_seconds=2.0)) as run, begun(run, "/sign-out", 5000) as line:  # type: ignore[arg-type]
        line.settimeout(30)
        assert line.recv(1 << 12).startswith(b"HTTP/1.1 504")


def test_an_annotators_answer_that_does_not_arrive_is_no_mistake_of_theirs() -> None:
    with running(console_of(receive_seconds=2.0)) as run, begun(run, "/annotate/x/answer", 500) as line:  # type: ignore[arg-type]
        line.settimeout(30)
        assert line.recv(1 << 12).startswith(b"HTTP/1.1 504")


def test_a_page_that_names_no_address_as_its_referrer_gets_the_usual_error(browser_of_one: httpx.Client) -> None:
    answer = browser_of_one.get("/nope", headers={"referer": "http://["})
    assert (answer.status_code, "content-security-policy" in answer.headers) == (404, True)


def test_uploads_that_do_not_arrive_leave_room_for_other_forms() -> None:
    with ExitStack() as stack:
        run = stack.enter_context(running(console_of(max_upload_bytes=1024, receive_seconds=15.0)))  # type: ignore[arg-type]
        for address in ("127.0.0.2", "127.0.0.3"):
            for _ in range(4):
                stack.enter_context(begun(run, "/search/upload", 1024, address))
        until(lambda: len(run.server._server.server_state.tasks) == 8)  # type: ignore[attr-defined]
        assert httpx.post(f"{run.rest}/sign-out", data={"csrf": "x"}, timeout=30).status_code == 403


def test_probes_and_metrics_need_no_session(browser_of_one: httpx.Client) -> None:
    assert browser_of_one.get("/health/ready").json() == {"ready": True}
    browser_of_one.get("/search")
    metrics = browser_of_one.get("/metrics")
    assert 'eoforge_requests_total{code="200",method="WEB /search"}' in metrics.text
    assert "set-cookie" not in metrics.headers


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"host": "0.0.0.0"}, "without TLS .* and without authentication \\(EOFORGE_OIDC_ISSUER\\)"),
        ({"oidc_issuer": "https://id.test"}, "EOFORGE_OIDC_CLIENT_ID and EOFORGE_PUBLIC_URL"),
        (
            {"oidc_issuer": "https://i.test", "oidc_client_id": "c", "public_url": "https://c.test", "token": "t"},
            "one identity",
        ),
        ({"public_url": "http://console.test"}, "expected https://"),
        ({"base_map_url": "javascript:alert(1)"}, "EOFORGE_BASE_MAP_URL"),
        ({"base_map_url": "https://h; script-src */{z}"}, "EOFORGE_BASE_MAP_URL"),
        ({"public_url": "https://[::1"}, "expected https://HOST"),
        ({"public_url": "https://me:SECRET@c.test"}, "expected https://HOST"),
        ({"public_url": "https://c.test:99999"}, "expected https://HOST"),
        ({"retrieval_target": "http://me:SECRET@c.test:1"}, "EOFORGE_RETRIEVAL_TARGET: expected HOST:PORT"),
        ({"federation_target": ""}, "EOFORGE_FEDERATION_TARGET: expected HOST:PORT"),
        ({"token": "a\nb"}, "EOFORGE_TOKEN"),
    ],
)
def test_settings_that_expose_the_console_are_refused(values: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        ConsoleSettings(**values).require_consistent()
    assert "SECRET" not in str(refused.value)


def test_files_of_the_services_are_looked_at_at_the_start_and_not_named_to_visitors(pki: Pki, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    given = {"retrieval_target": "127.0.0.1:9", "service_ca_file": ca}
    with pytest.raises(UsageError, match=re.escape(str(ca))):
        console_of(**given)()
    ca.write_bytes(pki.path("ca.pem").read_bytes())
    with running(console_of(**given)) as run:  # type: ignore[arg-type]
        ca.unlink()
        answer = httpx.get(f"{run.rest}/search")
    assert answer.status_code == 503
    assert "cannot be reached at the moment" in answer.text
    assert str(tmp_path) not in answer.text


def test_the_readme_lists_all_settings() -> None:
    readme = (ROOT / "services" / "console" / "README.md").read_text()
    assert table("services.console.settings") in readme, "run python -m scripts.settings_table and paste the result"


def test_a_token_goes_without_tls_only_to_own_services_of_a_network_that_encrypts() -> None:
    caller = Caller("alice", "alice", "a token", "csrf")
    own = {"retrieval_target": "retrieval.example:8081", "owner_targets": "north=north.example:8081"}
    sources = Sources(ConsoleSettings(**own, service_tls="off"))
    sources.retrieval(caller)
    sources.owner("north", caller)  # over TLS: a token in the clear is refused at once
    assert sources._clients["OWNER north", "a token"]._tls is None
    sources.close()
