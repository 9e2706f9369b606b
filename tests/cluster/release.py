"""Namespaces under restricted Pod Security and a quota, and a release's life in them."""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helm_python import Config, package

from tests.charts import support
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl, Object

RELEASE = "eo"
TIMEOUT_S = 90
GONE_S = 30
QUOTA = {"requests.cpu": "200", "requests.memory": "500Gi", "limits.memory": "500Gi", "pods": "100"}
"""What a namespace may use. A quota on a resource refuses every container that says nothing about it."""
READY_MADE = {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default", "ResourceQuota/quota"}
PASSING = {"Event", "EndpointSlice", "Endpoints", "Lease", "ControllerRevision", "PodMetrics"}
"""Kinds that come and go by themselves."""
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Home:
    """Where one release lives.

    Attributes:
        cluster: The cluster.
        name: Namespace of the release.
        kubeflow: Namespace where Kubeflow's runs execute.
    """

    cluster: ControlPlane
    name: str
    kubeflow: str

    @property
    def kubectl(self) -> Kubectl:
        """The administrator, in the release's namespace."""
        return Kubectl(self.cluster.kubeconfig, (f"--namespace={self.name}",))

    @contextmanager
    def helm(self) -> Iterator[Config]:
        """Helm, whose releases are kept in the namespace as Helm keeps them."""
        with Config(kubeconfig_path=os.fspath(self.cluster.kubeconfig), namespace=self.name) as config:
            yield config

    def left(self) -> set[str]:
        """``Kind/name`` of what is there and was not there at first."""
        return {label for space in (self.name, self.kubeflow) for label in self._objects(space)} - READY_MADE

    def _objects(self, namespace: str) -> set[str]:
        kinds = self.kubectl.run("api-resources", "--verbs=list", "--namespaced", "--output=name").split()
        kinds = [k for k in kinds if not k.startswith(("events", "leases", "endpoint", "controllerrevisions"))]
        found = self.cluster.kubectl.items(",".join(kinds), f"--namespace={namespace}")
        return {support.label(o) for o in found if o["kind"] not in PASSING}

    def wait_empty(self, expected: set[str]) -> None:
        """Waits until nothing is there but what is expected: garbage collection needs a moment.

        Raises:
            AssertionError: Something stays.
        """
        deadline = time.monotonic() + GONE_S
        while left := self.left() - expected:
            assert time.monotonic() < deadline, f"left behind: {sorted(left)}"
            time.sleep(0.5)


@contextmanager
def home(cluster: ControlPlane, quota: dict[str, str] | None = None, name: str = "") -> Iterator[Home]:
    """Two namespaces, for as long as the block lasts; the first may have a name of its own."""
    number = next(_NUMBERS)
    found = Home(cluster, name or f"eo-{os.getpid()}-{number}", f"runs-{os.getpid()}-{number}")
    secure = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    for name in (found.name, found.kubeflow):
        cluster.kubectl.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": secure}},
            {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": {"name": "quota", "namespace": name},
                "spec": {"hard": quota or QUOTA},
            },
        )
    # A pod is refused as long as its namespace has no service account.
    for name in (found.name, found.kubeflow):
        cluster.kubectl.run("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=30s")
    try:
        yield found
    finally:
        cluster.kubectl.run("delete", "namespace", found.name, found.kubeflow, "--wait=false")


def two_releases(folder: Path, chart: str) -> dict[str, Path]:
    """A chart as archives of two releases; all charts of the second have a new version."""
    made = {"0.1.0": Path(package(os.fspath(support.CHARTS / chart), destination=os.fspath(folder)))}
    shutil.copytree(support.CHARTS, folder / "next", symlinks=True, dirs_exist_ok=True)
    if (folder / "next" / "eoforge" / "pipelines").is_symlink():
        (folder / "next" / "eoforge" / "pipelines").unlink()
        shutil.copytree(support.ROOT / "pipelines" / "compiled", folder / "next" / "eoforge" / "pipelines")
    for path in (folder / "next").glob("*/Chart.yaml"):
        path.write_text(path.read_text().replace("ersion: 0.1.0", "ersion: 0.2.0"))
    made["0.2.0"] = Path(package(os.fspath(folder / "next" / chart), destination=os.fspath(folder)))
    return made


def with_kubeflow_in(values: Object, namespace: str) -> Object:
    """The values with the namespace of Kubeflow's runs, where they name one."""
    found = copy.deepcopy(values)
    if found.get("kubeflow", {}).get("namespace"):
        found["kubeflow"]["namespace"] = namespace
    return found


def rendered(chart: Path, values: Object, place: Home) -> list[Object]:
    """All objects of a chart, hooks included, as the API server gets them."""
    found = support.objects(support.render(chart, values, namespace=place.name, release=RELEASE))
    plain: list[Object] = json.loads(json.dumps(found, default=str))
    return plain


def apart_from_hooks(objects: list[Object]) -> set[str]:
    """``Kind/name`` of what stays installed."""
    return {support.label(o) for o in objects if "helm.sh/hook" not in o["metadata"].get("annotations", {})}


def wait_ready(place: Home, timeout_s: float = TIMEOUT_S) -> None:
    """Waits until every workload and every InferenceService of a release is ready."""
    deadline = time.monotonic() + timeout_s
    while waiting := list(_not_ready(place)):
        assert time.monotonic() < deadline, f"not ready: {waiting}; {events(place)}"
        time.sleep(0.5)


def _not_ready(place: Home) -> Iterator[str]:
    for o in place.kubectl.items("deployments,statefulsets,inferenceservices.serving.kserve.io"):
        status = o.get("status", {})
        if o["kind"] == "InferenceService":
            ready = is_ready(o)
        else:
            # Beside a new pod that is not ready yet, one of the former version may be.
            counts = [status.get(key, 0) for key in ("replicas", "readyReplicas", "updatedReplicas")]
            ready = status.get("observedGeneration") == o["metadata"]["generation"]
            ready = ready and counts == [o["spec"]["replicas"]] * len(counts)
        if not ready:
            yield support.label(o)


def wait_until(answers: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Waits until something is so.

    Raises:
        AssertionError: It did not become so.
    """
    deadline = time.monotonic() + timeout_s
    while not answers():
        assert time.monotonic() < deadline, f"not seen within {timeout_s:.0f} s: {what}"
        time.sleep(0.5)


def as_text(o: Object) -> str:
    """An object as a manifest."""
    return json.dumps(o)


def is_ready(o: Object) -> bool:
    """Whether the condition Ready is true."""
    conditions: list[dict[str, Any]] = o.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def events(place: Home) -> list[str]:
    """Warnings of a namespace, for messages."""
    return [o["message"] for o in place.kubectl.items("events", "--field-selector=type=Warning")][-5:]
