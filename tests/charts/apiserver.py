"""A stand-in for a Kubernetes API server: what Helm needs of one, with the strict field validation of a real one.

Objects live in memory. Creation and server-side apply refuse unknown and mistyped fields, changed immutable fields and
unknown kinds; Jobs complete at once, unless their name is in ``failing``, so that hooks can be waited for.
"""

from __future__ import annotations

import copy
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.charts import schemas

VERSION = "1.36"
WATCH_S = 0.5
# Group and version, then kind, plural, namespaced.
RESOURCES: dict[str, list[tuple[str, str, bool]]] = {
    "v1": [
        ("Namespace", "namespaces", False), ("Pod", "pods", True), ("Service", "services", True),
        ("ConfigMap", "configmaps", True), ("Secret", "secrets", True), ("ServiceAccount", "serviceaccounts", True),
    ],
    "apps/v1": [("Deployment", "deployments", True), ("StatefulSet", "statefulsets", True)],
    "batch/v1": [("Job", "jobs", True)],
    "autoscaling/v2": [("HorizontalPodAutoscaler", "horizontalpodautoscalers", True)],
    "policy/v1": [("PodDisruptionBudget", "poddisruptionbudgets", True)],
    "networking.k8s.io/v1": [("NetworkPolicy", "networkpolicies", True)],
    "rbac.authorization.k8s.io/v1": [("Role", "roles", True), ("RoleBinding", "rolebindings", True)],
    "serving.kserve.io/v1beta1": [("InferenceService", "inferenceservices", True)],
    "trainer.kubeflow.org/v1alpha1": [("TrainingRuntime", "trainingruntimes", True)],
    "pipelines.kubeflow.org/v2beta1": [("Pipeline", "pipelines", True), ("PipelineVersion", "pipelineversions", True)],
    "gateway.networking.k8s.io/v1": [
        ("GRPCRoute", "grpcroutes", True), ("HTTPRoute", "httproutes", True), ("TLSRoute", "tlsroutes", True),
    ],
    "monitoring.coreos.com/v1": [
        ("ServiceMonitor", "servicemonitors", True), ("PrometheusRule", "prometheusrules", True),
    ],
    "keda.sh/v1alpha1": [("ScaledObject", "scaledobjects", True)],
    "cert-manager.io/v1": [("Certificate", "certificates", True)],
}  # fmt: skip
# What a real server refuses to change.
IMMUTABLE = {
    "Deployment": [("selector",)],
    "StatefulSet": [("selector",), ("serviceName",), ("volumeClaimTemplates",), ("podManagementPolicy",)],
    "Job": [("template",), ("selector",), ("completions",)],
    "Service": [("clusterIP",)],
    "PipelineVersion": [()],  # the whole of it, by Kubeflow's webhook
}
Key = tuple[str, str, str, str]


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class Cluster:
    """The objects, by (group version, plural, namespace, name)."""

    def __init__(self) -> None:
        self.objects: dict[Key, dict[str, Any]] = {}
        self.created: list[str] = []
        self.failing: set[str] = set()
        self.version = 0
        self._lock = threading.Lock()

    def labels(self) -> set[str]:
        """``Kind/name`` of everything that is there."""
        return {f"{o['kind']}/{o['metadata']['name']}" for o in self.objects.values()}

    def get(self, key: Key) -> dict[str, Any]:
        """One object."""
        if key not in self.objects:
            raise Refusal(404, "NotFound", f"{key[1]} {key[3]!r} not found")
        return self.objects[key]

    def create(self, key: Key, body: dict[str, Any]) -> dict[str, Any]:
        """Stores a new object."""
        with self._lock:
            if key in self.objects:
                raise Refusal(409, "AlreadyExists", f"{key[1]} {key[3]!r} already exists")
            return self._store(key, body)

    def apply(self, key: Key, body: dict[str, Any]) -> dict[str, Any]:
        """Server-side apply by the one manager there is: the object becomes what it says."""
        with self._lock:
            if old := self.objects.get(key):
                for path in IMMUTABLE.get(body["kind"], []):
                    if _at(old, path) != _at(body, path):
                        raise Refusal(422, "Invalid", f"{key[1]} {key[3]!r}: spec.{'.'.join(path)}: field is immutable")
            return self._store(key, body)

    def delete(self, key: Key) -> dict[str, Any]:
        """Removes an object."""
        with self._lock:
            found = self.get(key)
            del self.objects[key]
            return found

    def _store(self, key: Key, body: dict[str, Any]) -> dict[str, Any]:
        plain = copy.deepcopy(body)
        plain.pop("status", None)
        plain["metadata"] = {
            k: v for k, v in body["metadata"].items() if k in ("name", "namespace", "labels", "annotations")
        }
        if problems := schemas.problems(plain, VERSION):
            raise Refusal(422, "Invalid", f"{body['kind']} {key[3]!r} is invalid: {'; '.join(problems)}")
        self.version += 1
        stored = copy.deepcopy(body)
        known = self.objects.get(key, {"metadata": {}})["metadata"]
        stored["metadata"] |= {"uid": known.get("uid", str(uuid.uuid4())), "resourceVersion": str(self.version)}
        if key[2]:
            stored["metadata"]["namespace"] = key[2]
        if stored["kind"] == "Job":
            failed = key[3] in self.failing
            kind, reason = ("Failed", "BackoffLimitExceeded") if failed else ("Complete", "Done")
            stored["status"] = {"conditions": [{"type": kind, "status": "True", "reason": reason}]}
            stored["status"] |= {"failed": 1} if failed else {"succeeded": 1}
        if stored["kind"] == "Pod":
            stored["status"] = {"phase": "Failed" if key[3] in self.failing else "Succeeded"}
        if key not in self.objects:
            self.created.append(f"{stored['kind']}/{key[3]}")
        self.objects[key] = stored
        return stored


