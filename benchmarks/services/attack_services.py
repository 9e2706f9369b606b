"""Services as the charts start them (TLS, tokens, own process), and a well-behaved caller beside an attack."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import logging
import multiprocessing
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.services.calls import START_S, percentiles

AUDIENCE, ISSUER = "eoforge", "https://issuer.test"
SCOPE = "federation:operator"
PATCHES = 50_000
BARE = "bare grpc.aio"
"""Not ours: a server of gRPC's own that reads a message and answers nothing; what the same bursts cost there."""
SERVICES = ("retrieval", "compression", "prediction", "federation", BARE)
BARE_METHOD = "/bare/Call"
BARE_MESSAGE_BYTES = 16 << 20
PREDICTION_BUNDLE = "prediction-bundle"
OIP = "/inference.GRPCInferenceService/ModelInfer"
PAUSE_S, HEALTH_PAUSE_S, PROBE_TIMEOUT_S, TURN_S = 0.02, 0.1, 60.0, 0.005
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Secrets:
    """Certificate and token key of the services, below one folder."""

    folder: Path
    key: str = field(default_factory=lambda: secrets.token_hex(32))

    @property
    def ca(self) -> Path:
        """The certificate, which signs itself."""
        return self.folder / "tls.crt"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a service that uses them."""
        return {
            "tls_cert_file": self.ca,
            "tls_key_file": self.folder / "tls.key",
            "token_key_file": self.folder / "token",
            "token_algorithm": "HS256",
            "token_audience": AUDIENCE,
            "token_issuer": ISSUER,
        }

    def write(self) -> None:
        """Makes the files."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "attack")])
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(hours=1))
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        signed = builder.not_valid_after(now + dt.timedelta(days=1)).add_extension(names, False)
        signed = signed.add_extension(x509.BasicConstraints(True, None), True)
        self.ca.write_bytes(signed.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (self.folder / "tls.key").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
        (self.folder / "token").write_text(self.key)

    def token(self, subject: str) -> str:
        """A token of one caller."""
        expiry = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)
        claims = {"sub": subject, "aud": AUDIENCE, "iss": ISSUER, "exp": expiry, "scope": SCOPE}
        return jwt.encode(claims, self.key, algorithm="HS256")


def channel(target: str, ca: Path) -> grpc.Channel:
    """A TLS channel without limits of its own, on a connection of its own."""
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(ca.read_bytes()), options=options)


def serve(kind: str, folder: str, extra: dict[str, Any], ready: Any, busy: Any) -> None:
    """Runs one service; the child process's main."""
    from eoforge.logs import configure_logs

    configure_logs(as_json=True, level=logging.CRITICAL)
    values: dict[str, Any] = {"port": 0, "rest_port": 0, "drain_notice_seconds": 0.0, **extra}

    def made() -> Any:
        if kind == "retrieval":
            from benchmarks.services.retrieval import snapshot, write
            from eoforge.bundle import load_bundle
            from eoforge.methods import get_method
            from eoforge.storage.addresses import TableRef
            from services.retrieval.server import build
            from services.retrieval.settings import RetrievalSettings
            from services.retrieval.state import IndexHolder, Served

            index = Path(folder) / "index"
            if not index.exists():
                write(index, PATCHES)
            held, bundle = snapshot(index), load_bundle((Path(folder) / "bundle").read_text())
            encoder = get_method(bundle.config["method"]).load(bundle, None)

            class Fixed(IndexHolder):
                async def start(self) -> None:
                    nothing: Any = None
                    self._replace(Served(held, encoder, bundle, nothing))

            return build(RetrievalSettings(codes_uri="none", **values), Fixed(TableRef("none", 1), None, 3600.0))
        if kind == "compression":
            from services.compression.server import build as build_compression
            from services.compression.settings import CompressionSettings
            from services.compression.state import load

            settings = CompressionSettings(bundle_uris=(Path(folder) / "bundle").read_text(), **values)
            return build_compression(settings, load(settings))
        if kind == "prediction":
            from services.prediction.server import build as build_prediction
            from services.prediction.settings import PredictionSettings
            from services.prediction.state import load as load_predictors

            chosen = PredictionSettings(bundle_uris=(Path(folder) / PREDICTION_BUNDLE).read_text(), **values)
            return build_prediction(chosen, load_predictors(chosen))
        from services.federation.server import build as build_federation
        from services.federation.settings import FederationSettings

        return build_federation(FederationSettings(federation_uri=f"{folder}/runs", flush=False, **values))

    async def main() -> None:
        server = BareServer(extra) if kind == BARE else made()
        await server.start()
        ready.put((server.port, server.rest_port))
        await measure(busy)

    asyncio.run(main())


