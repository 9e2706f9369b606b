"""Network policies against the ports that the pods really have and the addresses that they are really given."""

from __future__ import annotations

import copy

import pytest

from tests.charts import policies, support
from tests.charts.policies import OUTSIDE, Place, allowed, beside, in_namespace

PAIRS = [
    (name, service) for name in support.SCENARIOS for service in support.SERVICES if support.enabled(name, service)
]
PROMETHEUS = in_namespace("monitoring")
GATEWAY = in_namespace("gateways")
STRANGER = in_namespace("somewhere-else")


def ports_of(pod: support.Pod) -> dict[str, int]:
    """Container ports by name, and the health port, which is not listed; the gRPC port is called grpc or tls."""
    container = pod.spec["containers"][0]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert "health" not in named, "KServe's Service would open it"
    named["health"] = int(support.env_of(container)["EOFORGE_HEALTH_PORT"] or 0)
    return {"grpc" if name == "tls" else name: number for name, number in named.items()}


@pytest.mark.parametrize(("name", "service"), PAIRS)
def test_a_service_reaches_what_it_is_told_to_reach(name: str, service: str) -> None:
    found = support.scenario(name)
    pod = support.server_pod(found, service)
    assert any(what == "store" for what, *_ in policies.needs(pod))
    assert policies.unreachable(found, pod) == []


@pytest.mark.parametrize(("name", "service"), PAIRS)
def test_a_service_reaches_nothing_else(name: str, service: str) -> None:
    found = support.scenario(name)
    pod = support.server_pod(found, service)
    for port in (22, 25, 5432, 6443):
        assert not allowed(found, pod, "Egress", OUTSIDE, port)
        assert not allowed(found, pod, "Egress", STRANGER, port)
    assert not allowed(found, pod, "Egress", STRANGER, policies.DNS, "UDP")


@pytest.mark.parametrize(("name", "service"), PAIRS)
def test_who_may_come_in(name: str, service: str) -> None:
    found = support.scenario(name)
    pod = support.server_pod(found, service)
    ports = ports_of(pod)
    assert allowed(found, pod, "Ingress", GATEWAY, ports["grpc"])
    assert allowed(found, pod, "Ingress", PROMETHEUS, ports["rest"])
    for place in (STRANGER, GATEWAY, OUTSIDE):
        assert not allowed(found, pod, "Ingress", place, ports["rest"])
        assert not allowed(found, pod, "Ingress", place, ports["health"])
    assert not allowed(found, pod, "Ingress", PROMETHEUS, ports["health"])
    for port in (22, 9999):
        assert not allowed(found, pod, "Ingress", GATEWAY, port)


def test_other_owners_are_reached_and_counted_among_the_needs() -> None:
    found = copy.deepcopy(support.scenario("across"))
    pod = support.server_pod(found, "retrieval")
    assert {(what, port) for what, _, port, _ in policies.needs(pod)} >= {("north", 443), ("west", 8081)}
    (policy,) = (o for o in found if o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == "eo-retrieval")
    policy["spec"]["egress"] = [e for e in policy["spec"]["egress"] if 8081 not in [p["port"] for p in e["ports"]]]
    assert policies.unreachable(found, pod) == ["north:443/TCP", "west:8081/TCP"]


def test_other_owners_may_be_limited_to_their_addresses() -> None:
    values = support.values_of("across")
    block = {"ipBlock": {"cidr": "192.0.2.0/24"}}
    values["retrieval"]["networkPolicy"] = {"upstreamPeers": [block]}
    found = support.objects(support.render(support.UMBRELLA, values))
    policy = support.pick(found, "NetworkPolicy", "eo-retrieval")["spec"]
    rules = [rule for rule in policy["egress"] if {p["port"] for p in rule["ports"]} == {443, 8081}]
    assert [rule["to"] for rule in rules] == [[block]]
    assert policies.unreachable(found, support.server_pod(found, "retrieval")) == []
    assert not allowed(found, support.server_pod(found, "retrieval"), "Egress", STRANGER, 8081)
    open_to_all = support.server_pod(support.scenario("across"), "retrieval")
    assert allowed(support.scenario("across"), open_to_all, "Egress", STRANGER, 8081)


