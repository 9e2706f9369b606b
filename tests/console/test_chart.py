"""Chart of the web console: what browsers, probes and services meet, and what is refused."""

from __future__ import annotations

import os
from typing import Any

import pytest
from helm_python import HelmError, lint

from scripts.chart_schema import WEB_FROM_CHART
from services.console.app import application
from services.console.security import LIVE, READY
from services.console.settings import ConsoleSettings
from tests.charts import schemas, support
from tests.charts.policies import OUTSIDE, allowed, beside, in_namespace
from tests.charts.support import CHARTS, UMBRELLA

MINIMAL: dict[str, Any] = {
    "s3": {"bucket": "lake"},
    "auth": {"sessionKey": {"existingSecret": "console"}},
    "settings": {
        "publicUrl": "https://console.example",
        "oidcIssuer": "https://login.example",
        "oidcClientId": "eoforge",
        "retrievalTarget": "elsewhere:8081",
    },
}
SCENARIOS = [name for name in support.SCENARIOS if support.enabled(name, "console")]
GATEWAY, STRANGER = in_namespace("gateways"), in_namespace("somewhere-else")


def settings_of(container: support.Object) -> ConsoleSettings:
    """Settings as the pod would read them; files that are not here are left out."""
    env = {key.removeprefix("EOFORGE_").lower(): value for key, value in support.env_of(container).items()}
    known = {key: env[key] for key in ConsoleSettings.model_fields if env.get(key) and not key.endswith("_file")}
    return ConsoleSettings(**known)


def test_secrets_are_no_values() -> None:
    assert ConsoleSettings.model_fields.keys() >= WEB_FROM_CHART
    files = {name for name in WEB_FROM_CHART if name.endswith("_file")}
    everything = merged(MINIMAL, {"auth": {"clientSecret": {"existingSecret": "s"}}, "upstream": {"caSecret": "ca"}})
    found = support.objects(support.render(CHARTS / "console", everything))
    env = support.env_of(support.server_pod(found, "console").containers[0])
    assert {f"EOFORGE_{name.upper()}" for name in files} <= env.keys()
    assert "EOFORGE_TOKEN" not in env


def test_the_chart_stands_alone_and_is_valid() -> None:
    report = lint(os.fspath(CHARTS / "console"), MINIMAL, strict=True)
    assert report["errors"] == []
    found = support.objects(support.render(CHARTS / "console", MINIMAL))
    assert {support.label(o): wrong for o in found if (wrong := schemas.problems(o, schemas.KUBERNETES[-1]))} == {}
    assert {o["kind"] for o in found} == {
        "Deployment", "Service", "ServiceAccount", "NetworkPolicy", "Pod", "PodDisruptionBudget",
    }  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_pod_has_settings_that_the_console_takes(name: str) -> None:
    container = support.server_pod(support.scenario(name), "console").containers[0]
    settings = settings_of(container)
    assert settings.retrieval_target == "eo-retrieval-api:8081"
    assert settings.federation_target == "eo-federation-api:8081"
    assert settings.compression_target == "eo-compression-api:8081"
    assert settings.patches_uri == "s3://lake/patches.lance"
    names = {variable["name"] for variable in container["env"] if variable["name"].startswith("EOFORGE_")}
    known = {f"EOFORGE_{field.upper()}" for field in ConsoleSettings.model_fields}
    assert names <= known | {"EOFORGE_SCRATCH"}
    mounted = tuple(mount["mountPath"] for mount in container["volumeMounts"])
    files = {key: value for key, value in support.env_of(container).items() if key.endswith("_FILE") and value}
    assert "EOFORGE_SESSION_KEY_FILE" in files
    assert [key for key, value in files.items() if not str(value).startswith(mounted)] == []


