"""Settings that every service has, read from ``EOFORGE_*`` environment variables.

Secure by default: a service listens on the loopback address, and refuses any other without TLS and without a way to
tell callers apart, unless ``EOFORGE_INSECURE=true`` says that the network around it does both.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from eoforge.errors import UsageError

MOST_BYTES = 2**31 - 1
"""Of one message: gRPC counts them in 32 bits."""
MOST_COUNT = 10**9
"""Of things that are counted or queued; gRPC aborts the process at 2**31 - 1 connections."""
MOST_SECONDS = 366 * 86_400.0
"""Of any duration: timers of the event loop and of gRPC overflow far beyond a year."""
MOST_THREADS = 1024
"""Of one pool of workers."""
_JSON_FACTOR = 8
"""Size of JSON relative to plain messages, and number of its values relative to their fields."""


class HttpSettings(BaseSettings):
    """Settings of every process that listens on HTTP; the descriptions become the tables in the services' READMEs.

    Raises:
        UsageError: A value is missing or malformed.
    """

    model_config = SettingsConfigDict(env_prefix="EOFORGE_", frozen=True, extra="ignore", allow_inf_nan=False)

    host: str = Field("127.0.0.1", pattern=r"^[0-9A-Za-z.:%_-]{1,255}$", description="Address that all ports bind.")
    rest_port: int = Field(8080, ge=0, le=65535, description="REST port: OIP V2 and /metrics. 0 takes a free one.")
    insecure: bool = Field(False, description="Allow a non-loopback address without TLS or without authentication.")
    tls_cert_file: Path | None = Field(None, description="Server certificate chain (PEM).")
    tls_key_file: Path | None = Field(None, description="Server private key (PEM).")
    tls_client_ca_file: Path | None = Field(None, description="CA of client certificates; turns mutual TLS on.")
    max_calls: int = Field(4096, ge=1, le=MOST_COUNT, description="Calls that are answered at the same time.")
    max_calls_per_caller: int = Field(128, ge=1, le=MOST_COUNT, description="Such calls of one caller.")
    max_connections: int = Field(4096, ge=1, le=MOST_COUNT, description="Connections to each port.")
    receive_seconds: float = Field(
        20.0, gt=0, le=86_400, description="Longest time for a message, a REST head or body to arrive."
    )
    max_call_seconds: float = Field(
        60.0, gt=0, le=MOST_SECONDS, description="Longest unary call, whatever deadline the client sets."
    )
    drain_notice_seconds: float = Field(
        3.0, ge=0, le=MOST_SECONDS, description="Time between reporting NOT_SERVING and refusing new calls."
    )
    drain_seconds: float = Field(
        30.0, ge=0, le=MOST_SECONDS, description="Time for running calls to finish after that."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log line kept.")
    otlp_endpoint: str | None = Field(
        None, description="OpenTelemetry collector (gRPC), such as http://otel:4317; OTEL_* variables count too."
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            prefix = self.model_config["env_prefix"]
            found = [f"{prefix}{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
            raise UsageError("settings refused: " + "; ".join(found)) from error

    @property
    def tls(self) -> bool:
        """Whether the ports speak TLS."""
        return self.tls_cert_file is not None

    @property
    def authenticates(self) -> bool:
        """Whether callers must identify themselves."""
        return self.tls_client_ca_file is not None

    @property
    def ways_to_authenticate(self) -> str:
        """Settings of which one makes callers identify themselves."""
        return "EOFORGE_TLS_CLIENT_CA_FILE"

    def require_consistent(self) -> None:
        """Refuses settings that contradict each other or expose the service.

        Raises:
            UsageError: With what to set.
        """
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise UsageError("TLS needs both EOFORGE_TLS_CERT_FILE and EOFORGE_TLS_KEY_FILE; got one of them")
        if self.tls_client_ca_file is not None and not self.tls:
            raise UsageError("EOFORGE_TLS_CLIENT_CA_FILE (mutual TLS) needs EOFORGE_TLS_CERT_FILE and _KEY_FILE too")
        missing = [
            what
            for present, what in (
                (self.tls, "TLS (EOFORGE_TLS_CERT_FILE, EOFORGE_TLS_KEY_FILE)"),
                (self.authenticates, f"authentication ({self.ways_to_authenticate})"),
            )
            if not present
        ]
        if missing and not self.insecure and not is_loopback(self.host):
            raise UsageError(
                f"refusing to listen on {self.host} without {' and without '.join(missing)}. Set them, listen on "
                "127.0.0.1, or set EOFORGE_INSECURE=true if the network around this service provides them"
            )


class RuntimeSettings(HttpSettings):
    """Settings common to all services with gRPC."""

    port: int = Field(8081, ge=0, le=65535, description="gRPC port: the typed API and OIP V2. 0 takes a free one.")
    health_port: int | None = Field(
        None, ge=0, le=65535, description="Plaintext port with grpc.health.v1 alone, for probes that speak no TLS."
    )
    token_key_file: Path | None = Field(
        None, description="Key that bearer tokens are verified with: PEM public key, JWKS, or HS256 secret."
    )
    token_algorithm: Literal["RS256", "ES256", "EdDSA", "HS256"] = Field(
        "RS256", description="The one algorithm that is accepted."
    )
    token_audience: str | None = Field(None, description="Required aud claim.")
    token_issuer: str | None = Field(None, description="Required iss claim.")
    quota_per_second: float | None = Field(
        None, gt=0, le=1e9, description="Requests a second per caller; unset: no quota."
    )
    quota_burst: int = Field(
        20, ge=1, le=MOST_COUNT, description="Requests that a caller may make at once before the rate counts."
    )
    max_message_bytes: int = Field(
        16 << 20,
        ge=1 << 10,
        le=MOST_BYTES,
        description="Largest gRPC message or REST body, of calls that carry pixels or streams.",
    )
    max_plain_bytes: int = Field(
        256 << 10,
        ge=1 << 10,
        le=MOST_BYTES,
        description="Largest message of other calls, and largest JSON part of a REST body times 8.",
    )
    max_elements: int = Field(
        16_384,
        ge=1000,
        le=MOST_COUNT,
        description="Most fields and numbers in one message; JSON values in one body: eight times that.",
    )
    max_inflight_bytes: int = Field(
        256 << 20,
        ge=1 << 20,
        le=1 << 50,
        description="Bytes of messages in flight over all calls; a caller has at most half of them.",
    )
    max_streams_per_caller: int = Field(
        16, ge=1, le=MOST_COUNT, description="Streams of requests of one caller at the same time."
    )
    stream_idle_seconds: float = Field(
        300.0, gt=0, le=MOST_SECONDS, description="A stream of requests that sends nothing for so long is ended."
    )
    reflection: bool = Field(True, description="Serve gRPC reflection (grpcurl needs it).")

    def __init__(self, **values: Any) -> None:  # explicit, because type checkers would otherwise require every field
        super().__init__(**values)

    @property
    def max_json_values(self) -> int:
        """Most values in the JSON of a REST request or answer."""
        return _JSON_FACTOR * self.max_elements

    @property
    def max_json_bytes(self) -> int:
        """Largest JSON of a REST request, and most bytes of texts in the JSON of an answer."""
        return _JSON_FACTOR * self.max_plain_bytes

    @property
    def authenticates(self) -> bool:
        """Whether callers must identify themselves."""
        return self.token_key_file is not None or super().authenticates

    @property
    def ways_to_authenticate(self) -> str:
        """Settings of which one makes callers identify themselves."""
        return f"EOFORGE_TOKEN_KEY_FILE or {super().ways_to_authenticate}"

    def require_consistent(self) -> None:
        """Refuses settings that contradict each other or expose the service.

        Raises:
            UsageError: With what to set.
        """
        if self.token_key_file is not None and not (self.token_audience and self.token_issuer):
            raise UsageError("EOFORGE_TOKEN_KEY_FILE needs EOFORGE_TOKEN_AUDIENCE and EOFORGE_TOKEN_ISSUER too")
        super().require_consistent()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
