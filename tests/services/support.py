"""Runs a real server in a thread, and makes keys, certificates and tokens for it."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services._runtime.errors import CATALOGUE
from services._runtime.server import Server
from services._runtime.telemetry import REQUESTS

START_S = 60.0
RETRIEVAL_REASONS = set(CATALOGUE) - {"NOT_LEADER", "WRONG_STATE"}
"""What a retrieval service can answer; the others belong to federation."""


class Running:
    """A server in its own thread and loop; ``call`` runs a coroutine there."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.loop = server, loop

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    @property
    def rest(self) -> str:
        scheme = "https" if self.server.settings.tls else "http"
        return f"{scheme}://127.0.0.1:{self.server.rest_port}"

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(START_S)

    def stop(self) -> None:
        self.call(self.server.stop())


@contextmanager
def running(make: Callable[[], Server]) -> Iterator[Running]:
    """Runs ``make()``'s server until the block ends; an error at the start is raised here."""
    ready, box = threading.Event(), {}

    def main() -> None:
        async def body() -> None:
            done = asyncio.Event()
            box["done"] = done
            try:
                server = make()
                await server.start()
                box["running"] = Running(server, asyncio.get_running_loop())
            except Exception as error:
                box["error"] = error
                return
            finally:
                ready.set()
            await done.wait()
            await server.stop()

        asyncio.run(body())

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    assert ready.wait(START_S)
    if "error" in box:
        raise box["error"]
    run: Running = box["running"]
    try:
        yield run
    finally:
        run.loop.call_soon_threadsafe(box["done"].set)
        thread.join(START_S)
        assert not thread.is_alive(), "the server did not stop"


def until(condition: Callable[[], Any], seconds: float = START_S) -> None:
    """Waits for what nothing streams; the bound is for what never happens, not for a busy machine."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.02)


def until_not_serving(target: str) -> None:
    """Waits as a load balancer does, until health says that the server goes away."""
    with grpc.insecure_channel(target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        until(lambda: health.Check(request, timeout=START_S).status == health_pb2.HealthCheckResponse.NOT_SERVING)


def ended(method: str, *codes: str) -> float:
    """How many calls of ``Service/Method`` have ended with one of these codes on the servers of this process."""
    samples = (sample for metric in REQUESTS.collect() for sample in metric.samples)
    return sum(
        s.value
        for s in samples
        if s.name.endswith("_total") and s.labels["method"].endswith(method) and s.labels["code"] in codes
    )


def details(error: grpc.RpcError) -> dict[str, Any]:
    """Reason, domain, request id, retry delay and bad fields from the rich status of an error."""
    out: dict[str, Any] = {}
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
                bad = error_details_pb2.BadRequest()
                if detail.Unpack(info):
                    out |= {"reason": info.reason, "domain": info.domain, "request_id": info.metadata["request_id"]}
                elif detail.Unpack(retry):
                    out["retry_after"] = retry.retry_delay.ToTimedelta().total_seconds()
                elif detail.Unpack(bad):
                    out["fields"] = [(v.field, v.description, v.reason) for v in bad.field_violations]
    return out


@dataclass(frozen=True)
class Pki:
    """Files of a small private CA: server and client certificates signed by it, and a stranger's certificate."""

    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name


def make_pki(folder: Path) -> Pki:
    """Writes ca.pem, server.{pem,key}, client.{pem,key} and stranger.{pem,key} (signed by another CA)."""
    ca_key, ca = _authority("eoforge test CA")
    other_key, other = _authority("another CA")
    (folder / "ca.pem").write_bytes(_pem(ca))
    _leaf(folder, "server", ca_key, ca, [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
    _leaf(folder, "client", ca_key, ca, [x509.DNSName("berlin.silo")])
    _leaf(folder, "stranger", other_key, other, [x509.DNSName("berlin.silo")])
    return Pki(folder)


def _authority(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key.public_key()).add_extension(x509.BasicConstraints(True, None), True)
    return key, builder.sign(key, hashes.SHA256())


def _leaf(
    folder: Path, name: str, ca_key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, names: list[x509.GeneralName]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, ca.subject, key.public_key())
    certificate = builder.add_extension(x509.SubjectAlternativeName(names), False).sign(ca_key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(_pem(certificate))
    (folder / f"{name}.key").write_bytes(private_pem(key))


def _builder(subject: x509.Name, issuer: x509.Name, key: Any) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(days=1))


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_pem(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


AUDIENCE, ISSUER = "eoforge", "https://issuer.test"


class Signer:
    """Signs tokens with an RSA key whose public half lies in ``key_file``."""

    def __init__(self, folder: Path) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.key_file = folder / "token.pem"
        public = self.key.public_key()
        self.public_pem = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.key_file.write_bytes(self.public_pem)

    @property
    def settings(self) -> dict[str, Any]:
        return {"token_key_file": self.key_file, "token_audience": AUDIENCE, "token_issuer": ISSUER}

    def token(self, subject: str = "alice", *, key: Any = None, algorithm: str = "RS256", **claims: Any) -> str:
        now = dt.datetime.now(dt.UTC)
        body = {"sub": subject, "aud": AUDIENCE, "iss": ISSUER, "exp": now + dt.timedelta(minutes=5)} | claims
        return jwt.encode({k: v for k, v in body.items() if v is not None}, key or self.key, algorithm=algorithm)
