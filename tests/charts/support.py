"""Renders charts by the Helm engine and finds things in what comes out."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

ROOT = Path(__file__).resolve().parents[2]
CHARTS = ROOT / "charts"
UMBRELLA = CHARTS / "eoforge"
SERVICES = ("retrieval", "compression", "prediction", "federation")
WEB = ("console",)
"""Services for browsers: without gRPC, KServe and the tests of these."""
RELEASE, NAMESPACE = "eo", "eo-system"
SCENARIOS = sorted(path.name.removesuffix("-values.yaml") for path in (UMBRELLA / "ci").glob("*-values.yaml"))
POD_TEMPLATES = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "Pod": (),
}
Object = dict[str, Any]


def values_of(scenario: str) -> Object:
    """The values of one file in ``charts/eoforge/ci``."""
    found: Object = yaml.safe_load((UMBRELLA / "ci" / f"{scenario}-values.yaml").read_text())
    return found


def api_of(service: str) -> Any:
    """Generated types of a service's API; prediction has the Open Inference Protocol alone."""
    own = f"eoforge.api.{service}.v1.{service}_pb2"
    return importlib.import_module("kserve.protocol.grpc.grpc_predict_v2_pb2" if service == "prediction" else own)


def enabled(scenario: str, service: str) -> bool:
    """Whether a scenario installs a service, by its values or by the default of the umbrella."""
    default = yaml.safe_load((UMBRELLA / "values.yaml").read_text())[service]["enabled"]
    return bool(values_of(scenario).get(service, {}).get("enabled", default))


def render(chart: Path, values: Object, namespace: str = NAMESPACE, release: str = RELEASE) -> dict[str, str]:
    """Templates to text; the chart is loaded anew, as rendering takes disabled dependencies out of a loaded one."""
    with Chart.load(os.fspath(chart)) as loaded:
        return loaded.render(values, name=release, namespace=namespace)


def objects(files: dict[str, str]) -> list[Object]:
    """All objects, in the order of their files."""
    texts = [text for name, text in sorted(files.items()) if name.endswith(".yaml")]
    return [found for text in texts for found in yaml.load_all(text, Loader=StrictLoader) if found]


class StrictLoader(yaml.CSafeLoader):
    """YAML as API servers read it: a key given twice is an error, where PyYAML keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Builds a mapping.

        Raises:
            ValueError: A key is there twice.
        """
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"keys given twice: {sorted(twice)} at {node.start_mark}")
        return super().construct_mapping(node, deep)


@cache
def scenario_files(name: str) -> dict[str, str]:
    """One scenario of the umbrella, rendered once per process."""
    return render(UMBRELLA, values_of(name))


@cache
def scenario(name: str) -> list[Object]:
    """Its objects, parsed once per process: a test that changes one copies it first."""
    return objects(scenario_files(name))


def label(found: Object) -> str:
    """``Kind/name`` for messages."""
    return f"{found['kind']}/{found['metadata']['name']}"


def pick(found: Iterable[Object], kind: str, name: str | None = None) -> Object:
    """The one object of ``kind`` (and ``name``).

    Raises:
        ValueError: There is none, or more than one.
    """
    (one,) = (o for o in found if o["kind"] == kind and (name is None or o["metadata"]["name"] == name))
    return one


@dataclass(frozen=True)
class Pod:
    """A pod that a rendered object leads to.

    Attributes:
        owner: ``Kind/name`` of the object.
        labels: Of the pod.
        spec: Of the pod.
        hook: Whether Helm runs it as a hook.
    """

    owner: str
    labels: dict[str, str]
    spec: Object
    hook: bool

    @property
    def containers(self) -> list[Object]:
        """Init containers too."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(found: list[Object]) -> Iterator[Pod]:
    """Every pod that these objects lead to, those of KServe and Kubeflow Trainer included."""
    for o in found:
        hook = "helm.sh/hook" in o["metadata"].get("annotations", {})
        if o["kind"] in POD_TEMPLATES:
            pod = o
            for key in POD_TEMPLATES[o["kind"]]:
                pod = pod[key]
            yield Pod(label(o), pod["metadata"].get("labels", {}), pod["spec"], hook)
        elif o["kind"] == "InferenceService":
            yield predictor_pod(o)
        elif o["kind"] == "TrainingRuntime":
            for job in o["spec"]["template"]["spec"]["replicatedJobs"]:
                pod = job["template"]["spec"]["template"]
                yield Pod(label(o), pod["metadata"]["labels"], pod["spec"], hook)


def predictor_pod(service: Object) -> Pod:
    """The pod that KServe makes of a predictor with its own containers: its pod fields as they are."""
    predictor = service["spec"]["predictor"]
    not_pod = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "deploymentStrategy"}
    not_pod |= {"labels", "annotations"}
    spec = {key: value for key, value in predictor.items() if key not in not_pod}
    return Pod(label(service), predictor["labels"], spec, False)


def server_pod(found: list[Object], service: str) -> Pod:
    """The pod that serves ``service``."""
    (pod,) = (
        p
        for p in pods(found)
        if p.labels.get("app.kubernetes.io/name") == service and p.labels["app.kubernetes.io/component"] == "server"
    )
    return pod


def env_of(container: Object) -> dict[str, str | None]:
    """Environment variables; None for values from secrets.

    Raises:
        ValueError: A variable is set twice: which one counts would hang on the order.
    """
    names = [variable["name"] for variable in container.get("env", [])]
    if len(set(names)) != len(names):
        raise ValueError(f"set twice: {sorted({n for n in names if names.count(n) > 1})}")
    return {variable["name"]: variable.get("value") for variable in container.get("env", [])}
