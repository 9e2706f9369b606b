"""Check of a running service, as in ``helm test``: its health, and one call of its API.

    python -m services._runtime.check HOST:PORT PACKAGE.SERVICE/METHOD [--ca FILE] [--token-file FILE] ...

The call goes out with an empty request, so METHOD must take one (``ListIndexes``, or ``ServerMetadata`` of the Open
Inference Protocol). With ``--expect-refusal``
a caller without a credential must be refused, by a service that is reachable.
"""

from __future__ import annotations

import argparse
import importlib
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import grpc
import stamina
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eoforge.errors import EoforgeError, UsageError
from services._runtime.wire import OIP_SERVICE

REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
OIP_TYPES = "kserve.protocol.grpc.grpc_predict_v2_pb2"
_WAIT_S = 60.0


def open_channel(target: str, ca: Path | None, cert: Path | None, key: Path | None) -> grpc.Channel:
    """A channel to ``target``: TLS with ``ca``, mutual with ``cert`` and ``key``, plaintext with none of them.

    Raises:
        UsageError: One of ``cert`` and ``key`` is missing, or a file cannot be read.
    """
    if (cert is None) != (key is None):
        raise UsageError("mutual TLS needs both --cert and --key; got one of them")
    if ca is None and cert is None:
        return grpc.insecure_channel(target)
    try:
        parts = [path.read_bytes() if path else None for path in (ca, key, cert)]
    except OSError as error:
        raise UsageError(f"cannot read a TLS file: {error}") from error
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*parts))


def turned_away(target: str, ca: Path) -> bool:
    """Whether the server proves who it is by ``ca`` and then ends the connection of a caller without a certificate.

    gRPC reports that as UNAVAILABLE, as it does a server that is down, so this looks one layer below.

    Raises:
        OSError: Nobody answered for a minute, or the server's certificate is not one of ``ca``.
    """
    host, _, port = target.rpartition(":")
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    for attempt in stamina.retry_context(on=ConnectionError, attempts=None, timeout=_WAIT_S, wait_max=2.0):
        with attempt:
            raw = socket.create_connection((host, int(port)), timeout=_WAIT_S)
    with raw:
        try:
            tls = context.wrap_socket(raw, server_hostname=host)
        except ssl.SSLCertVerificationError:
            raise
        except (ssl.SSLError, ConnectionError):  # TLS 1.2 asks for the certificate during the handshake
            return True
        with tls:
            try:
                return not tls.recv(1)  # TLS 1.3 after it; a server that lets the caller in greets first
            except (ssl.SSLError, ConnectionError):
                return True


def empty_call(channel: grpc.Channel, name: str, token: str | None) -> dict[str, Any]:
    """Calls ``PACKAGE.SERVICE/METHOD`` with an empty request and returns its answer.

    Raises:
        UsageError: There is no such service or method in this image.
        grpc.RpcError: The call failed.
    """
    full, _, method = name.partition("/")
    package, _, service = full.rpartition(".")
    try:
        module = OIP_TYPES if full == OIP_SERVICE else f"{package}.{package.rsplit('.', 2)[-2]}_pb2"
        generated = importlib.import_module(module)
        found = generated.DESCRIPTOR.services_by_name[service].methods_by_name[method]
    except (ImportError, IndexError, KeyError) as error:
        raise UsageError(f"expected PACKAGE.SERVICE/METHOD of this image's API; got {name!r}") from error
    request = getattr(generated, found.input_type.name)
    answer = getattr(generated, found.output_type.name)
    call = channel.unary_unary(f"/{name}", request.SerializeToString, answer.FromString)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    reply = call(request(), timeout=_WAIT_S, metadata=metadata, wait_for_ready=True)
    return dict(json_format.MessageToDict(reply))


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services._runtime.check", description="Ask a running service.")
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("method", metavar="PACKAGE.SERVICE/METHOD")
    parser.add_argument("--ca", type=Path, help="CA certificate of the server; turns TLS on")
    parser.add_argument("--cert", type=Path, help="own certificate, for mutual TLS")
    parser.add_argument("--key", type=Path, help="its key")
    parser.add_argument("--token-file", type=Path, help="file with a bearer token")
    parser.add_argument("--expect-refusal", action="store_true", help="succeed only if the call is refused")
    args = parser.parse_args(argv)
    try:
        token = args.token_file.read_text().strip() if args.token_file else None
        if args.expect_refusal and args.ca and not args.cert and turned_away(args.target, args.ca):
            print("refused without a certificate")
            return 0
        with open_channel(args.target, args.ca, args.cert, args.key) as channel:
            return _ask(channel, args.method, token, args.expect_refusal)
    except (EoforgeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _ask(channel: grpc.Channel, method: str, token: str | None, expect_refusal: bool) -> int:
    try:
        health = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=_WAIT_S, wait_for_ready=True
        )
        print(f"health: {health_pb2.HealthCheckResponse.ServingStatus.Name(health.status)}")
        if health.status != health_pb2.HealthCheckResponse.SERVING:
            return 1
        print(f"{method}: {empty_call(channel, method, token)}")
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        return 0 if expect_refusal and error.code() in REFUSALS else 1
    if expect_refusal:
        print("expected to be refused without a credential, and was answered", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
