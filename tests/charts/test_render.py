"""What the Helm engine says: lint, schemas of values, rendering of every scenario, nothing where nothing is enabled."""

from __future__ import annotations

import copy
import os
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from helm_python import HelmError, lint

from scripts import chart_schema
from tests.charts import support
from tests.charts.support import CHARTS, SCENARIOS, SERVICES, UMBRELLA, WEB

MINIMAL = {"s3": {"bucket": "lake"}, "auth": {"anonymous": True}, "tls": {"existingSecret": "tls"}}
MAX_VALUES = 180


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_lints_and_renders(name: str) -> None:
    report = lint(os.fspath(UMBRELLA), support.values_of(name), strict=True, namespace=support.NAMESPACE)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []
    found = support.scenario(name)
    assert found
    names = [(o["apiVersion"], o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in found]
    assert len(set(names)) == len(names)
    homes = {support.NAMESPACE, support.values_of(name).get("kubeflow", {}).get("namespace", support.NAMESPACE)}
    assert {o["metadata"]["namespace"] for o in found} <= homes


@pytest.mark.parametrize("service", SERVICES)
def test_each_chart_stands_alone(service: str) -> None:
    values = copy.deepcopy(MINIMAL)
    report = lint(os.fspath(CHARTS / service), values, strict=True)
    assert report["errors"] == []
    kinds = {o["kind"] for o in support.objects(support.render(CHARTS / service, values))}
    assert kinds == {
        "InferenceService", "Service", "ServiceAccount", "NetworkPolicy", "Job", "Pod",
    } | ({"PodDisruptionBudget"} if service != "federation" else set())  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_kserve_serves_the_container_that_the_chart_wrote(name: str) -> None:
    """A `model` without a `storageUri` is a multi-model server to KServe, which puts an agent into its pods."""
    for o in support.scenario(name):
        if o["kind"] == "InferenceService":
            predictor = o["spec"]["predictor"]
            assert "model" not in predictor
            own = support.values_of(name)[o["metadata"]["labels"]["app.kubernetes.io/name"]].get("sidecars", [])
            names = [container["name"] for container in predictor["containers"]]
            assert names == ["kserve-container", *(container["name"] for container in own)]


@pytest.mark.parametrize("service", SERVICES)
def test_without_kserve_it_is_a_plain_workload(service: str) -> None:
    found = support.objects(support.render(CHARTS / service, {**MINIMAL, "kserve": {"enabled": False}}))
    assert not [o for o in found if o["apiVersion"].startswith("serving.kserve.io")]
    kind = "StatefulSet" if service == "federation" else "Deployment"
    assert support.pick(found, kind)["spec"].get("replicas", 1) == 1


def test_disabled_renders_nothing() -> None:
    off: dict[str, Any] = {name: {"enabled": False} for name in (*SERVICES, "kubeflow", "doctor")}
    assert support.objects(support.render(UMBRELLA, off)) == []


@pytest.mark.parametrize("switch", ["serviceAccount.create", "networkPolicy.enabled", "pdb.enabled", "tests.enabled"])
def test_each_switch_takes_its_object_away(switch: str) -> None:
    kinds = {
        "serviceAccount.create": "ServiceAccount", "networkPolicy.enabled": "NetworkPolicy",
        "pdb.enabled": "PodDisruptionBudget", "tests.enabled": "Pod",
    }  # fmt: skip
    section, key = switch.split(".")
    on = support.objects(support.render(CHARTS / "retrieval", {**MINIMAL, "doctor": {"enabled": False}}))
    values = {**MINIMAL, "doctor": {"enabled": False}, section: {key: False}}
    left = support.objects(support.render(CHARTS / "retrieval", values))
    assert [o for o in on if o["kind"] == kinds[switch]]
    assert not [o for o in left if o["kind"] == kinds[switch]]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"replicaCount": 3}, "replicaCount"),
    ({"replicas": "three"}, "replicas"),
    ({"replicas": 0}, "replicas"),
    ({"settings": {"pollSecond": 3}}, "pollSecond"),
    ({"settings": {"encodeBatch": 0}}, "encodeBatch"),
    ({"settings": {"logLevel": "loud"}}, "logLevel"),
    ({"tls": {"mode": "somewhere"}}, "mode"),
    ({"ports": {"grpc": 80}}, "grpc"),
    ({"s3": {"password": "secret"}}, "password"),
    ({"auth": {"tokens": {"algorithm": "none"}}}, "algorithm"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"autoscaling": {"type": "vpa"}}, "type"),
    ({"metrics": {"prometheusRule": {"errorRatio": 2}}}, "errorRatio"),
    ({"imagePullSecrets": [{"name": "registry"}]}, "imagePullSecrets"),
    ({"route": {"hostnames": [8]}}, "hostnames"),
    ({"extraEnv": ["A=B"]}, "extraEnv"),
    ({"service": {"headless": True, "type": "LoadBalancer"}}, "service.headless"),
    (
        {"tls": {"mode": "pod", "clientCaSecret": "ca"}, "metrics": {"serviceMonitor": {"enabled": True}}},
        "metrics.serviceMonitor.clientCertSecret",
    ),
    ({"tls": {"mode": "pod", "existingSecret": ""}}, "tls.existingSecret"),
    ({"tls": {"clientCaSecret": "ca"}}, "needs tls.mode=pod"),
    ({"auth": {"anonymous": False}}, "auth.tokens.existingSecret"),
    ({"auth": {"tokens": {"existingSecret": "keys"}}}, "audience"),
    ({"s3": {"bucket": ""}}, "settings.codesUri"),
    ({"route": {"enabled": True}}, "route.parentRefs"),
    ({"route": {"enabled": True, "parentRefs": [{"name": "g"}]}, "tls": {"mode": "pod"}}, "route.hostnames"),
    ({"settings": {"drainSeconds": 120}}, "terminationGracePeriodSeconds"),
    ({"autoscaling": {"type": "keda"}}, "prometheusAddress"),
    (
        {"autoscaling": {"type": "keda", "prometheusAddress": "http://prometheus:9090"}},
        "metrics.serviceMonitor.enabled",
    ),
    ({"s3": {"endpoint": "minio:9000"}}, "endpoint"),
    ({"otel": {"endpoint": "otel-collector:4317"}}, "endpoint"),
    ({"autoscaling": {"minReplicas": 9}}, "maxReplicas"),
    ({"tls": {"mode": "pod", "certManager": {"enabled": True}}}, "issuerRef.name"),
]


