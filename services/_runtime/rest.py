"""The REST side: KServe's Open Inference Protocol V2 and ``/metrics``, under the same rules as gRPC.

KServe's own ``ModelServer`` binds REST on every address, lets any caller unload the model and knows no authentication,
so its data plane and V2 endpoints are mounted on an application of ours instead.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from eoforge.errors import LimitExceeded, UsageError
from services._runtime.auth import Authenticator
from services._runtime.errors import DOMAIN, Problem, Unimplemented, describe
from services._runtime.inference import OpenInference
from services._runtime.interceptor import report, request_id_of
from services._runtime.quota import Quota
from services._runtime.settings import RuntimeSettings
from services._runtime.telemetry import REQUESTS, SECONDS

OPEN_PATHS = frozenset({"/metrics", "/v2/health/live", "/v2/health/ready"})
CERTIFICATE_CALLER = ("rest-client-certificate",)
"""Uvicorn verifies client certificates but does not say whose they are: over REST they share one quota."""

_TICKS_PER_LOOK = 10  # uvicorn ticks ten times a second

log = structlog.get_logger("access")


def application(
    settings: RuntimeSettings,
    inference: OpenInference,
    authenticator: Authenticator,
    quota: Quota,
    draining: Callable[[], bool],
) -> FastAPI:
    """The application.

    Args:
        settings: Limits.
        inference: KServe's endpoints; mounted when one of them is asked for, if not before.
        authenticator: Says who calls.
        quota: Counts per caller, together with gRPC.
        draining: Whether the service is on its way out, which readiness reports.
    """
    app = FastAPI(title="eoforge", docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        path = request.url.path
        request_id = request_id_of(request.headers.get("x-request-id"))
        started, who = time.perf_counter(), ""
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            if path == "/v2/health/ready" and draining():
                return JSONResponse({"ready": False}, status_code=503)
            if path not in OPEN_PATHS:
                names = CERTIFICATE_CALLER if settings.tls_client_ca_file else ()
                address = request.client.host if request.client else "unknown"
                who = authenticator.identify(request.headers.get("authorization"), names, address).name
                quota.take(who)
                _check_body(request, settings.max_message_bytes)
                if path.startswith("/v2/repository"):
                    raise Unimplemented("this service loads its model itself; it cannot be loaded or unloaded")
                await inference.mount(app)
            response = await call_next(request)
        except Exception as error:
            problem = describe(error, request_id)
            report(problem, error)
            response = problem_response(problem)
        if path not in OPEN_PATHS:
            route = request.scope.get("route")
            name = f"REST {getattr(route, 'path', 'unknown')}"
            seconds = time.perf_counter() - started
            REQUESTS.labels(name, str(response.status_code)).inc()
            SECONDS.labels(name).observe(seconds)
            log.info("call", method=name, code=response.status_code, caller=who, milliseconds=round(seconds * 1e3, 2))
        response.headers["x-request-id"] = request_id
        return response

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}  # or the guard would have answered

    return app


def problem_response(problem: Problem) -> Response:
    """A problem as JSON with the status of the catalogue."""
    headers = {} if problem.retry_after is None else {"Retry-After": str(max(1, round(problem.retry_after)))}
    body = {
        "error": problem.message,
        "reason": problem.reason,
        "domain": DOMAIN,
        "request_id": problem.request_id,
    }
    return JSONResponse(body, status_code=problem.entry.http, headers=headers)


def server(settings: RuntimeSettings, app: FastAPI) -> uvicorn.Server:
    """Uvicorn for ``app``, on the same address and with the same certificates as gRPC."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.rest_port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=int(settings.drain_seconds) or None,
        ssl_certfile=str(settings.tls_cert_file) if settings.tls_cert_file else None,
        ssl_keyfile=str(settings.tls_key_file) if settings.tls_key_file else None,
        ssl_ca_certs=str(settings.tls_client_ca_file) if settings.tls_client_ca_file else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if settings.tls_client_ca_file else ssl.CERT_NONE,
    )
    return _Embedded(config)


def listen(settings: RuntimeSettings) -> socket.socket:
    """A bound socket for REST; bound here because uvicorn ends the process when a port is taken.

    Raises:
        OSError: The address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.rest_port))
    except OSError:
        listener.close()
        raise
    return listener


class _Embedded(uvicorn.Server):
    """Uvicorn inside a loop that handles signals itself, with certificates that rotate."""

    _loaded: tuple[bytes, ...] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signal handlers alone."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Uvicorn's clock."""
        if counter % _TICKS_PER_LOOK == 0:
            self._renew_certificate()
        return await super().on_tick(counter)

    def _renew_certificate(self) -> None:
        """Serves new connections with the certificate that lies there now; the runtime does the same for gRPC."""
        context, config = self.config.ssl, self.config
        if context is None or config.ssl_certfile is None or config.ssl_keyfile is None:
            return
        try:
            files = [config.ssl_certfile, config.ssl_keyfile, *([config.ssl_ca_certs] if config.ssl_ca_certs else [])]
            found = tuple(Path(file).read_bytes() for file in files)
            if self._loaded not in (None, found):
                # First into a context of nobody's: a pair that does not match would leave ours without a key.
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.ssl_certfile, config.ssl_keyfile)
                context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile)
                if config.ssl_ca_certs:
                    context.load_verify_locations(config.ssl_ca_certs)
            self._loaded = found
        except OSError as error:  # in the middle of a rotation (ssl.SSLError is one too): the old ones still serve
            log.warning("cannot take up a TLS file", error=str(error))


def _check_body(request: Request, limit: int) -> None:
    """Refuses a body before it is read: by its declared length, which is therefore required."""
    if request.method not in ("POST", "PUT", "PATCH"):
        return
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        raise UsageError("a request with a body needs a Content-Length header")
    if int(length) > limit:
        raise LimitExceeded(f"a body may have {limit} bytes; this one has {length}")
