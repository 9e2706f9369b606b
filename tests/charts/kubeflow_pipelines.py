"""Kubeflow Pipelines' HTTP contract, as far as an upload needs it: pipelines in namespaces, versions, refusals.

As its API server has it (backend/src/apiserver/server): a single-user server ignores namespaces; a multi-user one keeps
pipelines apart by them, lists those of the namespace that is asked for and no others, and asks whether the caller may.
Names are unique in a namespace (409), versions in a pipeline (409), a version without ``pipelineid`` is refused (400).
An upload that the caller has no right to is refused with 400, a list with 403.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/apis/v2beta1"
PAGE = 10


@dataclass
class Pipeline:
    """A pipeline and its versions, name to uploaded file."""

    name: str
    namespace: str
    versions: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Pipelines:
    """What a server keeps.

    Attributes:
        multi_user: Whether namespaces count.
        allowed: Namespaces that the caller may use; shared pipelines are the namespace "".
        kept: Pipelines by identifier.
        down: Uploads fail with an internal error.
        rival: Name of a pipeline that somebody else uploads as soon as it was asked for.
    """

    multi_user: bool = False
    allowed: set[str] = field(default_factory=lambda: {""})
    kept: dict[str, Pipeline] = field(default_factory=dict)
    down: bool = False
    rival: str = ""

    def home(self, query: dict[str, str]) -> str:
        """The namespace that counts."""
        return query.get("namespace", "") if self.multi_user else ""

    def of(self, namespace: str) -> dict[str, Pipeline]:
        """Pipelines of one namespace by name."""
        return {p.name: p for p in self.kept.values() if p.namespace == namespace}


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Handler(BaseHTTPRequestHandler):
    """One request."""

    state: Pipelines

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self) -> None:
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.state.down and self.command == "POST":
                raise Refusal(500, "Internal error")
            known = self._get(url.path, query) if self.command == "GET" else self._post(url.path, query, body)
            self._answer(200, known)
        except Refusal as error:
            self._answer(error.code, {"error_message": str(error), "error_details": str(error)})

    def _get(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        if path == f"{API}/healthz":
            return {"multi_user": self.state.multi_user}
        if path == f"{API}/pipelines":
            home = self.state.home(query)
            self._authorize(home, 403)
            found = {i: p for i, p in self.state.kept.items() if p.namespace == home}
            names = [{"pipeline_id": i, "display_name": p.name} for i, p in found.items() if _wanted(query, p.name)]
            if _wanted(query, self.state.rival) and "filter" in query:
                self.state.kept["rival"] = Pipeline(self.state.rival, home)
            return _page("pipelines", names, query)
        if path.endswith("/versions"):
            pipeline = self._pipeline(path.split("/")[-2], 404)
            self._authorize(pipeline.namespace, 403)
            names = [{"display_name": name} for name in pipeline.versions if _wanted(query, name)]
            return _page("pipeline_versions", names, query)
        raise Refusal(404, f"{path} not found")

    def _post(self, path: str, query: dict[str, str], body: bytes) -> dict[str, Any]:
        content = _uploaded(self.headers["Content-Type"], body)
        if path == f"{API}/pipelines/upload":
            home = self.state.home(query)
            self._authorize(home, 400)
            if query["name"] in self.state.of(home):
                raise Refusal(409, "Failed to create a pipeline and a pipeline version")
            made = f"id-{len(self.state.kept)}"
            self.state.kept[made] = Pipeline(query["name"], home, {query["name"]: content})
            return {"pipeline_id": made, "display_name": query["name"]}
        if path == f"{API}/pipelines/upload_version":
            pipeline = self._pipeline(query.get("pipelineid", ""), 400)
            self._authorize(pipeline.namespace, 400)
            if query["name"] in pipeline.versions:
                raise Refusal(409, "Failed to create a pipeline version")
            pipeline.versions[query["name"]] = content
            return {"pipeline_id": query["pipelineid"], "display_name": query["name"], "pipeline_version_id": "v"}
        raise Refusal(404, f"{path} not found")

    def _pipeline(self, identifier: str, code: int) -> Pipeline:
        if identifier not in self.state.kept:
            raise Refusal(code, "Failed to create a pipeline version")
        return self.state.kept[identifier]

    def _authorize(self, namespace: str, code: int) -> None:
        if self.state.multi_user and namespace not in self.state.allowed:
            raise Refusal(
                code, f"permission to use pipelines.pipelines.kubeflow.org in namespace {namespace!r} is required"
            )

    do_GET = do_POST = _handle


def _wanted(query: dict[str, str], name: str) -> bool:
    predicates = json.loads(query["filter"])["predicates"] if "filter" in query else []
    for predicate in predicates:
        if predicate["key"] != "display_name" or predicate["operation"] not in ("EQUALS", 1):
            raise Refusal(400, f"unsupported predicate {predicate}")
    return all(predicate["stringValue"] == name for predicate in predicates)


def _page(key: str, found: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    """The first page; lists that are empty are left out, as protocol buffers do."""
    size = int(query.get("page_size") or PAGE)
    return {key: found[:size], "next_page_token": "more" if len(found) > size else ""} if found else {}


def _uploaded(kind: str, body: bytes) -> bytes:
    """The file of the form field ``uploadfile``."""
    message = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    parts = message.get_payload() if message.is_multipart() else []
    for part in parts:
        if not isinstance(part, str) and part.get_param("name", header="content-disposition") == "uploadfile":
            found = part.get_payload(decode=True)
            return found if isinstance(found, bytes) else b""
    raise Refusal(400, "Failed to read pipeline from file")


@contextmanager
def running(state: Pipelines) -> Iterator[str]:
    """A server on loopback; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
