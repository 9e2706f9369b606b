"""Charts and services cannot drift: the environment that a chart makes is one that the service's settings take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eoforge.storage.addresses import storage_options
from scripts.chart_schema import FROM_CHART, camel, settings_class, settings_schema
from tests.charts import support
from tests.charts.support import CHARTS, SERVICES

PREFIX = "EOFORGE_"
NOT_SETTINGS = {"EOFORGE_SCRATCH"}
"""Read by eoforge itself, not by a service."""
EVERYTHING: dict[str, Any] = {
    "s3": {"bucket": "lake", "endpoint": "http://minio:9000"},
    "tls": {"mode": "pod", "existingSecret": "tls", "clientCaSecret": "ca"},
    "auth": {"tokens": {"existingSecret": "k", "audience": "a", "issuer": "i"}},
    "otel": {"endpoint": "http://otel:4317"},
}


ACROSS: dict[str, Any] = {
    "upstreams": [
        {"owner": "north", "address": "north.example:443", "publicAddress": "n.example:443", "tls": True}
        | {"caSecret": "ca", "clientCertSecret": "client", "tokenSecret": "token"}
        | {"deadlineSeconds": 1.5, "hedgeSeconds": 0.5, "attempts": 2, "maxAnswerBytes": 1048576, "maxCalls": 8}
        | {"skipAfter": 3, "skipSeconds": 12.5},
        {"owner": "west", "address": "west.example:8081"},
    ],
    "partners": [
        {"caller": "alice", "fields": "all", "filters": ["countries"], "maxHits": 50}
        | {"quotaPerSecond": 2.5, "quotaBurst": 5, "distanceStep": 4}
    ],
}
"""Every value about other owners."""


def module(service: str) -> str:
    """Where the settings of a service are."""
    return f"services.{service}.settings"


def examples(service: str) -> dict[str, Any]:
    """A value for each setting that values may carry: its default, or one of its type."""
    fields = settings_class(module(service)).model_fields
    named = {camel(name): field for name, field in fields.items()}
    by_type = {"string": "x", "integer": 3, "number": 2.5, "boolean": True}
    found = {}
    for name, schema in settings_schema(module(service))["properties"].items():
        default = named[name].get_default(call_default_factory=True)
        usable = isinstance(default, str | int | float | bool) and default != ""
        found[name] = default if usable else by_type[schema["type"]]
    return found


def environment(service: str, values: dict[str, Any]) -> dict[str, str]:
    """The ``EOFORGE_*`` environment of the service's container."""
    found = support.objects(support.render(CHARTS / service, values))
    env = support.env_of(support.server_pod(found, service).containers[-1])
    return {k: v for k, v in env.items() if k.startswith(PREFIX) and v is not None}


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_is_a_setting_and_every_setting_a_value(service: str) -> None:
    values = {**EVERYTHING, "settings": examples(service), "terminationGracePeriodSeconds": 600}
    if service == "federation":
        values["ports"] = {"silo": 8083}
    if service == "retrieval":
        values |= ACROSS
        values["settings"] = {**values["settings"], "owner": "south"}
    open_to_all = {**values, "auth": {"anonymous": True}, "tls": {"mode": "pod", "existingSecret": "tls"}, "ports": {}}
    open_to_all.pop("partners", None)
    made = environment(service, values).keys() | environment(service, open_to_all).keys()
    set_here = {name.removeprefix(PREFIX).lower() for name in made - NOT_SETTINGS}
    fields = set(settings_class(module(service)).model_fields)
    assert set_here == fields
    assert fields >= FROM_CHART - {"silo_port", "upstreams", "partners"}


