"""Metrics and traces of a service."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter, Gauge, Histogram

from services._runtime.settings import RuntimeSettings

REQUESTS = Counter("eoforge_requests_total", "Calls by method and status.", ("method", "code"))
SECONDS = Histogram(
    "eoforge_request_seconds",
    "Time to answer, by method.",
    ("method",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
IN_FLIGHT = Gauge("eoforge_requests_in_flight", "Calls being answered.")

TRACER = trace.get_tracer("eoforge.services")
_TRACE_CONTEXT = TraceContextTextMapPropagator()
"""Without baggage, which nothing here uses; its parser logs malformed headers word for word."""


def configure_traces(settings: RuntimeSettings, service: str) -> None:
    """Sends spans to the OpenTelemetry collector, if one is set; otherwise spans cost next to nothing."""
    if settings.otlp_endpoint is None:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"eoforge-{service}"}))
    insecure = settings.otlp_endpoint.startswith("http://")
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.otlp_endpoint, insecure=insecure)))
    trace.set_tracer_provider(provider)


def server_span(method: str, headers: Mapping[str, str]) -> trace.Span:
    """Starts the span of one call, continuing the caller's trace if its headers carry one."""
    parent = _TRACE_CONTEXT.extract(headers)
    return TRACER.start_span(method, context=parent, kind=trace.SpanKind.SERVER, attributes={"rpc.system": "grpc"})
