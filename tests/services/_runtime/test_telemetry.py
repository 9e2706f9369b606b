"""Traces: continued from the caller, sent where the settings say."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from services._runtime.settings import RuntimeSettings
from services._runtime.telemetry import configure_traces
from tests.services._runtime.failing_service import NAME, get
from tests.services.support import Running, until


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
    until(lambda: bool(exporter.get_finished_spans()))
    (span,) = exporter.get_finished_spans()
    assert span.name == f"/{NAME}/GetPatch"
    assert f"{span.context.trace_id:032x}" == trace_id
    assert f"{span.parent.span_id:016x}" == span_id
    assert span.attributes["rpc.grpc.status"] == "OK"


class Slow:
    """Collector of metrics that takes its time."""

    def __init__(self) -> None:
        self.asked, self.goes_on = threading.Semaphore(0), threading.Event()

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> list[Any]:
        self.asked.release()
        self.goes_on.wait(30)
        return []


def test_metrics_are_made_beside_the_event_loop_and_once_for_all_who_ask(server: Running) -> None:
    slow = Slow()
    REGISTRY.register(slow)
    try:
        with ThreadPoolExecutor(40) as pool, httpx.Client(timeout=60) as client:
            scrapes = [pool.submit(client.get, f"{server.rest}/metrics") for _ in range(40)]
            assert slow.asked.acquire(timeout=30)
            try:
                assert httpx.get(f"{server.rest}/v2/health/live", timeout=10).status_code == 200
            finally:
                slow.goes_on.set()
            assert len({scrape.result().text for scrape in scrapes}) == 1
    finally:
        REGISTRY.unregister(slow)
    assert not slow.asked.acquire(blocking=False), "one text for all of them"


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