def test_named_clients_shut_everyone_else_out() -> None:
    found = support.scenario("minio")
    pod = support.server_pod(found, "retrieval")
    assert not allowed(found, pod, "Ingress", STRANGER, 8081)
    assert not allowed(found, pod, "Ingress", OUTSIDE, 8081)
    other = support.server_pod(found, "compression")
    assert allowed(found, other, "Ingress", STRANGER, 8081)


def test_no_metrics_peers_is_nobody_and_not_everybody() -> None:
    """An empty `from` of a NetworkPolicy lets in whoever comes."""
    values = support.values_of("ceph")
    for others, who in (([], False), (support.values_of("minio")["retrieval"]["networkPolicy"]["clientPeers"], True)):
        values["retrieval"]["networkPolicy"] = {"metricsPeers": [], "restPeers": others}
        found = support.objects(support.render(support.UMBRELLA, values))
        pod = support.server_pod(found, "retrieval")
        assert not allowed(found, pod, "Ingress", PROMETHEUS, 8080)
        assert not allowed(found, pod, "Ingress", OUTSIDE, 8080)
        assert allowed(found, pod, "Ingress", GATEWAY, 8080) is who


def test_a_load_balancer_lets_silos_in_from_outside() -> None:
    found = support.scenario("plain")
    pod = support.server_pod(found, "federation")
    assert ports_of(pod)["tls-silo"] == 8083
    assert allowed(found, pod, "Ingress", OUTSIDE, 8083)
    assert allowed(found, pod, "Ingress", OUTSIDE, 8081)


@pytest.mark.parametrize(("name", "service"), PAIRS)
def test_the_helm_test_gets_through(name: str, service: str) -> None:
    found = support.scenario(name)
    server = support.server_pod(found, service)
    (test,) = (
        p
        for p in support.pods(found)
        if p.labels.get("app.kubernetes.io/name") == service and p.labels["app.kubernetes.io/component"] == "test"
    )
    port = ports_of(server)["grpc"]
    assert allowed(found, test, "Egress", beside(server), port)
    assert allowed(found, server, "Ingress", beside(test), port)
    assert not allowed(found, test, "Egress", OUTSIDE, 443)


@pytest.mark.parametrize("name", ["minio", "plain", "gpu-aws", "ceph"])
def test_the_doctor_reaches_the_store_and_nobody_reaches_it(name: str) -> None:
    found = support.scenario(name)
    (pod,) = (p for p in support.pods(found) if p.labels.get("app.kubernetes.io/component") == "doctor")
    assert policies.unreachable(found, pod) == []
    assert not allowed(found, pod, "Ingress", beside(pod), 8081)


@pytest.mark.parametrize("name", ["dev", "dev-minio"])
def test_the_development_store_is_reached_by_the_services_and_reaches_nothing(name: str) -> None:
    found = support.scenario(name)
    (store,) = (p for p in support.pods(found) if p.owner == "StatefulSet/eo-dev-s3")
    server = support.server_pod(found, "retrieval")
    assert allowed(found, server, "Egress", beside(store), 8333)
    assert allowed(found, store, "Ingress", beside(server), 8333)
    assert not allowed(found, store, "Ingress", beside(server), 9333)
    assert not allowed(found, store, "Egress", OUTSIDE, 443)


@pytest.mark.parametrize("what", ["names", "store", "traces"])
def test_a_missing_egress_rule_is_noticed(what: str) -> None:
    found = copy.deepcopy(support.scenario("minio"))
    pod = support.server_pod(found, "retrieval")
    ports = {port for need, _, port, _ in policies.needs(pod) if need == what}
    policy = support.pick(found, "NetworkPolicy", "eo-retrieval")["spec"]
    policy["egress"] = [rule for rule in policy["egress"] if not ports & {p["port"] for p in rule["ports"]}]
    assert {problem.partition(":")[0] for problem in policies.unreachable(found, pod)} == {what}


