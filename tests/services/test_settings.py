"""Settings from the environment: unknown names and numbers out of range are refused by name before a service starts."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.errors import UsageError
from eoforge.nn.build import choose_device
from scripts.chart_schema import settings_class
from services import process
from services._runtime.settings import RuntimeSettings
from services._runtime.telemetry import configure_traces
from tests.services._runtime.failing_service import get, make
from tests.services.support import running

SERVICES = ("retrieval", "compression", "prediction", "federation")
REQUIRED = {"codes_uri": "codes.lance", "federation_uri": "federation", "bundle_uris": "predictor"}


def of(service: str) -> type[RuntimeSettings]:
    found: type[RuntimeSettings] = settings_class(f"services.{service}.settings")
    return found


def bounds(settings: type[RuntimeSettings]) -> dict[str, float | None]:
    """Largest value of each setting that is a number; None where nothing bounds it."""
    found = {}
    for name, schema in settings.model_json_schema()["properties"].items():
        for kind in schema.get("anyOf", [schema]):
            if kind.get("type") in ("integer", "number"):
                found[name] = kind.get("maximum")
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_every_number_has_an_upper_bound_and_is_refused_beyond_it(service: str) -> None:
    settings = of(service)
    largest = bounds(settings)
    assert len(largest) > 20
    assert [name for name, bound in largest.items() if bound is None] == []
    for name in largest:
        with pytest.raises(UsageError, match=f"EOFORGE_{name.upper()}"):
            settings(**REQUIRED, **{name: 2**64})


@pytest.mark.parametrize("service", [*SERVICES, "console"])
def test_nonsense_is_taken_or_refused_in_few_words_that_show_no_password(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = of(service)
    for name in settings.model_fields:
        for nonsense in ("", "1e999", "x" * 100_000, "[" * 100_000, "http://me:SECRET@[x", "s3://me:SECRET@b/x"):
            with monkeypatch.context() as patch:
                for key, value in (REQUIRED | {name: nonsense}).items():
                    patch.setenv(f"EOFORGE_{key.upper()}", value)
                try:
                    settings().require_consistent()
                except UsageError as error:
                    said = str(error)
                    assert "SECRET" not in said, name
                    assert len(said) < 3000, name


def test_a_device_that_torch_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="expected a device of torch, such as cpu or cuda:0; got 'nonsense'"):
        choose_device("nonsense")


def test_a_service_runs_with_every_number_at_its_bound() -> None:
    largest = {name: bound for name, bound in bounds(RuntimeSettings).items() if not name.endswith("port")}
    largest["drain_notice_seconds"] = largest["drain_seconds"] = 0
    with running(lambda: make(**largest)) as run, grpc.insecure_channel(run.target) as channel:
        stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        assert get(stub, "hello").patch.patch_id == "hello"


@pytest.mark.parametrize("service", SERVICES)
def test_unknown_variables_are_all_named_with_the_nearest_that_there_is(service: str) -> None:
    environment = {"EOFORGE_MAX_CALL": "3", "EOFORGE_TLS_CERTFILE": "x", "EOFORGE_ZZZ": "1", "HOME": "/"}
    with pytest.raises(UsageError) as refused:
        process.require_known_variables(of(service), environment)
    words = str(refused.value)
    assert "EOFORGE_MAX_CALL (did you mean EOFORGE_MAX_CALLS?)" in words
    assert "EOFORGE_TLS_CERTFILE (did you mean EOFORGE_TLS_CERT_FILE?)" in words
    assert "EOFORGE_ZZZ;" in words


@pytest.mark.parametrize("service", SERVICES)
def test_settings_and_other_variables_of_eoforge_are_no_strangers(service: str) -> None:
    known = {f"EOFORGE_{name.upper()}" for name in of(service).model_fields}
    linked = {
        f"EOFORGE_{service.upper()}_API_{end}": "1"
        for end in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_8081_TCP", "PORT_8081_TCP_ADDR")
    }
    process.require_known_variables(of(service), dict.fromkeys(known | process.OTHER_VARIABLES, "") | linked)
    with pytest.raises(UsageError, match="EOFORGE_OTHER_PORT"):
        process.require_known_variables(of(service), linked | {"EOFORGE_OTHER_PORT": "1"})


def test_a_misspelt_variable_ends_a_service_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EOFORGE_INSECUR", "true")
    with pytest.raises(SystemExit) as ended:
        process.main(RuntimeSettings, "services.no_such_module")
    assert ended.value.code == UsageError.exit_code
    assert "EOFORGE_INSECUR (did you mean EOFORGE_INSECURE?)" in capsys.readouterr().err


class TestOpenTelemetry:
    @pytest.fixture
    def given(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Providers that were set up."""
        from opentelemetry import trace

        found: list[Any] = []
        monkeypatch.setattr(trace, "set_tracer_provider", found.append)
        return found

    def test_its_variables_count(self, given: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=trial")
        configure_traces(RuntimeSettings(), "retrieval")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "search")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
        configure_traces(RuntimeSettings(), "retrieval")
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
        configure_traces(RuntimeSettings(), "retrieval")
        first, second = given
        assert first.resource.attributes["service.name"] == "eoforge-retrieval"
        assert first.resource.attributes["deployment.environment"] == "trial"
        assert second.resource.attributes["service.name"] == "search"
        assert second.sampler.get_description() == "AlwaysOffSampler"
        for provider in given:
            provider.shutdown()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ],
    )
    def test_what_it_asks_for_and_is_not_here_is_refused(
        self, name: str, value: str, given: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
        monkeypatch.setenv(name, value)
        with pytest.raises(UsageError, match="OTEL_"):
            configure_traces(RuntimeSettings(), "retrieval")
        assert given == []
