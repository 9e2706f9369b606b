"""Uploading pipelines through kfp's own client, against a server that keeps what it is given."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from eoforge.errors import NotFound
from pipelines.upload import main, object_name, upload
from tests.charts.support import ROOT

API = "/apis/v2beta1"
COMPILED = ROOT / "pipelines" / "compiled"


class Pipelines(BaseHTTPRequestHandler):
    """The five calls of the pipeline API that an upload makes."""

    kept: dict[str, dict[str, bytes]]

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def _answer(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """Health, pipelines by name, versions of one."""
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == f"{API}/pipelines":
            wanted = json.loads(query["filter"][0])["predicates"][0]["stringValue"]
            found = [{"pipeline_id": name, "display_name": name} for name in self.kept if name == wanted]
            self._answer({"pipelines": found} if found else {})
        elif url.path.endswith("/versions"):
            name = url.path.split("/")[-2]
            self._answer({"pipeline_versions": [{"display_name": v} for v in self.kept[name]]})
        else:
            self._answer({"multi_user": False})

    def do_POST(self) -> None:
        """A pipeline, or a version of one."""
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if url.path == f"{API}/pipelines/upload":
            self.kept[query["name"]] = {query["name"]: content}
            self._answer({"pipeline_id": query["name"], "display_name": query["name"]})
        else:
            self.kept[query["pipelineid"]][query["name"]] = content
            self._answer(
                {"pipeline_id": query["pipelineid"], "display_name": query["name"], "pipeline_version_id": "v"}
            )


@pytest.fixture
def kubeflow() -> Iterator[tuple[str, dict[str, dict[str, bytes]]]]:
    """Address of a server, and what it keeps: pipeline, version, uploaded bytes."""
    kept: dict[str, dict[str, bytes]] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Pipelines,), {"kept": kept}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", kept
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.filterwarnings("ignore:This client only works:FutureWarning")
def test_uploading_twice_does_no_harm_and_a_new_release_adds_versions(
    kubeflow: tuple[str, dict[str, dict[str, bytes]]], capsys: pytest.CaptureFixture[str]
) -> None:
    host, kept = kubeflow
    names = {object_name(path) for path in COMPILED.glob("*.yaml")}
    for _ in range(2):
        assert main(["--host", host, "--version", "0.1.0", str(COMPILED)]) == 0
        assert set(kept) == names
        assert all(set(versions) == {name, f"{name}-0.1.0"} for name, versions in kept.items())
    assert capsys.readouterr().out.count("is there") == len(names)
    assert main(["--host", host, "--version", "0.2.0", str(COMPILED)]) == 0
    assert all(f"{name}-0.2.0" in versions for name, versions in kept.items())
    ingest = (COMPILED / "ingest.yaml").read_bytes()
    assert ingest in kept["eoforge-ingest"]["eoforge-ingest-0.2.0"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="compiled pipelines"):
        upload(None, sorted(tmp_path.glob("*.yaml")), "0.1.0", None)
