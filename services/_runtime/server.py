"""One process per service: typed API, OIP V2, health and reflection on one gRPC port, REST beside it, graceful end."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from eoforge.errors import UsageError
from eoforge.storage.memory import bound_arenas, return_large_blocks
from services._runtime import rest
from services._runtime.admission import Quota
from services._runtime.auth import Authenticator, Caller
from services._runtime.files import ReloadedFiles, TlsFiles, tls_files
from services._runtime.health import Health
from services._runtime.inference import OpenInference
from services._runtime.interceptor import CallInterceptor, Reception
from services._runtime.rest_guard import Guard
from services._runtime.settings import RuntimeSettings
from services._runtime.wire import OIP_SERVICE

if TYPE_CHECKING:
    from kserve import Model

MIGRATION_THREADS = 4
"""Threads for generated handlers that are not coroutines (gRPC's reflection has some)."""
LOOKAHEAD_BYTES = 256 << 10
"""What a stream may send before it is read; the rest of a message follows as soon as somebody reads it."""
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 30_000, 20_000
"""Keepalive, which detects lost connections; with gRPC's two hours their streams would stay open."""
IDLE_TIMES = 3
"""A connection without calls is closed after so many times the longest time for a message.

gRPC does not tell which connections have made a call that was authenticated, so this holds for all. A client's channel
connects anew with its next call, in some milliseconds; a stranger's connection would keep its place among all.
"""
MAX_PROBES = 64
PROBE_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 1024),
    ("grpc.compression_enabled_algorithms_bitset", 1),
)
CONNECTION_BOUNDS = (
    "grpc.max_allowed_incoming_connections",
    "grpc.server_handshake_timeout_ms",
    "grpc.max_connection_idle_ms",
)
"""Options of the gRPC port that hold for the port of health checks, too: it knows no callers."""
SWITCH_SECONDS = 0.001
ADMISSION_SECONDS = 1.0
"""Time between two checks of the callers of open calls."""
INFER = (f"/{OIP_SERVICE}/ModelInfer", f"/{OIP_SERVICE}/ModelStreamInfer")

log = structlog.get_logger("server")