def _at(o: dict[str, Any], path: tuple[str, ...]) -> Any:
    node = o.get("spec", {})
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _table() -> dict[tuple[str, str], tuple[str, bool]]:
    return {(gv, plural): (kind, spaced) for gv, found in RESOURCES.items() for kind, plural, spaced in found}


def field_validation(gv: str) -> dict[str, Any]:
    """The schema document of one group version, cut down to what clients look for before they ask for strictness."""
    group, _, version = gv.rpartition("/")
    parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    paths = {}
    for kind, plural, _ in RESOURCES.get(gv, []):
        found = {"group": group, "version": version, "kind": kind}
        paths[f"/{plural}/{{name}}"] = {
            "patch": {"parameters": [parameter], "responses": {}, "x-kubernetes-group-version-kind": found}
        }
    return {"openapi": "3.0.0", "info": {"title": "stand-in", "version": VERSION}, "paths": paths}


def discovery(path: str) -> dict[str, Any] | None:
    """Answers of the discovery API."""
    if path == "/version":
        return {"major": "1", "minor": "36", "gitVersion": f"v{VERSION}.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups: dict[str, list[str]] = {}
        for gv in RESOURCES:
            if "/" in gv:
                groups.setdefault(gv.partition("/")[0], []).append(gv)
        return {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {
                    "name": name,
                    "versions": [{"groupVersion": gv, "version": gv.partition("/")[2]} for gv in found],
                    "preferredVersion": {"groupVersion": found[0], "version": found[0].partition("/")[2]},
                }
                for name, found in groups.items()
            ],
        }
    if path == "/openapi/v3":
        homes = [f"apis/{gv}" if "/" in gv else f"api/{gv}" for gv in RESOURCES]
        return {"paths": {home: {"serverRelativeURL": f"/openapi/v3/{home}"} for home in homes}}
    if path.startswith("/openapi/v3/"):
        return field_validation(path.removeprefix("/openapi/v3/").partition("/")[2])
    gv = path.removeprefix("/apis/").removeprefix("/api/")
    if gv in RESOURCES and path.count("/") == (2 if gv == "v1" else 3):
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        found_resources = [
            {"name": plural, "singularName": kind.lower(), "namespaced": spaced, "kind": kind, "verbs": verbs}
            for kind, plural, spaced in RESOURCES[gv]
        ]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": found_resources}
    return None


def route(path: str) -> tuple[str, str, str, str]:
    """Group version, plural, namespace and name of a resource path; the name is empty for collections."""
    parts = path.strip("/").split("/")
    if parts[0] not in ("api", "apis") or len(parts) < 3:
        raise Refusal(404, "NotFound", f"the server could not find the requested resource {path}")
    gv, rest = (parts[1], parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    if (gv, rest[0]) not in _table():
        raise Refusal(404, "NotFound", f"the server could not find the requested resource {path}")
    return gv, rest[0], namespace, rest[1] if len(rest) > 1 else ""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    cluster: Cluster

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
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        try:
            known = discovery(url.path.rstrip("/")) if self.command == "GET" else None
            if known is None:
                known = self._resource(url.path, query, yaml.safe_load(raw) if raw else None)
            if known is not None:
                self._answer(201 if self.command == "POST" else 200, known)
        except Refusal as error:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": error.code}
            self._answer(error.code, {**status, "reason": error.reason, "message": str(error)})

    def _resource(self, path: str, query: dict[str, str], body: Any) -> dict[str, Any] | None:
        gv, plural, namespace, name = route(path)
        if self.command == "GET" and not name:
            return self._list(gv, plural, namespace, query)
        if self.command == "POST":
            return self.cluster.create((gv, plural, namespace, body["metadata"]["name"]), body)
        key = (gv, plural, namespace, name)
        if self.command == "GET":
            return self.cluster.get(key)
        if self.command == "DELETE":
            return self.cluster.delete(key)
        if self.command == "PATCH" and "apply" in self.headers["Content-Type"]:
            return self.cluster.apply(key, body)
        raise Refusal(405, "MethodNotAllowed", f"{self.command} with {self.headers['Content-Type']}")

    def _list(self, gv: str, plural: str, namespace: str, query: dict[str, str]) -> dict[str, Any] | None:
        if "sendInitialEvents" in query:
            raise Refusal(422, "Invalid", "sendInitialEvents is forbidden: this server has no watch lists")
        if query.get("watch") in ("1", "true"):
            # Everything is decided when it is stored, so a watch that shows nothing and ends is watch enough.
            time.sleep(WATCH_S)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        wanted = [
            o
            for (g, p, n, name), o in self.cluster.objects.items()
            if (g, p) == (gv, plural)
            and namespace in ("", n)
            and query.get("fieldSelector", f"metadata.name={name}") == f"metadata.name={name}"
        ]
        kind, version = _table()[gv, plural][0], str(self.cluster.version)
        return {"kind": f"{kind}List", "apiVersion": gv, "metadata": {"resourceVersion": version}, "items": wanted}

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _handle


@contextmanager
def running() -> Iterator[tuple[Cluster, str]]:
    """A server on loopback; gives its cluster and its address."""
    cluster = Cluster()
    handler = type("BoundHandler", (Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield cluster, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
