"""REST server: KServe's Open Inference Protocol V2 and ``/metrics``, under the same rules as gRPC.

KServe's own ``ModelServer`` binds REST on every address, lets any caller unload the model and knows no authentication,
so its data plane and V2 endpoints are mounted on an application of ours instead.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from fastapi import FastAPI, Response
from starlette.types import ASGIApp

from services._runtime.files import ReloadedFiles, TlsFiles
from services._runtime.rest_protocol import bounded_protocol
from services._runtime.settings import HttpSettings
from services._runtime.telemetry import Exposition

_TICKS_PER_LOOK = 10  # uvicorn ticks ten times a second

log = structlog.get_logger("access")


def application() -> FastAPI:
    """Application without KServe's endpoints, behind :class:`services._runtime.rest_guard.Guard`."""
    app = FastAPI(title="eoforge", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)

    exposition = Exposition()

    @app.get("/metrics")
    async def metrics() -> Response:
        return await exposition.answer()

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}  # or the guard would have answered

    return app


def server(settings: HttpSettings, app: ASGIApp, files: ReloadedFiles[TlsFiles] | None) -> uvicorn.Server:
    """Uvicorn for ``app``, on the same address and with the same certificates as gRPC where a process has both."""
    config = uvicorn.Config(
        app,
        http=bounded_protocol(
            settings.max_connections, settings.receive_seconds, settings.max_call_seconds + settings.receive_seconds
        ),
        ws="none",
        host=settings.host,
        port=settings.rest_port,
        log_config=None,
        access_log=False,
        lifespan="off",
        # Zero and None mean to wait for ever.
        timeout_graceful_shutdown=max(1, math.ceil(settings.drain_seconds)),
        ssl_certfile=str(settings.tls_cert_file) if settings.tls_cert_file else None,
        ssl_keyfile=str(settings.tls_key_file) if settings.tls_key_file else None,
        ssl_ca_certs=str(settings.tls_client_ca_file) if settings.tls_client_ca_file else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if settings.tls_client_ca_file else ssl.CERT_NONE,
    )
    return _Embedded(config, files)


def listen(settings: HttpSettings) -> socket.socket:
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

    def __init__(self, config: uvicorn.Config, files: ReloadedFiles[TlsFiles] | None) -> None:
        super().__init__(config)
        self._files = files
        self._used = files.value if files is not None else None

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
        """Serves new connections with the present certificate; the runtime does the same for gRPC."""
        listening, config = self.config.ssl, self.config
        if self._files is None or listening is None or config.ssl_certfile is None or config.ssl_keyfile is None:
            return
        found = self._files.value
        if found is self._used:
            return
        try:
            # A fresh context: one that is in use can take up another authority, but never drop the former one.
            fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            fresh.load_cert_chain(config.ssl_certfile, config.ssl_keyfile)
            fresh.verify_mode = listening.verify_mode
            if found.client_ca is not None:
                fresh.load_verify_locations(cadata=found.client_ca.decode())
            # OpenSSL asks this for every connection, also for those that name no server.
            listening.sni_callback = lambda connection, _name, _context: setattr(connection, "context", fresh)
            self._used = found
        except OSError as error:  # the files changed again meanwhile (ssl.SSLError is one too): tried again next time
            log.warning("cannot take up a TLS file", error=str(error))