@dataclass
class Service:
    """Parts of one service.

    Attributes:
        name: Full name of the typed gRPC service; that of the protocol for a service without a typed API.
        register: Function that adds the servicer to a gRPC server.
        models: Maker of the OIP V2 models.
        further: Full names of its other typed services.
        sizes: Full method name -> largest message, of methods that take more than ``max_plain_bytes``.
        reports: Whether it says by itself, with :meth:`Server.report`, when its services are answered here.
        inference_on_demand: Load KServe and these models when they are first asked for, not at the start.
        start: Called inside the loop before the ports open.
        stop: Called when the last call has ended.
        drain: Called when the service is told to end, so that streams without an end of their own can finish.
        certificate_port: A second gRPC port with mutual TLS; the first one then asks for no certificate.
        admit: Check of a caller at the start of a gRPC call and every second while the call is open; raises for a
            caller that is not admitted, such as one with a revoked certificate.
    """

    name: str
    register: Callable[[grpc.aio.Server], None]
    models: Callable[[], Sequence[Model]]
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]
    drain: Callable[[], None] = lambda: None
    certificate_port: int | None = None
    inference_on_demand: bool = False
    further: tuple[str, ...] = ()
    reports: bool = False
    admit: Callable[[Caller], None] | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Server:
    """Runs one service in the current event loop.

    Attributes:
        settings: The runtime's part of its settings.
        service: The service.
        port: gRPC port once started.
        rest_port: REST port once started.
        certificate_port: gRPC port with mutual TLS once started, if there is a second one.
        health_port: Port of the plaintext health checks once started, if any.
    """

    settings: RuntimeSettings
    service: Service
    port: int = 0
    rest_port: int = 0
    certificate_port: int | None = None
    health_port: int | None = None
    _draining: bool = False
    _answering: bool = True
    _grpc: list[grpc.aio.Server] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _admission: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the ports; returns when calls are answered.

        Raises:
            UsageError: The settings are contradictory or unsafe, or a port is taken.
        """
        settings, service = self.settings, self.service
        settings.require_consistent()
        files = tls_files(settings)
        bound_arenas()  # messages come and go on many threads, and each arena would keep the most it ever held
        return_large_blocks()
        authenticator = Authenticator(settings, either=service.certificate_port is not None)
        quota = Quota(settings.quota_per_second, settings.quota_burst)
        self._health = Health()
        reception = Reception.of(settings, {**dict.fromkeys(INFER, settings.max_message_bytes), **service.sizes})
        inference = OpenInference(service.models, reception, lambda: self._draining or not self._answering)
        # Threads that compute in Python would keep the event loop from answering others for 5 ms at a time.
        sys.setswitchinterval(SWITCH_SECONDS)
        if settings.reflection or not service.inference_on_demand:  # reflection shows the types that are loaded
            inference.load()
        if service.reports:
            self._report(False)
        await service.start()

        options = [
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            # Compressed messages are refused: a few bytes would become as many as a message may have.
            ("grpc.compression_enabled_algorithms_bitset", 1),
            ("grpc.max_concurrent_streams", settings.max_calls_per_caller),
            ("grpc.max_allowed_incoming_connections", settings.max_connections),
            ("grpc.server_handshake_timeout_ms", int(settings.receive_seconds * 1000)),
            ("grpc.max_connection_idle_ms", int(IDLE_TIMES * settings.receive_seconds * 1000)),
            ("grpc.so_reuseport", 0),
            # A stream reads so far ahead and no further: on a fast line gRPC would take many times that.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
            # Silos keep a stream open for hours; their pings keep load balancers from cutting it.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # of pings by which gRPC measures the line, too
            ("grpc.http2.max_pings_without_data", 0),  # no bound: gRPC would stop after two
            ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ("grpc.http2.max_ping_strikes", 0),
        ]
        calls = CallInterceptor(authenticator, quota, reception, settings.max_call_seconds, service.admit)
        server = grpc.aio.server(futures.ThreadPoolExecutor(MIGRATION_THREADS), interceptors=(calls,), options=options)
        server.add_generic_rpc_handlers((inference.rpc_handler(),))
        service.register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = tuple(dict.fromkeys((service.name, *service.further, OIP_SERVICE)))
        if settings.reflection:
            reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        second = service.certificate_port
        self.port = _bind(server, settings.host, settings.port, _credentials(files, mutual=second is None))
        if second is not None:
            self.certificate_port = _bind(server, settings.host, second, _credentials(files, mutual=True))
        self._grpc.append(server)
        if settings.health_port is not None:
            bounds = [(name, value) for name, value in options if name in CONNECTION_BOUNDS]
            probes = grpc.aio.server(options=(*PROBE_OPTIONS, *bounds), maximum_concurrent_rpcs=MAX_PROBES)
            # Check alone: a kubelet never watches, and streams of Watch would take the places of its probes.
            check = grpc.unary_unary_rpc_method_handler(
                self._health.Check,
                request_deserializer=health_pb2.HealthCheckRequest.FromString,
                response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
            )
            probes.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(health.SERVICE_NAME, {"Check": check}),)
            )
            self.health_port = _bind(probes, settings.host, settings.health_port, None)
            self._grpc.append(probes)
        await self._start_rest(inference, authenticator, quota, reception, files)
        # What is loaded stays: to look through it at each full collection would take 300 ms on the event loop.
        gc.collect()
        gc.freeze()
        for started in self._grpc:
            await started.start()
        if service.inference_on_demand:
            self._health.set(OIP_SERVICE, True)
        if not service.reports:
            self._report(True)
        if service.admit is not None:
            self._admission = asyncio.create_task(_readmit(calls))
        log.info("serving", host=settings.host, port=self.port, rest_port=self.rest_port, tls=settings.tls)
        if settings.insecure:
            log.warning("EOFORGE_INSECURE is set: the network must restrict access and protect traffic")

    async def report(self, answered: bool) -> None:
        """Sets the health of the typed services and of models that are not loaded on demand.

        The health of the process does not change.

        Args:
            answered: Whether the services are answered here.
        """
        self._report(answered)

    def _report(self, answered: bool) -> None:
        inference = () if self.service.inference_on_demand else (OIP_SERVICE,)
        self._answering = answered or self.service.inference_on_demand
        for name in (self.service.name, *self.service.further, *inference):
            self._health.set(name, answered)

    async def stop(self) -> None:
        """Graceful end: reports NOT_SERVING, waits until callers have noticed, then waits for running calls."""
        if self._draining:
            return
        self._draining = True
        log.info("draining")
        self.service.drain()
        self._health.drain()
        await asyncio.sleep(self.settings.drain_notice_seconds)
        self._health.end()
        self._rest.should_exit = True
        await asyncio.gather(*(server.stop(self.settings.drain_seconds) for server in self._grpc), *self._tasks)
        if self._admission is not None:
            self._admission.cancel()
        await self.service.stop()
        log.info("stopped")

    async def run(self) -> None:
        """Starts, and stops on SIGTERM or SIGINT."""
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await self.start()
        await stopping.wait()
        await self.stop()

    async def _start_rest(
        self,
        inference: OpenInference,
        authenticator: Authenticator,
        quota: Quota,
        reception: Reception,
        files: ReloadedFiles[TlsFiles] | None,
    ) -> None:
        app = rest.application()
        if not self.service.inference_on_demand:
            await inference.mount(app)
        guard = Guard(
            app,
            self.settings,
            inference,
            authenticator,
            quota,
            reception,
            lambda: self._draining or not self._answering,
        )
        self._rest = rest.server(self.settings, guard, files)
        try:
            listener = rest.listen(self.settings)
        except OSError as error:
            raise UsageError(f"cannot listen on {self.settings.host}:{self.settings.rest_port}: {error}") from error
        self.rest_port = listener.getsockname()[1]
        self._tasks.append(asyncio.create_task(self._rest.serve(sockets=[listener])))
        while not self._rest.started:
            await asyncio.sleep(0.01)


async def _readmit(calls: CallInterceptor) -> None:
    while True:
        await asyncio.sleep(ADMISSION_SECONDS)
        calls.readmit()


def _credentials(files: ReloadedFiles[TlsFiles] | None, mutual: bool) -> grpc.ServerCredentials | None:
    """TLS credentials, mutual if there is a client CA and ``mutual``; None for plaintext.

    gRPC asks for the files at each new connection, so certificates and CAs rotate without a restart.
    """
    if files is None:
        return None
    used = [files.value]

    def configuration(tls: TlsFiles) -> grpc.ServerCertificateConfiguration:
        ca = tls.client_ca if mutual else None
        return grpc.ssl_server_certificate_configuration([(tls.key, tls.certificate)], ca)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        now = files.value
        if now is used[0]:
            return None
        used[0] = now
        return configuration(now)

    demands = mutual and used[0].client_ca is not None
    first = configuration(used[0])
    return grpc.dynamic_ssl_server_credentials(first, changed, demands)  # type: ignore[arg-type]  # None: unchanged


def _bind(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None) -> int:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise UsageError(f"cannot listen on {address}: {error}. Is another process there?") from error
