"""The runtime that every service shares, around a servicer that fails on demand."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from kserve import Model

from eoforge import errors as library_errors
from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.client import RemoteError, RetrievalClient
from eoforge.errors import EoforgeError, UsageError
from services._runtime import errors as service_errors
from services._runtime.errors import CATALOGUE, Retriable
from services._runtime.quota import Quota
from services._runtime.server import Server, Service
from services._runtime.settings import RuntimeSettings
from services._runtime.telemetry import configure_traces
from tests.services.support import Pki, Running, Signer, details, make_pki, running

NAME = "eoforge.api.retrieval.v1.RetrievalService"
SECRET = "s3://bucket/secret-path"


def _error_types() -> dict[str, type[EoforgeError]]:
    found = {}
    for module in (library_errors, service_errors):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, EoforgeError):
                found[value.reason] = value
    return found


ERROR_TYPES = _error_types()


class OnDemand(retrieval_pb2_grpc.RetrievalServiceServicer):
    """GetPatch obeys its patch id: ``fail:REASON``, ``crash``, ``sleep:SECONDS``, anything else is echoed."""

    def __init__(self) -> None:
        self.finished: list[str] = []
        self.cancelled: list[str] = []

    async def GetPatch(self, request: pb.GetPatchRequest, context: Any) -> pb.GetPatchResponse:
        order, _, value = request.patch_id.partition(":")
        if order == "fail":
            kind = ERROR_TYPES[value]
            raise kind(f"about {SECRET}", 1.5) if issubclass(kind, Retriable) else kind(f"about {SECRET}")
        if order == "crash":
            raise ZeroDivisionError(SECRET)
        if order == "sleep":
            try:
                await asyncio.sleep(float(value))
            except asyncio.CancelledError:
                self.cancelled.append(value)
                raise
        self.finished.append(request.patch_id)
        return pb.GetPatchResponse(patch=pb.PatchMetadata(patch_id=request.patch_id))

    async def SearchStream(
        self, requests: AsyncIterator[pb.SearchStreamRequest], context: Any
    ) -> AsyncIterator[pb.SearchStreamResponse]:
        async for request in requests:
            yield pb.SearchStreamResponse(correlation_id=request.correlation_id)


class Echo(Model):
    """The least model that KServe takes."""

    def __init__(self) -> None:
        super().__init__("echo")
        self.ready = True


async def _nothing() -> None:
    return None


def make(**values: Any) -> Server:
    defaults: dict[str, Any] = {"port": 0, "rest_port": 0, "drain_notice_seconds": 0.0, "drain_seconds": 5.0}
    servicer = OnDemand()
    service = Service(
        name=NAME,
        register=lambda server: retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(servicer, server),
        models=[Echo()],
        start=_nothing,
        stop=_nothing,
    )
    server = Server(RuntimeSettings(**(defaults | values)), service)
    server.servicer = servicer  # type: ignore[attr-defined]  # for the test to look into
    return server


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(make) as run:
        yield run


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield retrieval_pb2_grpc.RetrievalServiceStub(channel)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


def get(stub: Any, patch_id: str, **options: Any) -> pb.GetPatchResponse:
    return stub.GetPatch(pb.GetPatchRequest(patch_id=patch_id), **({"timeout": 10} | options))


def test_every_reason_of_the_library_is_in_the_catalogue() -> None:
    assert set(ERROR_TYPES) == set(CATALOGUE)


@pytest.mark.parametrize("reason", sorted(CATALOGUE))
def test_every_declared_error_arrives_with_its_status_and_reason(stub: Any, reason: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        get(stub, f"fail:{reason}", metadata=(("x-request-id", "mine-1"),))
    found = details(caught.value)
    assert caught.value.code() is CATALOGUE[reason].status
    assert (found["reason"], found["domain"], found["request_id"]) == (reason, "eoforge", "mine-1")
    assert (SECRET in caught.value.details()) == (CATALOGUE[reason].fixed is None)
    assert found.get("retry_after") == (1.5 if issubclass(ERROR_TYPES[reason], Retriable) else None)


def test_a_bug_of_ours_says_nothing_but_the_request_id(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        get(stub, "crash", metadata=(("x-request-id", "mine-2"),))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert SECRET not in caught.value.details()
    assert "ZeroDivision" not in caught.value.details()
    assert "mine-2" in caught.value.details()


def test_a_request_id_that_could_forge_log_lines_is_replaced(stub: Any) -> None:
    _, call = stub.GetPatch.with_call(
        pb.GetPatchRequest(patch_id="x"), timeout=10, metadata=(("x-request-id", "a b{}"),)
    )
    returned = dict(call.trailing_metadata())["x-request-id"]
    assert len(returned) == 32
    assert returned != "a b{}"


def test_a_deadline_ends_the_work_on_the_server(server: Running, stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        get(stub, "sleep:7", timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    _until(lambda: "7" in server.server.servicer.cancelled)  # type: ignore[attr-defined]


def test_a_cancelled_call_ends_the_work_on_the_server(server: Running, stub: Any) -> None:
    call = stub.GetPatch.future(pb.GetPatchRequest(patch_id="sleep:8"), timeout=10)
    time.sleep(0.2)
    call.cancel()
    _until(lambda: "8" in server.server.servicer.cancelled)  # type: ignore[attr-defined]


def test_the_server_bounds_calls_without_deadline() -> None:
    with running(lambda: make(max_call_seconds=0.2)) as run, grpc.insecure_channel(run.target) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            get(retrieval_pb2_grpc.RetrievalServiceStub(channel), "sleep:9", timeout=None)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert details(caught.value)["reason"] == "DEADLINE_EXCEEDED"


def test_a_message_above_the_limit_is_refused() -> None:
    with running(lambda: make(max_message_bytes=4096)) as run, grpc.insecure_channel(run.target) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            get(retrieval_pb2_grpc.RetrievalServiceStub(channel), "x" * 5000)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        response = httpx.post(f"{run.rest}/v2/models/echo/infer", content=b"x" * 5000)
        assert response.status_code == 413
        assert response.json()["reason"] == "LIMIT_EXCEEDED"


def test_health_reflection_and_unknown_methods(server: Running) -> None:
    with grpc.insecure_channel(server.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", NAME, "inference.GRPCInferenceService"):
            status = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answer = next(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=10))
        names = {s.name for s in answer.list_services_response.service}
        assert {NAME, "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names
        with pytest.raises(grpc.RpcError) as caught:
            retrieval_pb2_grpc.RetrievalServiceStub(channel).ListIndexes(pb.ListIndexesRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_reflection_can_be_turned_off() -> None:
    with running(lambda: make(reflection=False)) as run, grpc.insecure_channel(run.target) as channel:
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        with pytest.raises(grpc.RpcError) as caught:
            next(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=10))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_rest_has_metrics_and_readiness_but_nobody_unloads_the_model(server: Running, stub: Any) -> None:
    get(stub, "counted")
    text = httpx.get(f"{server.rest}/metrics").text
    assert f'eoforge_requests_total{{code="OK",method="/{NAME}/GetPatch"}}' in text
    assert httpx.get(f"{server.rest}/v2/health/ready").json() == {"ready": True}
    assert httpx.post(f"{server.rest}/v2/repository/models/echo/unload").status_code == 501
    assert httpx.get(f"{server.rest}/v2/models/none").json()["reason"] == "NOT_FOUND"


class TestTokens:
    @pytest.fixture(scope="class")
    def signer(self, tmp_path_factory: pytest.TempPathFactory) -> Signer:
        return Signer(tmp_path_factory.mktemp("token"))

    @pytest.fixture(scope="class")
    def guarded(self, signer: Signer) -> Iterator[Running]:
        with running(lambda: make(**signer.settings)) as run:
            yield run

    def test_a_good_token_passes(self, guarded: Running, signer: Signer) -> None:
        with RetrievalClient(guarded.target, token=signer.token()) as client:
            assert client.get_patch("x").info.patch_id == "x"
        header = {"authorization": f"Bearer {signer.token()}"}
        assert httpx.get(f"{guarded.rest}/v2/models", headers=header).status_code == 200

    def test_whatever_does_not_hold_is_refused(self, guarded: Running, signer: Signer, tmp_path: Path) -> None:
        past = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
        other = Signer(tmp_path)
        bad = {
            "none": None,
            "expired": signer.token(exp=past),
            "never expires": signer.token(exp=None),
            "other audience": signer.token(aud="someone else"),
            "other issuer": signer.token(iss="https://evil.test"),
            "no subject": signer.token(sub=None),
            "other key": other.token(),
            # The public key as an HMAC secret: the classic confusion of algorithms.
            "HS256 with the public key": _hs256(signer),
            "unsigned": jwt.encode({"sub": "alice", "aud": "eoforge"}, None, algorithm="none"),
            "garbage": "a.b.c",
        }
        for why, token in bad.items():
            with (
                RetrievalClient(guarded.target, token=token, attempts=1) as client,
                pytest.raises(RemoteError) as caught,
            ):
                client.get_patch("x")
            assert caught.value.code == "UNAUTHENTICATED", why
            assert caught.value.remote_reason == "UNAUTHENTICATED", why
        assert httpx.get(f"{guarded.rest}/v2/models").status_code == 401

    def test_health_needs_no_token(self, guarded: Running) -> None:
        with grpc.insecure_channel(guarded.target) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    def test_a_rotated_key_counts_at_once(self, tmp_path: Path) -> None:
        old = Signer(tmp_path)
        with running(lambda: make(**old.settings)) as run:
            new = Signer(tmp_path)  # writes its public key over the old one
            with RetrievalClient(run.target, token=new.token()) as client:
                client.get_patch("x")
            with RetrievalClient(run.target, token=old.token()) as client, pytest.raises(RemoteError):
                client.get_patch("x")

    def test_hs256_secrets_must_be_long(self, tmp_path: Path) -> None:
        (tmp_path / "short").write_text("secret")
        values = {"token_algorithm": "HS256", "token_audience": "a", "token_issuer": "b"}
        with (
            pytest.raises(UsageError, match="32 bytes"),
            running(lambda: make(token_key_file=tmp_path / "short", **values)),
        ):
            pass


def _hs256(signer: Signer) -> str:
    import base64
    import hashlib
    import hmac
    import json

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    claims = jwt.decode(signer.token(), options={"verify_signature": False})
    body = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()) + "." + part(json.dumps(claims).encode())
    return body + "." + part(hmac.new(signer.public_pem, body.encode(), hashlib.sha256).digest())


class TestTls:
    def test_tls_and_the_plaintext_health_port(self, pki: Pki) -> None:
        files = {"tls_cert_file": pki.path("server.pem"), "tls_key_file": pki.path("server.key"), "health_port": 0}
        with running(lambda: make(**files)) as run:
            with RetrievalClient(run.target, ca_file=str(pki.path("ca.pem"))) as client:
                assert client.get_patch("x").info.patch_id == "x"
            with RetrievalClient(run.target, attempts=1) as client, pytest.raises(RemoteError):
                client.get_patch("x")
            assert httpx.get(f"{run.rest}/v2/health/live", verify=str(pki.path("ca.pem"))).status_code == 200
            with grpc.insecure_channel(f"127.0.0.1:{run.server.health_port}") as channel:
                health = health_pb2_grpc.HealthStub(channel)
                request = health_pb2.HealthCheckRequest(service=NAME)
                assert health.Check(request, timeout=10).status == health_pb2.HealthCheckResponse.SERVING
                with pytest.raises(grpc.RpcError) as caught:
                    get(retrieval_pb2_grpc.RetrievalServiceStub(channel), "x")
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    def test_mutual_tls_names_the_caller_and_counts_its_quota(self, pki: Pki) -> None:
        files = {
            "tls_cert_file": pki.path("server.pem"),
            "tls_key_file": pki.path("server.key"),
            "tls_client_ca_file": pki.path("ca.pem"),
        }
        ca = str(pki.path("ca.pem"))
        with running(lambda: make(**files, quota_per_second=0.01, quota_burst=1)) as run:
            own = {"cert_file": str(pki.path("client.pem")), "key_file": str(pki.path("client.key"))}
            with RetrievalClient(run.target, ca_file=ca, attempts=1, **own) as client:
                client.get_patch("x")
                with pytest.raises(RemoteError, match=r"berlin\.silo") as caught:
                    client.get_patch("x")
                assert caught.value.remote_reason == "QUOTA_EXCEEDED"
            stranger = {"cert_file": str(pki.path("stranger.pem")), "key_file": str(pki.path("stranger.key"))}
            for files_ in ({}, stranger):
                with (
                    RetrievalClient(run.target, ca_file=ca, attempts=1, timeout=5, **files_) as client,
                    pytest.raises(RemoteError) as caught,
                ):
                    client.get_patch("x")
                assert caught.value.code == "UNAVAILABLE"

    def test_a_token_never_travels_in_the_clear(self) -> None:
        with pytest.raises(UsageError, match="in the clear"):
            RetrievalClient("example.org:8081", token="t", tls=False)


class TestExposure:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
    def test_other_addresses_need_tls_and_authentication(self, host: str, pki: Pki, tmp_path: Path) -> None:
        tls = {"tls_cert_file": pki.path("server.pem"), "tls_key_file": pki.path("server.key")}
        signer = Signer(tmp_path)
        for values, missing in (
            ({}, "without TLS"),
            (tls, "without authentication"),
            (signer.settings, "without TLS"),
        ):
            with pytest.raises(UsageError, match=missing):
                RuntimeSettings(host=host, **values).require_consistent()
        RuntimeSettings(host=host, **tls, **signer.settings).require_consistent()
        RuntimeSettings(host=host, **tls, tls_client_ca_file=pki.path("ca.pem")).require_consistent()
        RuntimeSettings(host=host, insecure=True).require_consistent()

    def test_a_server_does_not_start_exposed(self) -> None:
        with (
            pytest.raises(UsageError, match="refusing to listen"),
            running(lambda: make(host="0.0.0.0")),
        ):
            pass

    def test_settings_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EOFORGE_PORT", "7000")
        monkeypatch.setenv("EOFORGE_INSECURE", "true")
        settings = RuntimeSettings()
        assert (settings.port, settings.insecure) == (7000, True)
        monkeypatch.setenv("EOFORGE_PORT", "70000")
        with pytest.raises(UsageError, match="EOFORGE_PORT"):
            RuntimeSettings()

    def test_half_of_a_pair_is_refused(self, pki: Pki, tmp_path: Path) -> None:
        for values in (
            {"tls_cert_file": pki.path("server.pem")},
            {"tls_client_ca_file": pki.path("ca.pem")},
            {"token_key_file": Signer(tmp_path).key_file},
        ):
            with pytest.raises(UsageError):
                RuntimeSettings(**values).require_consistent()

    def test_a_taken_port_is_an_error_that_says_so(self, server: Running) -> None:
        for taken in ({"port": server.server.port}, {"rest_port": server.server.rest_port}):
            with pytest.raises(UsageError, match="cannot listen"), running(lambda values=taken: make(**values)):
                pass


def test_quota_per_caller_with_retry_info() -> None:
    with running(lambda: make(quota_per_second=5, quota_burst=2)) as run:
        with RetrievalClient(run.target, attempts=1) as client:
            client.get_patch("1")
            client.get_patch("2")
            with pytest.raises(RemoteError) as caught:
                client.get_patch("3")
            assert caught.value.code == "RESOURCE_EXHAUSTED"
            assert caught.value.remote_reason == "QUOTA_EXCEEDED"
            assert 0 < (caught.value.retry_after or 0) <= 0.2
            # Over REST the same caller has the same bucket... of another address notation, so only its form is checked.
        with RetrievalClient(run.target, attempts=5) as client:
            for i in range(4):  # the client comes back when it was told to
                client.get_patch(str(i))
        with grpc.insecure_channel(run.target) as channel:
            stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
            requests = [pb.SearchStreamRequest(correlation_id=str(i)) for i in range(5)]
            time.sleep(0.5)
            answers = list(stub.SearchStream(iter(requests), timeout=20))  # a stream is slowed down, not cut off
            assert [a.correlation_id for a in answers] == [str(i) for i in range(5)]


def test_a_bucket_fills_again_and_callers_do_not_share_it() -> None:
    now = [0.0]
    quota = Quota(2.0, 2, clock=lambda: now[0])
    for _ in range(2):
        quota.take("a")
    with pytest.raises(service_errors.QuotaExceeded) as caught:
        quota.take("a")
    assert caught.value.retry_after == pytest.approx(0.5)
    quota.take("b")
    now[0] = 0.5
    quota.take("a")
    now[0] = 100.0
    for _ in range(2):
        quota.take("a")
    with pytest.raises(service_errors.QuotaExceeded):
        quota.take("a")


def test_draining_says_so_first_and_finishes_what_runs() -> None:
    with running(lambda: make(drain_notice_seconds=0.5)) as run, grpc.insecure_channel(run.target) as channel:
        stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        long = stub.GetPatch.future(pb.GetPatchRequest(patch_id="sleep:1.5"), timeout=10)
        time.sleep(0.2)
        stopping = asyncio.run_coroutine_threadsafe(run.server.stop(), run.loop)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert get(stub, "after the notice").patch.patch_id == "after the notice"
        assert httpx.get(f"{run.rest}/v2/health/ready").status_code == 503
        assert long.result().patch.patch_id == "sleep:1.5"
        stopping.result(10)
        with pytest.raises(grpc.RpcError) as caught:
            get(stub, "too late", timeout=2)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def _until(condition: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.02)


def test_a_call_continues_the_trace_of_its_caller(stub: Any) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    get(stub, "traced", metadata=(("traceparent", f"00-{trace_id}-{span_id}-01"),))
    _until(lambda: bool(exporter.get_finished_spans()))
    (span,) = exporter.get_finished_spans()
    assert span.name == f"/{NAME}/GetPatch"
    assert f"{span.context.trace_id:032x}" == trace_id
    assert f"{span.parent.span_id:016x}" == span_id
    assert span.attributes["rpc.grpc.status"] == "OK"


def test_no_endpoint_costs_no_exporter_and_one_sends_spans_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry import trace

    given: list[Any] = []
    monkeypatch.setattr(trace, "set_tracer_provider", given.append)
    configure_traces(RuntimeSettings(), "retrieval")
    assert given == []
    configure_traces(RuntimeSettings(otlp_endpoint="http://127.0.0.1:4317"), "retrieval")
    (provider,) = given
    assert provider.resource.attributes["service.name"] == "eoforge-retrieval"
    provider.shutdown()
