"""What an operator adapts: users, containers, objects, registry, labels, ways in, and what a new version replaces."""

from __future__ import annotations

from typing import Any

import pytest

from tests.charts import schemas, support
from tests.charts.support import CHARTS, SCENARIOS, SERVICES, UMBRELLA

MINIMAL: dict[str, Any] = {"s3": {"bucket": "lake"}, "auth": {"anonymous": True}, "tls": {"existingSecret": "tls"}}


def rendered(chart: str = "retrieval", **values: Any) -> list[support.Object]:
    """Objects of one chart, all of which an API server would take."""
    found = support.objects(support.render(CHARTS / chart, {**MINIMAL, **values}))
    assert {support.label(o): wrong for o in found if (wrong := schemas.problems(o, schemas.KUBERNETES[-1]))} == {}
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_common_labels_are_on_every_object_and_in_no_selector(name: str) -> None:
    values = support.values_of(name)
    values["global"] = {**values.get("global", {}), "commonLabels": {"unit": "earth", "cost-centre": "1"}}
    values["extraManifests"] = []
    values["federation"] = {**values.get("federation", {}), "extraManifests": []}
    found = support.objects(support.render(UMBRELLA, values))
    assert [support.label(o) for o in found if o["metadata"]["labels"].get("unit") != "earth"] == []
    assert [pod.owner for pod in support.pods(found) if pod.labels.get("unit") != "earth"] == []
    for o in found:
        assert "'unit'" not in str(o["spec"].get("selector", "") if "spec" in o else ""), support.label(o)
        assert o["kind"] != "NetworkPolicy" or "'unit'" not in str(o["spec"])


def test_a_chart_wins_over_all_charts_and_a_pod_over_its_chart() -> None:
    own = rendered(
        commonLabels={"team": "own"}, podLabels={"team": "pod"}, **{"global": {"commonLabels": {"team": "all"}}}
    )
    assert {o["metadata"]["labels"]["team"] for o in own} == {"own"}
    assert support.server_pod(own, "retrieval").labels["team"] == "pod"


@pytest.mark.parametrize("name", SCENARIOS)
def test_on_openshift_no_pod_names_a_user(name: str) -> None:
    values = support.values_of(name)
    values["global"] = {**values.get("global", {}), "openshift": True}
    for pod in support.pods(support.objects(support.render(UMBRELLA, values))):
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & context.keys(), pod.owner


def test_security_contexts_are_values() -> None:
    found = rendered(
        podSecurityContext={"runAsUser": 1000680000, "supplementalGroups": [5]},
        containerSecurityContext={
            "readOnlyRootFilesystem": False,
            "capabilities": {"drop": ["ALL"], "add": ["SYS_NICE"]},
        },
    )
    for pod in support.pods(found):
        assert pod.spec["securityContext"]["runAsUser"] == 1000680000
        assert pod.spec["securityContext"]["runAsGroup"] == 10001
        assert pod.spec["securityContext"]["supplementalGroups"] == [5]
        for container in pod.containers:
            assert container["securityContext"]["readOnlyRootFilesystem"] is False
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["add"] == ["SYS_NICE"]


@pytest.mark.parametrize("kserve", [True, False])
@pytest.mark.parametrize("service", SERVICES)
def test_containers_of_ones_own_stand_beside_the_service(service: str, kserve: bool) -> None:
    one = {"name": "first", "image": "tools:1"}
    found = rendered(service, kserve={"enabled": kserve}, initContainers=[one], sidecars=[{**one, "name": "beside"}])
    spec = support.server_pod(found, service).spec
    assert [c["name"] for c in spec["initContainers"]] == ["first"]
    assert [c["name"] for c in spec["containers"]] == ["kserve-container" if kserve else "server", "beside"]


def test_the_registry_of_all_charts_holds_every_image() -> None:
    for name in SCENARIOS:
        values = support.values_of(name)
        values["global"] = {**values.get("global", {}), "imageRegistry": "mirror.example/eo"}
        values["global"].get("image", {}).pop("registry", None)
        for pod in support.pods(support.objects(support.render(UMBRELLA, values))):
            for container in pod.containers:
                image = container["image"]
                assert image.startswith(("mirror.example/eo/", "registry.example/")), image


@pytest.mark.parametrize("port", ["grpc", "rest"])
@pytest.mark.parametrize("service_type", ["ClusterIP", "NodePort", "LoadBalancer"])
def test_an_ingress_leads_to_a_port_of_a_service(port: str, service_type: str) -> None:
    found = rendered(
        ingress={"enabled": True, "hosts": ["a.example"], "tlsSecret": "a-tls", "port": port},
        service={"type": service_type},
    )
    ingress = support.pick(found, "Ingress")["spec"]
    (rule,) = ingress["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    service = support.pick(found, "Service", backend["name"])["spec"]
    assert backend["port"]["number"] in {p["port"] for p in service["ports"]}
    assert ingress["tls"] == [{"hosts": ["a.example"], "secretName": "a-tls"}]


def test_a_node_port_opens_grpc_alone() -> None:
    found = rendered(service={"type": "NodePort", "nodePort": 30081, "externalTrafficPolicy": "Cluster"})
    outside = support.pick(found, "Service", "eo-retrieval-api")["spec"]
    assert [(p["name"], p["nodePort"]) for p in outside["ports"]] == [("grpc", 30081)]
    assert outside["externalTrafficPolicy"] == "Cluster"
    assert support.pick(found, "Service", "eo-retrieval-rest")["spec"]["type"] == "ClusterIP"


def test_strategy_history_and_dns_are_values() -> None:
    plain = {"kserve": {"enabled": False}, "revisionHistoryLimit": 1, "dnsPolicy": "Default"}
    spec = support.pick(rendered(strategy={"type": "Recreate"}, **plain), "Deployment")["spec"]
    assert spec["strategy"] == {"type": "Recreate"}
    assert spec["revisionHistoryLimit"] == 1
    assert spec["template"]["spec"]["dnsPolicy"] == "Default"
    surge = {"rollingUpdate": {"maxSurge": "50%"}}
    spec = support.pick(rendered(strategy=surge, **plain), "Deployment")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "50%"}}
    predictor = support.pick(rendered(strategy={"type": "Recreate"}), "InferenceService")["spec"]["predictor"]
    assert predictor["deploymentStrategy"] == {"type": "Recreate"}


def test_objects_of_ones_own_are_rendered() -> None:
    own = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-own"}, "data": {"a": "1"}}
    for chart in (*SERVICES, "eoforge"):
        values = support.values_of("openshift") if chart == "eoforge" else MINIMAL
        found = support.objects(support.render(CHARTS / chart, {**values, "extraManifests": [own, own]}))
        assert [o for o in found if o["metadata"]["name"] == "eo-own"] == 2 * [{**own, "metadata": {"name": "eo-own"}}]