@pytest.mark.parametrize(("wrong", "named"), WRONG, ids=[f"{i}-{named}" for i, (_, named) in enumerate(WRONG)])
def test_a_wrong_value_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    values: dict[str, Any] = copy.deepcopy(MINIMAL)
    for section, content in wrong.items():
        values[section] = {**values.get(section, {}), **content} if isinstance(content, dict) else content
    with pytest.raises(HelmError) as refusal:
        support.render(CHARTS / "retrieval", values)
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"s4": {}}, "s4"),
        ({"global": {"s3": {"secretKey": "x"}}}, "secretKey"),
        ({"global": {"s3": {"bucket": "lake", "existingSecret": "mine"}}}, "eoforge-s3"),
        ({"retrieval": {"replicaCount": 1}}, "replicaCount"),
        ({"doctor": {"enabeld": False}}, "enabeld"),
        ({"global": {"s3": {"bucket": "lake"}, "imagePullSecrets": [{"name": "registry"}]}}, "imagePullSecrets"),
        ({"kubeflow": {"serviceAccounts": []}}, "serviceAccounts"),
        ({"global": {"s3": {"bucket": "lake", "caBundle": {"configMap": "mine"}}}}, "eoforge-ca"),
        ({"kubeflow": {"pipelines": {"delivery": "pigeon"}}}, "delivery"),
        ({"kubeflow": {"pipelines": {"names": ["ingets"]}}}, "ingets"),
        ({"dev": {"s3": {"enabled": True, "server": "rclone"}}}, "server"),
    ],
)
def test_a_wrong_value_of_the_umbrella_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    quiet: dict[str, Any] = {"compression": {"enabled": False}, "federation": {"enabled": False}}
    values = {**quiet, "retrieval": {"auth": {"anonymous": True}}, "global": {"s3": {"bucket": "lake"}}, **wrong}
    if "retrieval" in wrong:
        values["retrieval"] = {"auth": {"anonymous": True}, **wrong["retrieval"]}
    with pytest.raises(HelmError) as refusal:
        support.render(UMBRELLA, values)
    assert named in str(refusal.value)


