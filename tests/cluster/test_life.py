"""Each scenario through its life: strict dry run, install, test, upgrade, rollback, uninstall, nothing left."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from helm_python import Chart

from tests.charts import support
from tests.cluster import release
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Object
from tests.cluster.release import RELEASE, TIMEOUT_S, Home

ALONE: Object = {"s3": {"bucket": "lake"}, "auth": {"anonymous": True}, "tls": {"existingSecret": "tls"}}
SINGLE = [(service, kserve) for service in support.SERVICES for kserve in (True, False)]
WAIT = "hookOnly"
"""With Helm's own wait a rollback under KServe may never end (docs/operations.md); what is ready is asked for here."""


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Archives of two releases of each chart."""
    charts = ("eoforge", "eoforge-dev", *support.SERVICES, *support.WEB)
    return {name: release.two_releases(tmp_path_factory.mktemp(name), name) for name in charts}


@pytest.fixture(scope="module", autouse=True)
def what_scenarios_want(cluster: ControlPlane) -> None:
    """Things of the cluster that values name: a runtime class for GPUs."""
    cluster.kubectl.apply(
        {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"}
    )


def give_volumes(place: Home, objects: list[Object]) -> None:
    """A volume for each claim that pods name or that a StatefulSet makes: there is no provisioner."""
    named = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in support.pods(objects)
        for volume in pod.spec.get("volumes", [])
        if "persistentVolumeClaim" in volume
    }
    for name in sorted(named | claims(objects)):
        spec: Object = {"capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]}
        spec |= {"hostPath": {"path": "/nowhere"}, "claimRef": {"namespace": place.name, "name": name}}
        metadata = {"name": f"{place.name}-{name}"}
        place.cluster.kubectl.apply(
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}
        )
    for name in sorted(named):
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "10Gi"}}}
        metadata = {"name": name, "namespace": place.name}
        place.cluster.kubectl.apply(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}
        )


def give_accounts(place: Home, objects: list[Object]) -> None:
    """Service accounts that Kubeflow brings: those that get rights, unless the chart makes them itself."""
    made = {(o["metadata"]["namespace"], o["metadata"]["name"]) for o in objects if o["kind"] == "ServiceAccount"}
    bound = {(s["namespace"], s["name"]) for o in objects if o["kind"] == "RoleBinding" for s in o["subjects"]}
    for namespace, name in sorted(bound - made):
        metadata = {"namespace": namespace, "name": name}
        place.cluster.kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})


def claims(objects: list[Object]) -> set[str]:
    """Names of the claims that StatefulSets make."""
    return {
        f"{template['metadata']['name']}-{o['metadata']['name']}-0"
        for o in objects
        if o["kind"] == "StatefulSet"
        for template in o["spec"].get("volumeClaimTemplates", [])
    }


def live(place: Home, chart: str, values: Object, archives: dict[str, Path]) -> None:
    """Installs, tests, upgrades, rolls back and removes a release; nothing may be left."""
    objects = release.rendered(support.CHARTS / chart, values, place)
    expected = release.apart_from_hooks(objects)
    tested = any(o["metadata"].get("annotations", {}).get("helm.sh/hook") == "test" for o in objects)
    place.cluster.kubectl.apply(*objects, dry_run=True)
    give_volumes(place, objects)
    give_accounts(place, objects)
    before = place.left()
    with place.helm() as helm:
        with Chart.load(archives["0.1.0"]) as loaded:
            helm.install(loaded, RELEASE, values, namespace=place.name, wait=WAIT, timeout=TIMEOUT_S)
        release.wait_ready(place)
        assert expected <= place.left()
        assert bool(helm.test(RELEASE, timeout=TIMEOUT_S, logs=True)["logs"]) == tested
        with Chart.load(archives["0.2.0"]) as loaded:
            helm.upgrade(loaded, RELEASE, values, namespace=place.name, wait=WAIT, timeout=TIMEOUT_S)
        release.wait_ready(place)
        helm.rollback(RELEASE, version=1, wait=WAIT, timeout=TIMEOUT_S)
        release.wait_ready(place)
        assert [r["revision"] for r in helm.history(RELEASE)] == [1, 2, 3]
        stays = before | kept(place)
        helm.uninstall(RELEASE, timeout=TIMEOUT_S)
    place.wait_empty(stays)


def kept(place: Home) -> set[str]:
    """What stays on purpose: versions that recurring runs name, and the data of the development store."""
    return {label for label in place.left() if label.startswith(("PipelineVersion/", "PersistentVolumeClaim/"))}


@pytest.mark.parametrize("name", support.SCENARIOS)
def test_a_scenario_of_the_umbrella_lives_and_ends(
    name: str, place: Home, releases: dict[str, dict[str, Path]]
) -> None:
    live(place, "eoforge", release.with_kubeflow_in(support.values_of(name), place.kubeflow), releases["eoforge"])


@pytest.mark.parametrize("name", ["dev", "minio"])
def test_with_cpu_limits_a_quota_on_them_is_met(
    name: str, cluster: ControlPlane, releases: dict[str, dict[str, Path]]
) -> None:
    """Doctor, upload, tests, services and the init container that waits: none may be without."""
    with release.home(cluster, {**release.QUOTA, "limits.cpu": "200"}) as place:
        live(place, "eoforge", limited(support.values_of(name)), releases["eoforge"])


def limited(values: Object) -> Object:
    """The values with a CPU limit for every pod."""
    resources = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    found: Object = copy.deepcopy(values)
    for service in (*support.SERVICES, *support.WEB):
        node = found.setdefault(service, {})
        for part in ("tests", "waitForStore"):
            node.setdefault(part, {})["resources"] = resources
        node["resources"] = resources
    for path in ("doctor", "kubeflow.pipelines", "dev.s3"):
        node = found
        for key in path.split("."):
            node = node.setdefault(key, {})
        node["resources"] = resources
    return found


def test_the_development_store_alone_lives_and_ends(place: Home, releases: dict[str, dict[str, Path]]) -> None:
    live(place, "eoforge-dev", {}, releases["eoforge-dev"])


def test_the_console_alone_lives_and_ends(place: Home, releases: dict[str, dict[str, Path]]) -> None:
    secrets = {"sessionKey": {"existingSecret": "console"}, "clientSecret": {"existingSecret": "console"}}
    settings = {
        "publicUrl": "https://console.example",
        "oidcIssuer": "https://login.example",
        "oidcClientId": "eoforge",
    }
    values = {"s3": {"bucket": "lake"}, "auth": secrets, "settings": settings}
    live(place, "console", values, releases["console"])


@pytest.mark.parametrize(("service", "kserve"), SINGLE)
def test_a_service_alone_lives_and_ends(
    service: str, kserve: bool, place: Home, releases: dict[str, dict[str, Path]]
) -> None:
    values: dict[str, Any] = {**ALONE, "kserve": {"enabled": kserve}}
    live(place, service, values, releases[service])
