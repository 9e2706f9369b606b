"""The runtime of every service around a servicer that fails on demand: errors, deadlines, health, draining."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import httpx
import pytest
from google.rpc.error_details_pb2 import BadRequest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.errors import UsageError
from services._runtime.errors import CATALOGUE, Problem, Retriable, argument, describe
from tests.services._runtime.failing_service import ERROR_TYPES, NAME, SECRET, OnDemand, get, make
from tests.services.support import Running, details, running, until


def servicer_of(run: Running) -> OnDemand:
    return run.server.servicer  # type: ignore[attr-defined,no-any-return]  # kept there by make


def test_every_reason_of_the_library_is_in_the_catalogue() -> None:
    assert set(ERROR_TYPES) == set(CATALOGUE)


def test_a_field_is_named_from_the_outside_in() -> None:
    with pytest.raises(UsageError) as caught, argument("spec"), argument("policy.rounds"):
        raise UsageError("rounds must be at least 1")
    (violation,) = BadRequest.FromString(describe(caught.value, "x").rich_status().details[1].value).field_violations
    assert violation.field == "spec.policy.rounds"
    long = Problem("INVALID_ARGUMENT", CATALOGUE["INVALID_ARGUMENT"], "x" * 1000, "x").rich_status()
    assert len(long.SerializeToString()) < 1500, "it travels in headers, beside the message itself"


@pytest.mark.parametrize("reason", sorted(CATALOGUE))
def test_every_declared_error_arrives_with_its_status_and_reason(stub: Any, reason: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        get(stub, f"fail:{reason}", metadata=(("x-request-id", "mine-1"),))
    found = details(caught.value)
    assert caught.value.code() is CATALOGUE[reason].status
    assert (found["reason"], found["domain"], found["request_id"]) == (reason, "eoforge", "mine-1")
    assert (SECRET in caught.value.details()) == (CATALOGUE[reason].fixed is None)
    bad = CATALOGUE[reason].status is grpc.StatusCode.INVALID_ARGUMENT
    assert found.get("fields") == ([("", f"about {SECRET}", reason)] if bad else None)
    own = getattr(ERROR_TYPES[reason], "retry_after", None)
    assert found.get("retry_after") == (1.5 if issubclass(ERROR_TYPES[reason], Retriable) else own)


def test_a_bug_of_ours_says_nothing_but_the_request_id(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        get(stub, "crash", metadata=(("x-request-id", "mine-2"),))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert SECRET not in caught.value.details()
    assert "ZeroDivision" not in caught.value.details()
    assert "mine-2" in caught.value.details()


def test_a_request_id_that_could_forge_log_lines_is_replaced(stub: Any) -> None:
    _, call = stub.GetPatch.with_call(
        pb.GetPatchRequest(patch_id="x"), timeout=60, metadata=(("x-request-id", "a b{}"),)
    )
    returned = dict(call.trailing_metadata())["x-request-id"]
    assert len(returned) == 32
    assert returned != "a b{}"


def test_a_deadline_ends_the_work_on_the_server(server: Running, stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        get(stub, "hold:expires", timeout=2)  # time enough to arrive
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: "expires" in servicer_of(server).cancelled)


def test_a_cancelled_call_ends_the_work_on_the_server(server: Running, stub: Any) -> None:
    call = stub.GetPatch.future(pb.GetPatchRequest(patch_id="hold:given up"), timeout=60)
    until(lambda: "given up" in servicer_of(server).held)
    call.cancel()
    until(lambda: "given up" in servicer_of(server).cancelled)


def test_the_server_bounds_calls_without_deadline() -> None:
    with running(lambda: make(max_call_seconds=0.2)) as run, grpc.insecure_channel(run.target) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            get(retrieval_pb2_grpc.RetrievalServiceStub(channel), "hold:bounded", timeout=None)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert details(caught.value)["reason"] == "DEADLINE_EXCEEDED"


def test_a_message_above_the_limit_is_refused() -> None:
    with running(lambda: make(max_message_bytes=4096)) as run, grpc.insecure_channel(run.target) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            get(retrieval_pb2_grpc.RetrievalServiceStub(channel), "x" * 5000)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        response = httpx.post(f"{run.rest}/v2/models/echo/infer", content=b"x" * 5000, timeout=60)
        assert response.status_code == 413
        assert response.json()["reason"] == "LIMIT_EXCEEDED"


def test_health_reflection_and_unknown_methods(server: Running) -> None:
    with grpc.insecure_channel(server.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", NAME, "inference.GRPCInferenceService"):
            status = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answer = next(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=60))
        names = {s.name for s in answer.list_services_response.service}
        assert {NAME, "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names
        with pytest.raises(grpc.RpcError) as caught:
            retrieval_pb2_grpc.RetrievalServiceStub(channel).ListIndexes(pb.ListIndexesRequest(), timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_reflection_can_be_turned_off() -> None:
    with running(lambda: make(reflection=False)) as run, grpc.insecure_channel(run.target) as channel:
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        with pytest.raises(grpc.RpcError) as caught:
            next(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=60))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_rest_has_metrics_and_readiness_but_nobody_unloads_the_model(server: Running, stub: Any) -> None:
    get(stub, "counted")
    text = httpx.get(f"{server.rest}/metrics").text
    assert f'eoforge_requests_total{{code="OK",method="/{NAME}/GetPatch"}}' in text
    assert httpx.get(f"{server.rest}/v2/health/ready").json() == {"ready": True}
    assert httpx.post(f"{server.rest}/v2/repository/models/echo/unload").status_code == 501
    assert httpx.get(f"{server.rest}/v2/models/none").json()["reason"] == "NOT_FOUND"


def test_draining_says_so_first_and_finishes_what_runs() -> None:
    settings = {"drain_notice_seconds": 2.0, "drain_seconds": 60.0}
    with running(lambda: make(**settings)) as run, grpc.insecure_channel(run.target) as channel:
        stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        long = stub.GetPatch.future(pb.GetPatchRequest(patch_id="hold:long"), timeout=60)
        until(lambda: servicer_of(run).held)
        stopping = asyncio.run_coroutine_threadsafe(run.server.stop(), run.loop)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert get(stub, "after the notice").patch.patch_id == "after the notice"
        assert httpx.get(f"{run.rest}/v2/health/ready").status_code == 503

        def refused() -> bool:
            call = stub.GetPatch.future(pb.GetPatchRequest(patch_id="too late"), timeout=60)
            return call.exception() is not None and call.code() is grpc.StatusCode.UNAVAILABLE

        until(refused)  # the notice is over; what runs still does
        run.loop.call_soon_threadsafe(servicer_of(run).release.set)
        assert long.result().patch.patch_id == "hold:long"
        stopping.result(60)
