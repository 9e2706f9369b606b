"""Definitions that the charts render; controllers and webhooks of KServe, JobSet and Kubeflow Trainer.

The controllers run beside the API server, not in it: their webhooks are registered by address, with a certificate of
the cluster's own authority.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from eoforge.storage.seaweed import free_ports
from tests.charts.contracts import CONTRACTS
from tests.cluster import binaries
from tests.cluster.control_plane import ControlPlane, Process, wait
from tests.cluster.kubectl import Object

KSERVE = "kserve"
"""Namespace where KServe looks for its settings."""
AGENT = "localhost/kserve/agent:test"
"""Image of the container that KServe puts into pods of models."""


def install_definitions(cluster: ControlPlane) -> list[str]:
    """Definitions of every custom resource that the charts render; returns their names."""
    found = list(definitions())
    # KServe's are too long for the annotation of a client-side apply, and need it server-side.
    cluster.kubectl.apply(*found)
    cluster.kubectl.run(
        "wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{d['metadata']['name']}" for d in found)
    )
    return [d["metadata"]["name"] for d in found]


def definitions() -> Iterator[Object]:
    """All of them: from the modules, and those of Kubeflow Pipelines, which is no Go module, from our contracts."""
    for component in binaries.COMPONENTS:
        for path in sorted((component.folder / "crds").glob("*.yaml")):
            for found in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader):
                if found:
                    found["metadata"].get("annotations", {}).pop("cert-manager.io/inject-ca-from", None)
                    found["spec"].pop("conversion", None)  # one version is served, so nothing is converted
                    yield found
    for kind in ("Pipeline", "PipelineVersion"):
        spec = _open_fields(CONTRACTS[kind]["properties"]["spec"])
        schema = {"type": "object", "properties": {"spec": spec}}
        version = {"name": "v2beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        names = {"kind": kind, "plural": f"{kind.lower()}s", "singular": kind.lower(), "listKind": f"{kind}List"}
        yield {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{kind.lower()}s.pipelines.kubeflow.org"},
            "spec": {
                "group": "pipelines.kubeflow.org", "scope": "Namespaced", "names": names, "versions": [version],
            },
        }  # fmt: skip


def _open_fields(schema: Any) -> Any:
    """A contract as an API server takes it: no ``additionalProperties``, and free objects say that they are."""
    kept = {key: value for key, value in schema.items() if key != "additionalProperties"}
    if "properties" in kept:
        kept["properties"] = {name: _open_fields(value) for name, value in kept["properties"].items()}
    elif kept.get("type") == "object":
        kept["x-kubernetes-preserve-unknown-fields"] = True
    return kept


def start_kserve(cluster: ControlPlane) -> None:
    """KServe's controller and webhooks, in mode Standard and without an ingress of its own."""
    settings = yaml.safe_load((binaries.folder("kserve") / "config" / "inferenceservice.yaml").read_text())
    settings["data"].pop("_example", None)
    settings["data"]["agent"] = json.dumps(json.loads(settings["data"]["agent"]) | {"image": AGENT})
    settings["data"]["deploy"] = '{"defaultDeploymentMode": "Standard"}'
    settings["data"]["ingress"] = (
        '{"ingressDomain": "example.com", "ingressGateway": "x/y", "disableIngressCreation": true,'
        ' "enableGatewayApi": false, "disableIstioVirtualHost": true, "urlScheme": "http"}'
    )
    settings["metadata"] = {"name": "inferenceservice-config", "namespace": KSERVE}
    cluster.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KSERVE}}, settings)
    webhook, metrics, probe = free_ports(3)
    process = _manager(
        cluster, "kserve", webhook, f"--metrics-addr=127.0.0.1:{metrics}", f"--webhook-port={webhook}",
        f"--health-probe-addr=127.0.0.1:{probe}", environment={"POD_NAMESPACE": KSERVE},
    )  # fmt: skip
    _register(cluster, process, "kserve", webhook, probe)


def start_jobset(cluster: ControlPlane) -> None:
    """JobSet's controller and webhooks."""
    webhook, metrics, probe = free_ports(3)
    settings = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{probe}"},
        "metrics": {"bindAddress": f"127.0.0.1:{metrics}"},
        "webhook": {"port": webhook, "host": "127.0.0.1"},
    }
    path = _written(cluster, "jobset", settings)
    _register(cluster, _manager(cluster, "jobset", webhook, f"--config={path}"), "jobset", webhook, probe)


def start_trainer(cluster: ControlPlane) -> None:
    """Kubeflow Trainer's controller and webhooks; it needs JobSet."""
    webhook, metrics, probe, status = free_ports(4)
    settings = {
        "apiVersion": "config.trainer.kubeflow.org/v1alpha1",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{probe}"},
        "metrics": {"bindAddress": f"127.0.0.1:{metrics}", "secureServing": False},
        "webhook": {"port": webhook, "host": "127.0.0.1"},
        "leaderElection": {"leaderElect": False},
        "certManagement": {"enable": False},
        "statusServer": {"port": status},
    }
    path = _written(cluster, "trainer", settings)
    _register(cluster, _manager(cluster, "trainer", webhook, f"--config={path}"), "trainer", webhook, probe)


def _written(cluster: ControlPlane, name: str, settings: Object) -> Path:
    path = cluster.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _manager(
    cluster: ControlPlane, name: str, port: int, *arguments: str, environment: dict[str, str] | None = None
) -> Process:
    """Starts a manager, whose webhook certificate lies where controller-runtime looks for it by default."""
    assert cluster.authority is not None
    home = cluster.folder / f"{name}-tmp"
    cluster.authority.issue(f"{name}-webhook", folder=home / "k8s-webhook-server" / "serving-certs", name="tls")
    variables = {"TMPDIR": os.fspath(home), "KUBECONFIG": os.fspath(cluster.kubeconfig)}
    return cluster.start(f"{name}-manager", f"{name}-manager", *arguments, environment=variables | (environment or {}))


def _register(cluster: ControlPlane, process: Process, name: str, port: int, probe: int) -> None:
    """Registers the webhooks once they answer: an API server that cannot reach one refuses what it is asked."""
    assert cluster.authority is not None
    wait(f"http://127.0.0.1:{probe}/readyz", process)
    folder = binaries.folder(name) / "webhooks"
    authority = base64.b64encode(cluster.authority.certificate.read_bytes()).decode()
    objects = []
    for found in yaml.load_all((folder / "manifests.yaml").read_text(), Loader=yaml.CSafeLoader):
        if not found:
            continue
        if "." not in found["metadata"]["name"]:  # a name that the project's own overlay replaces
            found["metadata"]["name"] = f"{name}-{found['metadata']['name']}"
        mode = found["kind"].removesuffix("WebhookConfiguration").lower()
        patch = folder / "patches" / f"{mode}-patch.yaml"
        if patch.exists():
            for step in yaml.safe_load(patch.read_text()):
                found["webhooks"][int(step["path"].rpartition("/")[2])] = step["value"]
        for webhook in found["webhooks"]:
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": authority}
            # KServe asks for reviews of a version that no server speaks any more.
            webhook["admissionReviewVersions"] = ["v1"]
        found["metadata"].pop("creationTimestamp", None)
        objects.append(found)
    cluster.kubectl.apply(*objects)