def test_all_contradictions_are_named_at_once() -> None:
    with pytest.raises(HelmError) as refusal:
        support.render(CHARTS / "federation", {"route": {"enabled": True}})
    for named in ("settings.federationUri", "tls.existingSecret", "auth.tokens.existingSecret", "route.parentRefs"):
        assert named in str(refusal.value)


def test_schemas_and_tables_of_values_are_fresh() -> None:
    assert chart_schema.main(["--check"]) == 0


@pytest.mark.parametrize("chart", sorted(path.parent.name for path in CHARTS.glob("*/values.yaml")))
def test_no_chart_has_too_many_values(chart: str) -> None:
    text = (CHARTS / chart / "values.yaml").read_text()
    found = chart_schema.leaves(text)
    settings = [chart_schema.settings_schema(leaf.settings).get("properties", {}) for leaf in found if leaf.settings]
    assert 0 < len(found) + sum(map(len, settings)) <= MAX_VALUES


def test_the_documents_and_refusals_name_values_that_are_there() -> None:
    known = set()
    for path in CHARTS.glob("*/values.yaml"):
        for leaf in chart_schema.leaves(path.read_text()):
            of_settings = chart_schema.settings_schema(leaf.settings)["properties"] if leaf.settings else {}
            steps = ("dev", *leaf.path) if path.parent.name == "eoforge-dev" else leaf.path
            known |= {".".join(steps[: i + 1]) for i in range(len(steps))}
            known |= {f"settings.{name}" for name in of_settings}
    sections = {path.partition(".")[0] for path in known} - {*SERVICES, *WEB}
    pages = [
        support.ROOT / "docs" / "operations.md",
        *CHARTS.glob("*/README.md"),
        *CHARTS.glob("*/templates/_[!k]*.tpl"),
    ]
    named = set()
    for page in pages:
        prose = page.read_text().partition(chart_schema.MARKER)[0]
        found = re.findall(rf"""[`\s"](?:(?:{"|".join((*SERVICES, *WEB))})\.)?([a-z]\w*(?:\.\w+)+)""", prose)
        named |= {name for name in found if name.partition(".")[0] in sections}
    assert len(named) > 30
    assert named - known == {"tls.crt", "tls.key", "resources.limits"}, "keys of secrets, and what Kubernetes knows"


def test_an_undocumented_value_is_found() -> None:
    text = "# Says what it is.\nknown: 1\nunknown: 2\n"
    assert chart_schema.undocumented(yaml.safe_load(text), chart_schema.leaves(text)) == ["unknown"]


