"""A small Kubernetes API server for TrainJobs, pods and logs: strict about fields, with watch, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/lab/trainjobs"
RUNTIME = "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/torch-distributed"
PODS = "/api/v1/namespaces/lab/pods"


@dataclass
class Cluster:
    """State of the server; tests change it as a controller would.

    Attributes:
        jobs: TrainJobs by name.
        log: Text that every pod logs.
        created: Names in order of creation.
        deleted: Names in order of deletion.
        failures: HTTP statuses to answer with before doing anything, in order; None is a request that is answered.
        runtime: The training runtime, or None if there is none.
        url: Address.
    """

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: str = ""
    created: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    failures: list[int | None] = field(default_factory=list)
    runtime: dict[str, Any] | None = field(default_factory=dict)
    url: str = ""
    on_create: Any = None
    watches: int = 0
    watched: threading.Event = field(default_factory=threading.Event)
    _version: int = 10
    _events: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def put(self, name: str, job: dict[str, Any], kind: str) -> None:
        """Stores a job and tells the watchers."""
        with self._changed:
            self._version += 1
            job["metadata"]["resourceVersion"] = str(self._version)
            if kind == "DELETED":
                self.jobs.pop(name, None)
            else:
                self.jobs[name] = job
            self._events.append((self._version, {"type": kind, "object": json.loads(json.dumps(job))}))
            self._changed.notify_all()

    def finish(self, name: str, kind: str = "Complete", message: str = "done") -> None:
        """Sets the condition that ends a job."""
        job = json.loads(json.dumps(self.jobs[name]))
        job["status"] = {"conditions": [{"type": kind, "status": "True", "reason": f"Jobs{kind}", "message": message}]}
        self.put(name, job, "MODIFIED")

    def events_after(self, version: int, seconds: float) -> Iterator[dict[str, Any]]:
        """Watch events, ending after ``seconds`` without one."""
        while True:
            with self._changed:
                new = [(v, e) for v, e in self._events if v > version]
                if not new and not self._changed.wait(seconds):
                    return
            for number, event in new:
                version = number
                yield event


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # a watch is chunked, or the client would wait for a full buffer
    cluster: Cluster

    def log_message(self, *_: object) -> None:
        """Keeps the test's output quiet."""

    def _send(self, status: int, body: Any, plain: bool = False) -> None:
        self.send_response(status)
        data = body.encode() if plain else json.dumps(body).encode()
        self.send_header("Content-Type", "text/plain" if plain else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _failed(self) -> bool:
        if not self.cluster.failures:
            return False
        status = self.cluster.failures.pop(0)
        if status is None:
            return False
        self._send(status, {"kind": "Status", "code": status, "message": "told to fail"})
        return True

    def do_POST(self) -> None:
        """Creates a job; unknown fields are refused as a real server's schema would."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._failed():
            return
        name = body["metadata"]["name"]
        if self.path != JOBS or TrainerV1alpha1TrainJob.from_dict(body).to_dict() != body:
            self._send(422, {"kind": "Status", "code": 422, "message": f"unknown field or path {self.path}"})
        elif name in self.cluster.jobs:
            self._send(409, {"kind": "Status", "code": 409, "message": "already exists"})
        else:
            self.cluster.created.append(name)
            self.cluster.put(name, body, "ADDED")
            self._send(201, body)
            if self.cluster.on_create:
                threading.Thread(target=self.cluster.on_create, args=(self.cluster, name)).start()

    def do_DELETE(self) -> None:
        """Deletes a job."""
        if self._failed():
            return
        name = self.path.rsplit("/", 1)[-1]
        if name not in self.cluster.jobs:
            self._send(404, {"kind": "Status", "code": 404})
            return
        self.cluster.deleted.append(name)
        self.cluster.put(name, self.cluster.jobs[name], "DELETED")
        self._send(200, {"kind": "Status", "status": "Success"})

    def do_GET(self) -> None:
        """Gets or watches jobs, lists pods, reads logs."""
        if self._failed():
            return
        url = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path == JOBS and query.get("watch") == "True":
            self._watch(query)
        elif url.path.startswith(JOBS + "/"):
            job = self.cluster.jobs.get(url.path.rsplit("/", 1)[-1])
            self._send(200 if job else 404, job or {"kind": "Status", "code": 404})
        elif url.path == RUNTIME and self.cluster.runtime is not None:
            self._send(200, self.cluster.runtime)
        elif url.path == PODS:
            name = query["labelSelector"].partition("jobset.sigs.k8s.io/jobset-name=")[2]
            pods = [{"metadata": {"name": f"{name}-node-0-0-abcde"}}] if name in self.cluster.jobs else []
            self._send(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods})
        elif url.path.endswith("/log"):
            lines = self.cluster.log.splitlines()[-int(query["tailLines"]) :]
            self._send(200, "\n".join(lines), plain=True)
        else:
            self._send(404, {"kind": "Status", "code": 404, "message": self.path})

    def _watch(self, query: dict[str, str]) -> None:
        name = query["fieldSelector"].removeprefix("metadata.name=")
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.cluster.watches += 1
        self.cluster.watched.set()
        for event in self.cluster.events_after(int(query["resourceVersion"]), float(query["timeoutSeconds"])):
            if event["object"]["metadata"]["name"] == name:
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")


@contextmanager
def fake_kubernetes() -> Iterator[Cluster]:
    """Runs the server on a free loopback port."""
    cluster = Cluster()
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    cluster.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