@pytest.mark.parametrize("name", SCENARIOS)
def test_services_routes_and_probes_meet_the_port(name: str) -> None:
    found = support.scenario(name)
    pod = support.server_pod(found, "console")
    container = pod.containers[0]
    (port,) = container["ports"]
    assert str(port["containerPort"]) == support.env_of(container)["EOFORGE_REST_PORT"]
    service = support.pick(found, "Service", "eo-console-api")["spec"]
    assert [p["targetPort"] for p in service["ports"]] == [port["containerPort"]]
    tls = "EOFORGE_TLS_CERT_FILE" in support.env_of(container)
    route = support.pick(found, "TLSRoute" if tls else "HTTPRoute", "eo-console")["spec"]
    assert route["rules"] == [{"backendRefs": [{"name": "eo-console-api", "port": service["ports"][0]["port"]}]}]
    for probe, path in (("startupProbe", LIVE), ("readinessProbe", READY), ("livenessProbe", LIVE)):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"], "scheme": "HTTPS" if tls else "HTTP"}
    paths = {getattr(route, "path", "") for route in application(ConsoleSettings()).routes}
    assert not {LIVE, READY} & paths, "the guard answers probes, before sessions and host names"


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_console_reaches_its_services_and_the_provider_and_nothing_else(name: str) -> None:
    found = support.scenario(name)
    pod = support.server_pod(found, "console")
    for service in ("retrieval", "federation", "compression"):
        other = support.server_pod(found, service)
        assert allowed(found, pod, "Egress", beside(other), 8081)
        assert allowed(found, other, "Ingress", beside(pod), 8081), "also where its clients are named"
    assert allowed(found, pod, "Egress", OUTSIDE, 443), "the provider"
    for port in (22, 5432, 6443):
        assert not allowed(found, pod, "Egress", OUTSIDE, port)
    assert not allowed(found, pod, "Egress", STRANGER, 8081)
    assert allowed(found, pod, "Ingress", GATEWAY, 8090)
    assert not allowed(found, pod, "Ingress", GATEWAY, 22)


def test_a_provider_of_the_cluster_is_reached_there_alone() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "login"}}}]
    values = merged(MINIMAL, {"networkPolicy": {"providerPeers": peers}, "s3": {"endpoint": "http://minio:9000"}})
    found = support.objects(support.render(CHARTS / "console", values))
    pod = support.server_pod(found, "console")
    assert allowed(found, pod, "Egress", in_namespace("login"), 443)
    assert not allowed(found, pod, "Egress", STRANGER, 443)
    assert not allowed(found, pod, "Egress", OUTSIDE, 443)


def test_named_clients_shut_strangers_out() -> None:
    found = support.scenario("minio")
    pod = support.server_pod(found, "console")
    assert not allowed(found, pod, "Ingress", STRANGER, 8090)
    assert allowed(found, pod, "Ingress", in_namespace("monitoring"), 8090), "metrics"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"settings": {"oidcIssuer": ""}}, "auth.anonymous=true"),
        ({"auth": {"anonymous": True}}, "set one of them"),
        ({"settings": {"publicUrl": ""}}, "settings.publicUrl"),
        ({"auth": {"sessionKey": {"existingSecret": ""}}}, "auth.sessionKey.existingSecret"),
        ({"tls": {"mode": "pod"}}, "tls.existingSecret"),
        ({"route": {"enabled": True}}, "route.parentRefs"),
        ({"ingress": {"enabled": True}}, "ingress.hosts"),
        ({"terminationGracePeriodSeconds": 5}, "answers would be cut off"),
        ({"autoscaling": {"type": "hpa", "minReplicas": 9}}, "minReplicas is above"),
        ({"settings": {"oidcIsuer": "https://x"}}, "did you mean settings.oidcIssuer"),
    ],
)
def test_contradictions_are_refused_by_the_chart_and_by_the_umbrella(values: dict[str, Any], words: str) -> None:
    wrong = merged(MINIMAL, values)
    with pytest.raises(HelmError, match=words):
        support.render(CHARTS / "console", wrong)
    del wrong["s3"]
    with pytest.raises(HelmError, match=words):
        support.render(UMBRELLA, merged(support.values_of("ceph"), {"console": {"enabled": True, **wrong}}))


def merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Values with others over them, as Helm merges them."""
    found = dict(values)
    for key, value in more.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found
