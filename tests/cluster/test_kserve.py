"""KServe's own controller and webhooks: services become ready, with the containers that the chart wrote alone."""

from __future__ import annotations

from typing import Any

import pytest
from helm_python import Chart

from tests.charts import support
from tests.cluster import release
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Object
from tests.cluster.release import RELEASE, TIMEOUT_S, Home

ALONE: Object = {"s3": {"bucket": "lake"}, "auth": {"anonymous": True}, "tls": {"existingSecret": "tls"}}
WRITTEN = ("name", "image", "command", "env", "resources", "securityContext", "readinessProbe", "livenessProbe")
DEFAULTS = {"failureThreshold": 3, "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1}
"""What the API server writes into a probe that leaves it open."""


def install(place: Home, service: str, values: Object, name: str = RELEASE) -> None:
    """Installs one service and waits until KServe says that it is ready."""
    with place.helm() as helm, Chart.load(support.CHARTS / service) as chart:
        helm.install(chart, name, values, namespace=place.name, wait="hookOnly", timeout=TIMEOUT_S)
    release.wait_ready(place)


def server_pods(place: Home, service: str) -> list[Object]:
    """Pods that serve."""
    return place.kubectl.items(
        "pods", f"--selector=app.kubernetes.io/name={service},app.kubernetes.io/component=server"
    )


def written(container: Object) -> dict[str, Any]:
    """What we wrote of a container, comparable with what a pod has."""
    found = {key: container[key] for key in WRITTEN}
    found |= {f"env {v['name']}": v.get("value", v.get("valueFrom")) for v in found.pop("env")}
    for probe in ("readinessProbe", "livenessProbe"):
        grpc = {"port": container[probe]["grpc"]["port"]}  # the API server adds an empty service
        found[probe] = {**DEFAULTS, **container[probe], "grpc": grpc}
    return found


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Fields that differ, with both values."""
    keys = sorted(found.keys() | expected.keys())
    return [f"{key}: {found.get(key)} != {expected.get(key)}" for key in keys if found.get(key) != expected.get(key)]


@pytest.mark.parametrize("service", support.SERVICES)
def test_pods_have_our_container_and_no_other(service: str, place: Home) -> None:
    objects = release.rendered(support.CHARTS / service, ALONE, place)
    install(place, service, ALONE)
    pods = server_pods(place, service)
    (expected,) = support.server_pod(objects, service).spec["containers"]
    assert pods
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        own = f"env INFERENCE_SERVICE_NAME: {RELEASE}-{service} != None"  # all that KServe adds
        assert differences(written(container), written(expected)) == [own]
        assert pod["spec"].get("initContainers", []) == []
        assert pod["spec"]["serviceAccountName"] == RELEASE + "-" + service


def test_a_model_without_storage_gets_an_agent(place: Home) -> None:
    """Why the chart writes containers: KServe takes this for a multi-model server. The webhook is the real one."""
    secure = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container: Object = {"name": "kserve-container", "image": "test/x", "securityContext": secure}
    container["resources"] = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    runtime = {"supportedModelFormats": [{"name": "test", "version": "1"}], "containers": [container]}
    model = {"modelFormat": {"name": "test", "version": "1"}, "runtime": "old"}
    metadata = {"name": "old", "namespace": place.name}
    place.kubectl.apply(
        {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "ServingRuntime",
            "metadata": metadata,
            "spec": runtime | {"multiModel": False, "protocolVersions": ["v2"]},
        },
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": metadata | {"annotations": {"serving.kserve.io/deploymentMode": "Standard"}},
            "spec": {"predictor": {"model": model, "minReplicas": 1}},
        },
    )
    place.kubectl.run("wait", "--for=create", "deployment/old-predictor", "--timeout=30s")
    template = place.kubectl.get("deployment/old-predictor")["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": "old-0"}}
    spec = {**template["spec"], "automountServiceAccountToken": False}
    answer = place.kubectl.try_run(
        "create", "--dry-run=server", "--output=jsonpath={.spec.containers[*].name}", "-f-",
        given=release.as_text({**pod, "metadata": {**pod["metadata"], "namespace": place.name}, "spec": spec}),
    )  # fmt: skip
    assert "agent" in answer[1], answer


@pytest.mark.parametrize("length", [40, 48])
def test_the_longest_name_that_the_chart_takes_reconciles(length: int, cluster: ControlPlane) -> None:
    """Name and namespace of 52 characters together; the name alone at most 48."""
    with release.home(cluster, name="n" * (52 - length)) as place:
        install(place, "retrieval", {**ALONE, "fullnameOverride": "a" * length})
        assert server_pods(place, "retrieval")


@pytest.mark.parametrize("kind", ["none", "hpa"])
def test_the_number_of_pods_is_what_the_values_say(kind: str, place: Home) -> None:
    scaling = {"type": kind, "minReplicas": 3, "maxReplicas": 5}
    install(place, "compression", {**ALONE, "replicas": 4, "autoscaling": scaling})
    wanted = {"none": 4, "hpa": 3}[kind]  # an autoscaler looks every 15 seconds
    release.wait_until(lambda: len(server_pods(place, "compression")) == wanted, f"{wanted} pods")