class BareServer:
    """gRPC's asynchronous server with TLS and nothing else."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", BARE_MESSAGE_BYTES)])
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("bare", {"Call": grpc.unary_unary_rpc_method_handler(_nothing)}),)
        )
        pair = settings["tls_key_file"].read_bytes(), settings["tls_cert_file"].read_bytes()
        self.port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        self.rest_port = 0

    async def start(self) -> None:
        """Opens the port."""
        await self._server.start()


async def _nothing(request: bytes, context: Any) -> bytes:
    return b""


async def measure(busy: Any) -> None:
    """Keeps in ``busy`` the most CPU seconds that the event loop took between two turns."""
    last = time.thread_time()
    while True:
        await asyncio.sleep(TURN_S)
        now = time.thread_time()
        busy.value = max(busy.value, now - last)
        last = now


class Served:
    """A service that runs; its memory and how it goes on."""

    def __init__(self, kind: str, folder: Path, files: Secrets) -> None:
        self.kind, self._folder, self._files = kind, folder, files
        self.start()

    def start(self) -> None:
        """Starts the process and waits until it answers."""
        ready, self._busy = SPAWN.Queue(), SPAWN.Value("d", 0.0)
        arguments = (self.kind, str(self._folder), self._files.settings, ready, self._busy)
        self.process = SPAWN.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        end = time.monotonic() + START_S
        while ready.empty():
            if not self.process.is_alive() or time.monotonic() > end:
                raise SystemExit(f"{self.kind} did not start (exit code {self.process.exitcode})")
            time.sleep(0.1)
        port, rest = ready.get()
        self.target, self.rest = f"127.0.0.1:{port}", rest
        self.idle_mib = self.status("VmRSS")

    def stop(self) -> None:
        """Ends the process, at once."""
        self.process.kill()
        self.process.join()

    def status(self, name: str) -> float:
        """A figure of the process's memory, in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return float(text.partition(f"{name}:")[2].split()[0]) / 1024

    @property
    def loop_ms(self) -> float:
        """Most CPU milliseconds of the event loop between two turns, since peaks count."""
        return float(self._busy.value) * 1e3

    def forget_peak(self) -> None:
        """Peaks count from now on."""
        self._busy.value = 0.0
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


def probe(kind: str, target: str, ca: str, token: str, payload: bytes, pipe: Any) -> None:
    """A caller that asks little, again and again, and health checks beside it; the child process's main."""
    method, request = PROBES[kind]
    with channel(target, Path(ca)) as line, channel(target, Path(ca)) as other:
        call = line.unary_unary(method, None, None)
        health = health_pb2_grpc.HealthStub(other)
        metadata = (("authorization", f"Bearer {token}"),)
        pipe.send("ready")
        while pipe.recv() == "start":
            times: list[float] = []
            checks: list[float] = []
            errors: dict[str, int] = {}
            done = threading.Event()

            def check(done: threading.Event = done, checks: list[float] = checks) -> None:
                while not done.is_set():
                    since = time.perf_counter()
                    with suppress(grpc.RpcError):
                        health.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S)
                    checks.append(time.perf_counter() - since)
                    done.wait(HEALTH_PAUSE_S)

            thread = threading.Thread(target=check)
            thread.start()
            while not (times and pipe.poll()):
                since = time.perf_counter()
                try:
                    call(request or payload, timeout=PROBE_TIMEOUT_S, metadata=metadata)
                except grpc.RpcError as error:
                    errors[error.code().name] = errors.get(error.code().name, 0) + 1
                times.append(time.perf_counter() - since)
                time.sleep(PAUSE_S)
            pipe.recv()
            done.set()
            thread.join()
            pipe.send(json.dumps({**percentiles(times), "health_ms": max(checks) * 1e3, "errors": errors}))


def _search() -> bytes:
    from eoforge.api.retrieval.v1 import retrieval_pb2 as pb

    patch = f"S2A_MSIL2A_20180101T000000_N9999_R001_T35VNK_{7:07d}"
    request = pb.SearchRequest(
        patch_id=patch, query_modality=pb.MODALITY_S1, target_modality=pb.MODALITY_S2, page_size=10
    )
    return bytes(request.SerializeToString())


PROBES: dict[str, tuple[str, bytes]] = {
    "retrieval": ("/eoforge.api.retrieval.v1.RetrievalService/Search", _search()),
    "compression": ("/eoforge.api.compression.v1.CompressionService/Decompress", b""),
    "prediction": (OIP, b""),
    "federation": ("/eoforge.api.federation.v1.FederationService/ListRuns", b""),
    BARE: (BARE_METHOD, b"x"),
}
"""Call of the well-behaved caller, and its request where it is the same in every run."""


class Neighbour:
    """The well-behaved caller, in a process of its own."""

    def __init__(self, served: Served, files: Secrets, payload: bytes) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        arguments = (served.kind, served.target, str(files.ca), files.token("alice"), payload, theirs)
        self._process = SPAWN.Process(target=probe, args=arguments, daemon=True)
        self._process.start()
        self._pipe.recv()

    def start(self) -> None:
        """Begins to ask."""
        self._pipe.send("start")

    def figures(self) -> dict[str, Any]:
        """Ends asking; what it saw."""
        self._pipe.send("stop")
        found: dict[str, Any] = json.loads(self._pipe.recv())
        return found

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()
