"""Alerts and dashboards ask for series that the services make; each alert is explained to whoever it wakes."""

from __future__ import annotations

import importlib
import json
import re
from functools import cache

import prometheus_client
import pytest

from services._runtime.telemetry import SECONDS
from tests.charts import support
from tests.charts.support import ROOT, SERVICES

OF_THE_CLUSTER = {
    "up", "kube_pod_container_status_restarts_total", "certmanager_certificate_expiration_timestamp_seconds",
    "process_resident_memory_bytes",
}  # fmt: skip
FUNCTIONS = {
    "sum", "rate", "by", "le", "max", "min", "increase", "absent", "time", "histogram_quantile", "code",
    "method", "pod", "and", "or", "unless", "on", "ignoring",
}  # fmt: skip


def series(expression: str) -> set[str]:
    """Names of the series that a PromQL expression asks for."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", "", expression)
    return {name for name in re.findall(r"[a-zA-Z_:][\w:]*", bare) if name not in FUNCTIONS}


def rules(service: str) -> list[dict[str, str]]:
    """The alerts of one service."""
    name = f"eo-{service}"
    found = support.pick(support.scenario("minio"), "PrometheusRule", name)
    return [rule for group in found["spec"]["groups"] for rule in group["rules"]]


@cache
def made() -> set[str]:
    """Series that the services make: they register their metrics when they are imported."""
    for service in SERVICES:
        importlib.import_module(f"services.{service}.server")
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    families = (f for f in prometheus_client.REGISTRY.collect() if f.name.startswith("eoforge_"))
    return {f.name + suffix for f in families for suffix in suffixes.get(f.type, ("",))}


@pytest.mark.parametrize("service", SERVICES)
def test_alerts_and_panels_ask_for_series_that_exist(service: str) -> None:
    board = support.pick(support.scenario("minio"), "ConfigMap", f"eo-{service}-dashboard")
    (text,) = board["data"].values()
    panels = json.loads(text)["panels"]
    asked = [str(rule["expr"]) for rule in rules(service)] + [t["expr"] for p in panels for t in p["targets"]]
    assert len(asked) >= 8
    for expression in asked:
        assert series(expression), expression
        assert series(expression) <= made() | OF_THE_CLUSTER, expression
    assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}) == len(panels)


def service_of_kserve(o: support.Object) -> support.Object:
    """The Service that KServe makes for an InferenceService: with its labels, and all ports of the first container."""
    ports = support.predictor_pod(o).spec["containers"][0]["ports"]
    name = f"{o['metadata']['name']}-predictor"
    return {"metadata": {"name": name, "labels": o["metadata"]["labels"]}, "spec": {"ports": ports}}


@pytest.mark.parametrize("service", SERVICES)
def test_every_matcher_picks_this_release(service: str) -> None:
    monitor = support.pick(support.scenario("minio"), "ServiceMonitor", f"eo-{service}")
    found = support.scenario("minio")
    services = [o for o in found if o["kind"] == "Service"]
    services += [service_of_kserve(o) for o in found if o["kind"] == "InferenceService"]
    selected = [
        o for o in services
        if monitor["spec"]["selector"]["matchLabels"].items() <= o["metadata"]["labels"].items()
        and {p["name"] for p in o["spec"]["ports"]} & {e["port"] for e in monitor["spec"]["endpoints"]}
    ]  # fmt: skip
    assert len(selected) == 1, "the series would be counted twice, or not at all"
    job = selected[0]["metadata"]["name"]
    for rule in rules(service):
        for matchers in re.findall(r"(?:eoforge_\w+|up)\{([^}]*)\}", str(rule["expr"])):
            assert f'namespace="{support.NAMESPACE}"' in matchers
            assert f'job="{job}"' in matchers


@pytest.mark.parametrize("service", SERVICES)
def test_slow_calls_are_those_that_can_be_slow(service: str) -> None:
    """Streams of the federation last for hours by design; and a limit above the last bucket is never reached."""
    (slow,) = (str(r["expr"]) for r in rules(service) if str(r["alert"]).endswith("Slow"))
    left_out = re.findall(r'method!~"([^"]*)"', slow)
    generated = support.api_of(service)
    for api in generated.DESCRIPTOR.services_by_name.values():
        for rpc in api.methods:
            streams = rpc.client_streaming or rpc.server_streaming
            wanted = streams and service == "federation"
            path = f"/{api.full_name}/{rpc.name}"
            assert any(re.fullmatch(pattern, path) for pattern in left_out) is wanted, path
    schema = json.loads((support.CHARTS / service / "values.schema.json").read_text())["properties"]["metrics"]
    limit = schema["properties"]["prometheusRule"]["properties"]["slowSeconds"]
    assert limit["exclusiveMaximum"] == SECONDS._kwargs["buckets"][-1]


def test_an_index_that_is_looked_at_seldom_is_reported_too() -> None:
    values = support.values_of("ceph")
    values["retrieval"] |= {"metrics": {"prometheusRule": {"enabled": True}}}
    for poll, window in ((30, 1800), (600, 2400), (3600, 14400)):
        values["retrieval"]["settings"]["pollSeconds"] = poll
        found = support.pick(support.objects(support.render(support.UMBRELLA, values)), "PrometheusRule")
        (rule,) = (r for r in found["spec"]["groups"][0]["rules"] if r["alert"] == "EoforgeRetrievalIndexRefused")
        assert f"[{window}s]) > 2" in rule["expr"], "three refusals in a row must fit"


def test_a_run_that_just_began_is_not_stalled() -> None:
    """`unless a round in six hours` holds in the first minute of a run too: it is the waiting that must be long."""
    (stalled,) = (r for r in rules("federation") if r["alert"] == "EoforgeFederationStalled")
    assert stalled["for"] == "6h"
    assert "[10m]" in stalled["expr"]


def test_the_scrape_of_a_pod_that_ends_tls_verifies_it() -> None:
    monitor = support.pick(support.scenario("minio"), "ServiceMonitor", "eo-federation")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["serverName"] == "eo-federation-api"
    assert endpoint["tlsConfig"]["cert"]["secret"]["name"] == "prometheus-client"
    assert "insecureSkipVerify" not in endpoint["tlsConfig"]


@pytest.mark.parametrize("service", SERVICES)
def test_every_alert_is_explained(service: str) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    headings = {h.strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", page, flags=re.M)}
    for name in ("minio", "plain"):
        for found in (o for o in support.scenario(name) if o["kind"] == "PrometheusRule"):
            for rule in found["spec"]["groups"][0]["rules"]:
                path, _, anchor = rule["annotations"]["runbook"].partition("#")
                assert path == "docs/operations.md"
                assert anchor in headings, rule["alert"]
                assert rule["labels"]["severity"] in ("critical", "warning")
                assert rule["annotations"]["summary"].endswith(".")
    assert {rule["alert"] for rule in rules(service)} == {a for a in set(re.findall(r"`(Eoforge\w+)`", page))
        if a.startswith(f"Eoforge{service.title()}")} - {f"Eoforge{service.title()}CertificateExpires"}  # fmt: skip


def test_an_unknown_series_is_noticed() -> None:
    assert series('sum(rate(eoforge_requests_totl{job="x"}[5m])) by (code) > 0') == {"eoforge_requests_totl"}
    assert "eoforge_request_seconds_bucket" in made()
    assert "eoforge_index_version" in made()
