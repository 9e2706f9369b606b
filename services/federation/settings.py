"""Settings of the federation service (``EOFORGE_*`` environment variables)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from eoforge.errors import UsageError
from services._runtime.settings import MOST_BYTES, MOST_COUNT, MOST_SECONDS, MOST_THREADS, RuntimeSettings


class FederationSettings(RuntimeSettings):
    """Where runs live, and the limits of one run. See :class:`RuntimeSettings` for the rest."""

    federation_uri: str = Field(description="Where runs, rounds and updates are kept: a path or s3:// URI.")
    bundles_uri: str | None = Field(
        None, description="Where finished runs leave their run bundle; unset: bundles/ below EOFORGE_FEDERATION_URI."
    )
    silo_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Second gRPC port with mutual TLS for silos, when operators come with tokens to EOFORGE_PORT.",
    )
    revoked_file: Path | None = Field(
        None, description="Certificate revocation list (PEM) of the client CA; read again when it changes."
    )
    instance: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Name of this coordinator; a restart under the same name takes the lead back at once. "
        "Unset: the host name.",
    )
    lease_seconds: float = Field(
        15.0,
        gt=0,
        le=MOST_SECONDS,
        description="A coordinator silent for this long loses the lead, and all runs, to another one.",
    )
    heartbeat_seconds: float = Field(
        10.0, gt=0, le=MOST_SECONDS, description="Interval at which silos must send heartbeats."
    )
    retain_rounds: int = Field(
        2, ge=1, le=MOST_COUNT, description="Rounds whose updates are kept after they were reduced."
    )
    upload_seconds: float = Field(
        86400.0,
        gt=0,
        le=MOST_SECONDS,
        description="An initial model is deleted so long after its upload; runs keep their own.",
    )
    flush: bool = Field(
        True, description="On a local path: flush to the disk before acknowledging, so that a power cut loses nothing."
    )
    workers: int = Field(4, ge=1, le=MOST_THREADS, description="Threads that hash, check, store and reduce.")
    reflection: bool = Field(False, description="Serve gRPC reflection (grpcurl needs it).")

    max_model_bytes: int = Field(16 << 30, ge=1 << 10, le=1 << 50, description="Largest model or update.")
    max_silos: int = Field(1000, ge=1, le=MOST_COUNT, description="Most silos that may register.")
    max_runs: int = Field(100, ge=1, le=MOST_COUNT, description="Most runs that may be unfinished at the same time.")
    max_uploads: int = Field(
        64,
        ge=1,
        le=MOST_COUNT,
        description="Uploads at the same time; beyond that the caller with most of them loses one, or gets OVERLOADED.",
    )
    max_message_bytes: int = Field(
        8 << 20, ge=5 << 20, le=MOST_BYTES, description="Largest gRPC message; chunks have 4 MiB."
    )

    def __init__(
        self, **values: Any
    ) -> None:  # spelt out because type checkers would demand every field as an argument
        super().__init__(**values)

    def require_consistent(self) -> None:
        """Refuses contradictions.

        Raises:
            UsageError: With what to set.
        """
        super().require_consistent()
        if self.revoked_file is not None and self.tls_client_ca_file is None:
            raise UsageError("EOFORGE_REVOKED_FILE needs EOFORGE_TLS_CLIENT_CA_FILE, whose authority signs the list")
        if self.silo_port is not None and (self.tls_client_ca_file is None or self.token_key_file is None):
            raise UsageError(
                "EOFORGE_SILO_PORT separates callers with certificates from callers with tokens; it needs "
                "EOFORGE_TLS_CLIENT_CA_FILE and EOFORGE_TOKEN_KEY_FILE. With one of them leave it out"
            )