def test_a_digest_wins_over_a_tag_and_registries_come_in_front() -> None:
    image = {"registry": "registry.example", "tag": "1.2.3"}
    pod = support.server_pod(
        support.objects(support.render(CHARTS / "retrieval", {**MINIMAL, "image": image})), "retrieval"
    )
    assert pod.containers[0]["image"] == "registry.example/eoforge/retrieval:1.2.3"
    ceph = support.server_pod(support.scenario("ceph"), "retrieval")
    assert ceph.containers[0]["image"].startswith("eoforge/retrieval@sha256:")
    minio = support.server_pod(support.scenario("minio"), "federation")
    assert minio.containers[0]["image"] == "registry.example/eoforge/federation:0.1.0"
    assert minio.spec["imagePullSecrets"] == [{"name": "registry-credentials"}]


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_pod_can_pull_from_a_private_registry(name: str) -> None:
    values = support.values_of(name)
    values["global"] = {**values.get("global", {}), "imagePullSecrets": ["registry"]}
    found = support.objects(support.render(UMBRELLA, values))
    without = [p.owner for p in support.pods(found) if p.spec.get("imagePullSecrets") != [{"name": "registry"}]]
    assert without == []
    made = support.values_of(name).get("kubeflow", {}).get("createServiceAccounts", False)
    steps = [o for o in found if label_of_umbrella(o) and o["kind"] == "ServiceAccount" and "hook" not in str(o)]
    assert bool(steps) is made, "the pods of pipeline steps are made by Kubeflow: they have what their account has"
    assert all(o["imagePullSecrets"] == [{"name": "registry"}] for o in steps)


def label_of_umbrella(o: support.Object) -> bool:
    """Whether an object is the umbrella's own."""
    return bool(o["metadata"].get("labels", {}).get("app.kubernetes.io/name") == "eoforge")


@pytest.mark.parametrize("name", ["dev-minio", "gpu-aws", "minio", "plain"])
def test_the_longest_release_name_leaves_every_object_a_name_of_its_own(name: str) -> None:
    release = "r" * 53  # the longest that Helm takes
    found = support.objects(support.render(UMBRELLA, support.values_of(name), namespace="eo-1", release=release))
    names = [(o["kind"], o["metadata"]["name"]) for o in found]
    assert len(set(names)) == len(names)
    # KServe writes isvc.NAME-predictor into a label, a StatefulSet's name and a hash become one,
    # and a Job's name as it is.
    room = {"InferenceService": 63 - 10 - 5, "StatefulSet": 52, "Job": 63, "Service": 63}
    assert [(kind, n) for kind, n in names if len(n) > room.get(kind, 253)] == []
    if name.startswith("dev"):
        endpoint = support.env_of(support.server_pod(found, "retrieval").containers[0])["AWS_ENDPOINT_URL"]
        assert ("Service", urlsplit(endpoint).hostname) in names


def test_a_name_that_kserve_cannot_serve_is_refused_with_the_lengths() -> None:
    """Its host name is NAME-predictor-NAMESPACE; Helm would say deployed, and KServe never reconcile."""
    values = {**MINIMAL, "fullnameOverride": "a" * 44}
    assert support.render(CHARTS / "retrieval", values, namespace="n" * 8)
    with pytest.raises(HelmError, match=r"\(44\) and the namespace .* \(9\) have 53 characters together, and 52"):
        support.render(CHARTS / "retrieval", values, namespace="n" * 9)
    assert support.render(CHARTS / "retrieval", {**values, "kserve": {"enabled": False}}, namespace="n" * 63)
    with pytest.raises(HelmError, match="49 characters, and 48 is the most"):
        support.render(CHARTS / "retrieval", {**values, "fullnameOverride": "a" * 49}, namespace="n")


