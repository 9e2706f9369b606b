"""Health without a credential: watches and checks beside each other, idle connections, the end of the process."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services._runtime import interceptor
from tests.services._runtime.failing_service import NAME, make
from tests.services.support import Running, running

REQUEST = health_pb2.HealthCheckRequest()
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@pytest.fixture
def health(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def test_watches_take_no_places_of_checks_and_are_bounded(health: Any) -> None:
    with ExitStack() as stack:
        for _ in range(interceptor.WATCHES_EACH):
            watch = health.Watch(REQUEST, timeout=60)
            stack.callback(watch.cancel)
            assert next(watch).status == SERVING
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as caught:
                next(health.Watch(REQUEST, timeout=60))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        checks = [health.Check.future(REQUEST, timeout=60) for _ in range(8)]
        assert [check.result().status for check in checks] == [SERVING] * 8


def test_a_watch_ends_so_that_its_caller_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptor, "WATCH_SECONDS", 0.3)
    with running(make) as run, grpc.insecure_channel(run.target) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(REQUEST, timeout=60)
        assert next(watch).status == SERVING
        with pytest.raises(grpc.RpcError, match="call again") as caught:
            next(watch)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_watch_that_ends_does_not_silence_the_others(server: Running, health: Any) -> None:
    named = health_pb2.HealthCheckRequest(service=NAME)
    first, second = health.Watch(named, timeout=30), health.Watch(named, timeout=30)
    assert [next(first).status, next(second).status] == [SERVING] * 2
    first.cancel()
    third = health.Watch(named, timeout=30)
    assert next(third).status == SERVING
    for answered, status in ((False, NOT_SERVING), (True, SERVING)):
        server.call(server.server.report(answered))
        assert [next(second).status, next(third).status] == [status] * 2
    second.cancel()
    third.cancel()
    unknown = health.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=30)
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=60)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_an_open_watch_does_not_hold_up_the_end() -> None:
    """It gets its last status and ends; the process does not wait for the whole time of draining."""
    with running(lambda: make(drain_seconds=1e6)) as run, grpc.insecure_channel(run.target) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(REQUEST, timeout=120)
        assert next(watch).status == SERVING
        run.stop()
        assert [answer.status for answer in watch] == [NOT_SERVING]


def test_connections_without_calls_are_closed() -> None:
    with (
        running(lambda: make(receive_seconds=0.2)) as run,
        socket.create_connection(("127.0.0.1", run.server.port), timeout=20) as line,
    ):
        line.sendall(PREFACE)
        while line.recv(4096):
            pass