@pytest.mark.parametrize("service", SERVICES)
def test_the_service_reads_what_the_chart_was_given(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = examples(service)
    values = {**EVERYTHING, "settings": given, "terminationGracePeriodSeconds": 600}
    for name, value in environment(service, values).items():
        monkeypatch.setenv(name, value)
    settings = settings_class(module(service))()
    settings.require_consistent()
    for name, field in {camel(n): n for n in type(settings).model_fields}.items():
        if name in given:
            value = getattr(settings, field)
            assert (str(value) if isinstance(value, Path) else value) == given[name], name
    assert (settings.port, settings.rest_port, settings.health_port) == (8081, 8080, 8082)
    assert str(settings.tls_client_ca_file) == "/etc/eoforge/client-ca/ca.crt"
    assert settings.otlp_endpoint == "http://otel:4317"


def test_every_value_about_other_owners_is_read_by_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    found = support.objects(
        support.render(CHARTS / "retrieval", {**EVERYTHING, **ACROSS, "settings": {"owner": "south"}})
    )
    pod = support.server_pod(found, "retrieval")
    mounts = {m["mountPath"]: m["name"] for m in pod.containers[-1]["volumeMounts"]}
    for name, value in support.env_of(pod.containers[-1]).items():
        if name.startswith(PREFIX) and value is not None:
            monkeypatch.setenv(name, value)
    settings = settings_class(module("retrieval"))()
    settings.require_consistent()
    (north, west), (alice,) = settings.upstreams, settings.partners
    files = {north.ca_file: "ca", north.cert_file: "client", north.key_file: "client", north.token_file: "token"}
    (volume,) = (v for v in pod.spec["volumes"] if v["name"] == mounts["/etc/eoforge/upstreams/0"])
    mounted = {
        Path("/etc/eoforge/upstreams/0") / item["path"]: source["secret"]["name"]
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    }
    assert mounted == files
    assert west.ca_file is None
    assert "/etc/eoforge/upstreams/1" not in mounts
    for given, read in ((ACROSS["upstreams"][0], north), (ACROSS["partners"][0], alice)):
        fields = {camel(name) for name in type(read).model_fields if not name.endswith("_file")}
        assert {key for key in given if not key.endswith("Secret")} == fields
    assert (north.deadline_seconds, north.max_answer_bytes, north.public_address) == (1.5, 1 << 20, "n.example:443")
    assert (alice.filters, alice.max_hits, alice.distance_step) == (("countries",), 50, 4)
    assert len(alice.fields) > 5


@pytest.mark.parametrize("name", support.SCENARIOS)
def test_the_services_accept_the_environment_of_every_scenario(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very check that a service does when it starts: nothing contradictory, and not exposed by accident."""
    found = support.scenario(name)
    checked = 0
    for service in SERVICES:
        if not support.enabled(name, service):
            continue
        env = support.env_of(support.server_pod(found, service).spec["containers"][0])
        with monkeypatch.context() as context:
            for key, value in env.items():
                if key.startswith(PREFIX) and value is not None:
                    context.setenv(key, value)
            settings = settings_class(module(service))()
            settings.require_consistent()
        assert settings.insecure is not (settings.tls and settings.authenticates), service
        checked += 1
    assert checked or name == "kubeflow-profile"


@pytest.mark.parametrize("service", SERVICES)
def test_files_that_settings_name_are_mounted(service: str) -> None:
    found = support.objects(support.render(CHARTS / service, {**EVERYTHING, "s3": {
        "bucket": "lake", "endpoint": "https://s3", "existingSecret": "keys", "caBundle": {"configMap": "ca"},
    }}))  # fmt: skip
    pod = support.server_pod(found, service)
    (container,) = pod.spec["containers"]
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod.spec["volumes"]}
    for key, value in support.env_of(container).items():
        if key.endswith("_FILE") or key in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "HOME", "EOFORGE_SCRATCH"):
            assert any(f"{value}/".startswith(f"{path}/") for path in mounts), f"{key}={value}"


def test_the_store_is_wired_as_the_store_code_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    container = support.server_pod(support.scenario("minio"), "retrieval").containers[0]
    secrets = {v["name"]: v["valueFrom"]["secretKeyRef"] for v in container["env"] if "valueFrom" in v}
    assert secrets == {
        key: {"name": "eoforge-s3", "key": key} for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }
    for key, value in support.env_of(container).items():
        if key.startswith("AWS_"):
            monkeypatch.setenv(key, value or "from-the-secret")
    assert storage_options("s3://lake/x") == {
        "aws_access_key_id": "from-the-secret",
        "aws_secret_access_key": "from-the-secret",
        "aws_region": "us-east-1",
        "aws_endpoint": "http://minio.minio.svc:9000",
        "allow_http": "true",
    }


@pytest.mark.parametrize("service", SERVICES)
def test_the_container_starts_a_module_that_is_there_and_the_test_calls_an_rpc_that_is(service: str) -> None:
    found = support.objects(support.render(CHARTS / service, EVERYTHING))
    command = support.server_pod(found, service).containers[0]["command"]
    assert command == ["python", "-m", f"services.{service}"]
    assert (support.ROOT / "services" / service / "settings.py").exists()
    generated = support.api_of(service)
    apis = {found.full_name for found in generated.DESCRIPTOR.services_by_name.values()}
    (asked,) = (
        a
        for a in support.pick(found, "Pod")["spec"]["containers"][0]["command"]
        if "/" in a and a.partition("/")[0] in apis
    )
    api, _, method = asked.partition("/")
    rpc = generated.DESCRIPTOR.services_by_name[api.rpartition(".")[2]].methods_by_name[method]
    assert not rpc.client_streaming
    assert not rpc.server_streaming
