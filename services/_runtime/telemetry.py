"""Metrics and traces of a service."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from starlette.responses import Response

from eoforge.errors import UsageError
from services._runtime.settings import HttpSettings

REQUESTS = Counter("eoforge_requests_total", "Calls by method and status.", ("method", "code"))
SECONDS = Histogram(
    "eoforge_request_seconds",
    "Time to answer, by method.",
    ("method",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
IN_FLIGHT = Gauge("eoforge_requests_in_flight", "Calls being answered.")

_REST = 20.0
"""A text of the metrics is kept for so many times the time that it took to make."""
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TRACER = trace.get_tracer("eoforge.services")
_TRACE_CONTEXT = TraceContextTextMapPropagator()
"""Without baggage, which nothing here uses; its parser logs malformed headers word for word."""


class Exposition:
    """Answer to Prometheus, whom nobody authenticates, for one event loop.

    The text is made in a thread, once for all who wait, and kept for a while: requests without end take at most a
    twentieth of a core, and no time of the event loop.
    """

    def __init__(self) -> None:
        self._text, self._until, self._making = b"", 0.0, asyncio.Lock()

    async def answer(self) -> Response:
        """Answer with all metrics of the process."""
        async with self._making:
            if time.monotonic() >= self._until:
                started = time.monotonic()
                self._text = await asyncio.to_thread(generate_latest)
                self._until = time.monotonic() + _REST * (time.monotonic() - started)
        return Response(self._text, media_type=CONTENT_TYPE_LATEST)


def configure_traces(settings: HttpSettings, service: str) -> None:
    """Sends spans to the OpenTelemetry collector, if one is set; otherwise spans cost next to nothing.

    The ``OTEL_*`` variables of OpenTelemetry's specification count: endpoint, headers, certificates, sampler, resource
    and batches. ``EOFORGE_OTLP_ENDPOINT`` wins over their endpoint.

    Args:
        settings: Settings of the service.
        service: Its name; ``OTEL_SERVICE_NAME`` or ``service.name`` in ``OTEL_RESOURCE_ATTRIBUTES`` wins.

    Raises:
        UsageError: A variable asks for an exporter or a protocol that is not here.
    """
    exporter = _variable("OTEL_TRACES_EXPORTER", ("otlp", "none"))
    endpoint = settings.otlp_endpoint or next((v for n in _ENDPOINTS if (v := os.environ.get(n))), None)
    if exporter == "none" or (endpoint is None and exporter is None):
        return
    for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        _variable(name, ("grpc",))
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": f"eoforge-{service}"}).merge(OTELResourceDetector().detect())
    insecure = True if endpoint is not None and endpoint.startswith("http://") else None  # None: as OTEL_* says
    try:
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, insecure=insecure)))
    except (ValueError, KeyError) as error:
        raise UsageError(f"an OTEL_* variable is malformed: {error}") from error
    trace.set_tracer_provider(provider)


def _variable(name: str, possible: tuple[str, ...]) -> str | None:
    """Value of a variable of which only some values are possible here; None when it is unset or empty."""
    value = os.environ.get(name, "").strip().lower() or None
    if value is not None and value not in possible:
        raise UsageError(f"{name}={value}: this service knows {' and '.join(possible)} alone")
    return value


def server_span(method: str, headers: Mapping[str, str]) -> trace.Span:
    """Starts the span of one call, continuing the caller's trace if its headers carry one."""
    parent = _TRACE_CONTEXT.extract(headers)
    return TRACER.start_span(method, context=parent, kind=trace.SpanKind.SERVER, attributes={"rpc.system": "grpc"})