def test_under_kserve_a_cpu_limit_is_always_written() -> None:
    """KServe writes one CPU where there is none, also below the request, which the API server refuses."""

    def limits(**values: Any) -> dict[str, Any]:
        found = support.objects(support.render(CHARTS / "retrieval", {**MINIMAL, **values}))
        return dict(support.server_pod(found, "retrieval").containers[0]["resources"]["limits"])

    assert limits() == {"cpu": "64", "memory": "6Gi"}
    assert limits(resources={"limits": {"cpu": "2"}})["cpu"] == "2"
    assert "cpu" not in limits(kserve={"enabled": False})


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_pods_resources_are_values(name: str) -> None:
    """A quota on limits.cpu refuses a pod without such a limit, so none may be out of a user's reach."""
    values = support.values_of(name)
    limited = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    for service in SERVICES:
        parts = {part: {**values.get(service, {}).get(part, {}), "resources": limited} for part in ("tests", "doctor")}
        values[service] = {
            **values.get(service, {}), **parts, "waitForStore": {"resources": limited}, "resources": limited,
        }  # fmt: skip
        values[service]["doctor"].setdefault("enabled", False)
        values[service]["settings"] = {**values[service].get("settings", {}), "device": "cpu"}
        if service == "federation":
            del values[service]["settings"]["device"]
    for web in WEB:
        tests = {**values.get(web, {}).get("tests", {}), "resources": limited}
        more = {"resources": limited, "tests": tests, "waitForStore": {"resources": limited}}
        values[web] = {**values.get(web, {}), **more}
    values["doctor"] = {**values.get("doctor", {}), "resources": limited}
    kubeflow = values.setdefault("kubeflow", {})
    kubeflow["pipelines"] = {**kubeflow.get("pipelines", {}), "resources": limited}
    values["dev"] = {"s3": {**values.get("dev", {}).get("s3", {}), "resources": limited}}
    found = support.objects(support.render(UMBRELLA, values))
    unlimited = [
        (pod.owner, c["name"])
        for pod in support.pods(found)
        for c in pod.containers
        if pod.owner.partition("/")[0] != "TrainingRuntime"
        and not c["image"].startswith("registry.example/tools")
        and c["resources"] != limited
    ]
    assert unlimited == []


def test_the_store_is_probed_before_installing_or_waited_for() -> None:
    """An external store: a hook that runs first. The development store: init containers, since it starts along."""
    found = support.scenario("minio")
    job = support.pick(found, "Job", "eo-eoforge-doctor")
    hooks = [o for o in found if "pre-install" in o["metadata"].get("annotations", {}).get("helm.sh/hook", "")]
    assert {o["kind"] for o in hooks} == {"ServiceAccount", "NetworkPolicy", "Job"}
    weights = {o["kind"]: int(o["metadata"]["annotations"]["helm.sh/hook-weight"]) for o in hooks}
    assert weights["ServiceAccount"] < weights["Job"]
    assert weights["NetworkPolicy"] < weights["Job"]
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["eoforge", "doctor", "s3://lake"]
    assert support.env_of(container)["AWS_ENDPOINT_URL"] == "http://minio.minio.svc:9000"
    assert job["metadata"]["annotations"]["helm.sh/hook-output-log-policy"] == "hook-failed"
    proxy = {"name": "HTTPS_PROXY", "value": "http://proxy:3128"}
    behind = {**support.values_of("minio"), "doctor": {"extraEnv": [proxy]}}
    job = support.pick(support.objects(support.render(UMBRELLA, behind)), "Job", "eo-eoforge-doctor")
    assert proxy in job["spec"]["template"]["spec"]["containers"][0]["env"]
    assert all("initContainers" not in p.spec for p in support.pods(found))

    dev = support.scenario("dev")
    assert not [o for o in dev if o["kind"] == "Job"]
    for service in SERVICES:
        pod = support.server_pod(dev, service)
        (wait,) = pod.spec["initContainers"]
        assert wait["command"][-1] == "s3://eoforge"
        assert support.env_of(wait)["AWS_ENDPOINT_URL"] == "http://eo-dev-s3:8333"
    assert support.pick(dev, "Service", "eo-dev-s3")["spec"]["ports"][0]["port"] == 8333


def test_notes_hold_commands_for_what_is_installed() -> None:
    files = support.scenario_files("plain")
    notes = files["eoforge/templates/NOTES.txt"]
    assert "helm test eo --namespace eo-system" in notes
    for service in SERVICES:
        assert f"svc/eo-{service}-api" in notes
    assert "dev.s3" not in notes
    assert "dev.s3" in support.scenario_files("dev")["eoforge/templates/NOTES.txt"]
