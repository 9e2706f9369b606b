"""Doctor against good stores, and against servers with one fault each."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from eoforge.data.ingest.run import ingest
from eoforge.errors import StoreError, UsageError
from eoforge.storage.doctor import Check, probe_machine, probe_store, require_conditional_put
from eoforge.storage.objects import ObjectStore
from tests.data.ingest.ingest_support import archive_of

PROBES = ["credentials", "conditional put", "racing writers", "range reads", "delete"]


class FakeS3(BaseHTTPRequestHandler):
    """Subset of S3 with one fault."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    fault: str
    lock: threading.Lock

    def log_message(self, format: str, *args: object) -> None:
        """Writes no log."""

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.fault == "forbids":
            self._answer(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
            return
        with self.lock:
            taken = self._path() in self.objects
            # "races" checks, but answers writers that come at the same time as if each were the first
            ignored = self.fault == "ignores" or (self.fault == "races" and "race-" in self.path)
            if self.headers.get("If-None-Match") and taken and not ignored:
                self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            self.objects[self._path()] = data
        self._answer(200, ETag='"1"')

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            prefix = self._path().split("/", 2)[1] + "/" + query["prefix"][0]
            keys = [k[1:].split("/", 1)[1] for k in sorted(self.objects) if k[1:].startswith(prefix)]
            stamp = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            listed = "".join(f"<Contents><Key>{k}</Key><Size>1</Size>{stamp}</Contents>" for k in keys)
            self._answer(200, f"<ListBucketResult>{listed}</ListBucketResult>".encode(), Content_Type="application/xml")
            return
        data = self.objects.get(self._path())
        if data is None:
            self._answer(404)
            return
        stamp = {"ETag": '"1"', "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        asked = self.headers.get("Range")
        if asked and self.fault != "no-ranges":
            start, end = (int(n) for n in asked.removeprefix("bytes=").split("-"))
            span = f"bytes {start}-{end}/{len(data)}"
            self._answer(206, data[start : end + 1], Content_Range=span, **stamp)
        else:
            self._answer(200, data, **stamp)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Deletes the named keys."""
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        keys = re.findall("<Key>(.*?)</Key>", asked)
        if self.fault != "keeps":
            for key in keys:
                self.objects.pop(f"{self._path()}/{key}", None)
        done = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{done}</DeleteResult>".encode(), Content_Type="application/xml")


@pytest.fixture
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    state = {"objects": {}, "fault": request.param, "lock": threading.Lock()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (FakeS3,), state))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    yield "s3://bucket/lake"
    server.shutdown()
    server.server_close()


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.ok]


def test_a_good_store_passes_and_is_left_as_it_was(store_uri: str) -> None:
    ObjectStore(store_uri).put("mine", b"data")
    checks = probe_store(store_uri)
    assert failed(checks) == []
    assert [c.name for c in checks][-5:] == PROBES
    assert list(ObjectStore(store_uri).list()) == ["mine"]
    require_conditional_put(store_uri)
    assert list(ObjectStore(store_uri).list()) == ["mine"]


@pytest.mark.parametrize(
    ("fake", "expected"),
    [
        ("nothing", []),
        ("ignores", ["conditional put", "racing writers"]),
        ("races", ["racing writers"]),
        ("no-ranges", ["range reads"]),
        ("keeps", ["delete"]),
        ("forbids", ["credentials"]),
    ],
    indirect=["fake"],
)
def test_each_fault_of_a_store_is_found_and_named(fake: str, expected: list[str]) -> None:
    checks = probe_store(fake)
    assert failed(checks) == expected
    assert all(c.advice for c in checks if not c.ok)


@pytest.mark.parametrize("fake", ["ignores"], indirect=True)
def test_ingestion_refuses_a_store_that_ignores_conditions(fake: str, tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a", 1)
    with pytest.raises(StoreError, match="If-None-Match is ignored"):
        ingest(archive, f"{fake}/patches.lance")
    assert not [key for key in ObjectStore(fake).list() if "patches.lance/" in key], "no table was made"


def test_an_endpoint_where_nobody_listens_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (check,) = probe_store("s3://bucket/x")
    assert (check.name, check.ok) == ("endpoint", False)
    assert "AWS_ENDPOINT_URL" in check.advice


def test_a_server_that_never_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server accepts connections, so only a short time-out detects the fault; the default one takes minutes."""
    monkeypatch.setattr("eoforge.storage.objects._PROBE_TIMEOUT", "0.3s")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        checks = probe_store("s3://bucket/x")
        assert failed(checks) == ["credentials"]
        with pytest.raises(StoreError, match="eoforge doctor"):
            require_conditional_put("s3://bucket/x")


def test_probing_a_folder_to_be_leaves_none(tmp_path: Path) -> None:
    assert failed(probe_store(str(tmp_path / "a" / "b"))) == []
    (tmp_path / "file").write_bytes(b"")
    checks = probe_store(str(tmp_path / "file" / "T"))
    assert failed(checks) == ["credentials"]
    assert "AWS" not in str(checks[-1])
    assert ".." not in str(checks[-1])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_wrong_secret_is_a_matter_of_credentials(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    checks = probe_store(s3)
    assert failed(checks) == ["credentials"]
    assert "AWS_SECRET_ACCESS_KEY" in checks[-1].advice


def test_no_uri_of_a_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        probe_store("gs://bucket/x")


def test_the_machine() -> None:
    checks = {check.name: check for check in probe_machine()}
    assert {"python", "torch", "cuda", "triton", "disk"} <= set(checks)
    assert checks["python"].ok


def test_little_disk_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eoforge.storage.doctor.MIN_FREE_BYTES", 1 << 60)
    (disk,) = (check for check in probe_machine() if check.name == "disk")
    assert not disk.ok
    assert "EOFORGE_SCRATCH" in disk.advice