def test_every_pod_of_a_service_is_under_a_policy() -> None:
    """An empty place: nothing matches it, so only a pod that no policy selects would let it in."""
    nowhere = Place({}, {"kubernetes.io/metadata.name": "nowhere"})
    for name in support.SCENARIOS:
        found = support.scenario(name)
        for pod in support.pods(found):
            if pod.labels.get("app.kubernetes.io/name") in (*support.SERVICES, "dev"):
                assert not allowed(found, pod, "Ingress", nowhere, 1), pod.owner
                assert not allowed(found, pod, "Egress", nowhere, 1), pod.owner


@pytest.mark.parametrize(("name", "service"), PAIRS)
def test_services_routes_and_probes_meet_ports_that_exist(name: str, service: str) -> None:
    found = support.scenario(name)
    pod = support.server_pod(found, service)
    ports = ports_of(pod)
    env = support.env_of(pod.spec["containers"][0])
    real = {"grpc": "EOFORGE_PORT", "rest": "EOFORGE_REST_PORT", "health": "EOFORGE_HEALTH_PORT"}
    assert {key: ports[key] for key in real} == {key: int(env[variable] or 0) for key, variable in real.items()}
    assert ports.get("tls-silo") == (int(env["EOFORGE_SILO_PORT"] or 0) if "EOFORGE_SILO_PORT" in env else None)
    opened = set()
    for o in found:
        if o["kind"] == "Service" and o["spec"]["selector"].items() <= pod.labels.items():
            opened |= {(o["metadata"]["name"], p["port"]) for p in o["spec"]["ports"]}
            assert {p["targetPort"] for p in o["spec"]["ports"]} <= set(ports.values())
    assert {port for _, port in opened} == set(ports.values()) - {ports["health"]}
    for o in found:
        if o["kind"] in ("GRPCRoute", "TLSRoute") and o["metadata"]["name"].endswith(service):
            assert {(b["name"], b["port"]) for rule in o["spec"]["rules"] for b in rule["backendRefs"]} <= opened
    container = pod.spec["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == ports["health"]
        # A pod that waits for its first index lives and gets no calls; a standby coordinator tells silos where to go.
        api = f"eoforge.api.{service}.v1.{service.capitalize()}Service"
        waits = probe == "readinessProbe" and service in ("retrieval", "compression")
        assert container[probe]["grpc"].get("service", "") == (api if waits else "")


@pytest.mark.parametrize(("name", "service"), PAIRS)
def test_plaintext_is_announced_as_h2c_and_tls_never_is(name: str, service: str) -> None:
    """KServe reads the protocol from the port's name, everyone else from appProtocol."""
    found = support.scenario(name)
    container = support.server_pod(found, service).spec["containers"][0]
    tls = "EOFORGE_TLS_CERT_FILE" in support.env_of(container)
    first = container["ports"][0]["name"]
    assert ("grpc" in first or "h2c" in first) is not tls
    (api,) = (o for o in found if o["kind"] == "Service" and o["metadata"]["name"].endswith("-api")
              and o["spec"]["selector"]["app.kubernetes.io/name"] == service)  # fmt: skip
    assert api["spec"]["ports"][0]["appProtocol"] == ("https" if tls else "kubernetes.io/h2c")


@pytest.mark.parametrize("service", support.SERVICES)
def test_services_may_share_a_host_name_of_a_gateway(service: str) -> None:
    """The typed API has the more exact match; what all services have falls to whichever route is older."""
    values = {"s3": {"bucket": "lake"}, "auth": {"anonymous": True}, "route": {"enabled": True}}
    values["route"] |= {"parentRefs": [{"name": "public"}]}
    values |= {"tls": {"mode": "none"}} if service == "federation" else {}
    found = support.objects(support.render(support.CHARTS / service, values))
    exact, rest = support.pick(found, "GRPCRoute")["spec"]["rules"]
    assert exact["backendRefs"] == rest["backendRefs"]
    assert "matches" not in rest
    generated = support.api_of(service)
    apis = {s.full_name for s in generated.DESCRIPTOR.services_by_name.values()}
    assert {match["method"]["service"] for match in exact["matches"]} == apis
