"""Settings of the web console (``EOFORGE_*`` environment variables)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from eoforge.errors import UsageError
from services._runtime.settings import MOST_BYTES, MOST_SECONDS, HttpSettings, is_loopback

LEAST_KEY_BYTES = 32
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
_PORT = r":(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_URL = re.compile(rf"https?://{_HOST}(?:{_PORT})?(?:[/?]|$)")
_TARGET = re.compile(rf"unix:[!-~]+|dns:[!-~]+|(?:ipv[46]:)?{_HOST}{_PORT}(?:,{_HOST}{_PORT})*")


class ConsoleSettings(HttpSettings):
    """Settings of sign-in, sources and limits; see :class:`HttpSettings` for the others."""

    rest_port: int = Field(8090, ge=0, le=65535, description="HTTP port: pages and /metrics. 0 takes a free one.")
    public_url: str | None = Field(
        None, description="Address by which browsers reach the console, such as https://console.example.org."
    )

    retrieval_target: str | None = Field(None, description="Retrieval service, HOST:PORT; unset: no search.")
    federation_target: str | None = Field(
        None, description="Coordinator, HOST:PORT, or several separated by commas; unset: no page of federations."
    )
    compression_target: str | None = Field(
        None, description="Compression service, HOST:PORT; unset: learned streams are listed without their quality."
    )
    owner_targets: str = Field(
        "",
        description="Retrieval services of other owners, OWNER=HOST:PORT separated by commas: pictures of their hits "
        "are asked there, when somebody looks, and the caller's token goes there too.",
    )
    service_ca_file: Path | None = Field(None, description="CA certificate (PEM) of these services; turns TLS on.")
    service_tls: Literal["auto", "on", "off"] = Field(
        "auto", description="TLS to these services; auto: except to the loopback address. off: the network encrypts."
    )
    service_seconds: float = Field(10.0, gt=0, le=MOST_SECONDS, description="Longest call of a service.")

    patches_uri: str | None = Field(None, description="patches.lance, a path or s3:// URI; unset: no page of it.")
    streams_uri: str | None = Field(None, description="streams.lance of these patches; unset: none are shown.")
    runs_uri: str | None = Field(None, description="Folder with run bundles, a path or s3:// URI; unset: no page.")
    annotations_uri: str | None = Field(
        None, description="Folder with annotation sessions, a path or s3:// URI; unset: no page."
    )

    token: SecretStr | None = Field(
        None,
        description="Bearer token that goes on to the services for everyone who reaches the console: for a laptop.",
    )
    oidc_issuer: str | None = Field(None, description="OpenID Connect provider; turns sign-in on.")
    oidc_client_id: str | None = Field(None, description="Client id of the console at the provider.")
    oidc_client_secret_file: Path | None = Field(
        None, description="Client secret; unset: a public client, with PKCE alone."
    )
    oidc_scope: str = Field("openid profile email", description="Scopes that are asked for.")
    oidc_audience: str | None = Field(
        None, description="audience parameter of the sign-in, for providers that want one to issue a JWT."
    )
    oidc_service_token: Literal["access_token", "id_token"] = Field(
        "access_token", description="Which of the provider's tokens goes on to the services."
    )
    session_key_file: Path | None = Field(
        None,
        description="Secret of at least 32 bytes that cookies are encrypted with, one a line, the first for new ones; "
        "unset: a new one at each start. Replicas need the same.",
    )
    session_seconds: float = Field(
        8 * 3600.0, ge=60, le=MOST_SECONDS, description="Longest time from a sign-in to the next."
    )

    max_form_bytes: int = Field(64 << 10, ge=1 << 10, le=MOST_BYTES, description="Largest form without files.")
    max_upload_bytes: int = Field(
        64 << 20, ge=1 << 10, le=MOST_BYTES, description="Largest upload: all files of an image."
    )
    base_map_url: str | None = Field(
        None,
        description="Tiles of a base map, https://HOST/{z}/{x}/{y}.png; unset: footprints alone, no foreign server.",
    )
    base_map_credit: str = Field("", description="Credit that the licence of the base map asks for.")

    def __init__(self, **values: Any) -> None:  # explicit, because type checkers would otherwise require every field
        super().__init__(**values)

    @property
    def signs_in(self) -> bool:
        """Whether people sign in."""
        return self.oidc_issuer is not None

    @property
    def secure(self) -> bool:
        """Whether browsers reach the console over TLS, so that cookies can demand it."""
        return self.tls or (self.public_url or "").startswith("https://")

    @property
    def authenticates(self) -> bool:
        """Whether people must identify themselves."""
        return self.signs_in or super().authenticates

    @property
    def ways_to_authenticate(self) -> str:
        """Settings of which one makes people identify themselves."""
        return "EOFORGE_OIDC_ISSUER"

    @property
    def host_names(self) -> frozenset[str]:
        """Hosts that requests may name; empty for any. Without a check, a foreign page could rebind its name to us."""
        if self.public_url is not None:
            return frozenset({str(urlsplit(self.public_url).hostname)})
        return frozenset({"localhost", "127.0.0.1", "::1", self.host}) if is_loopback(self.host) else frozenset()

    @property
    def owners(self) -> dict[str, str]:
        """Address of the retrieval service of each owner whose pictures may be asked.

        Raises:
            UsageError: An entry has another form.
        """
        pairs = [entry.strip().partition("=") for entry in self.owner_targets.split(",") if entry.strip()]
        if wrong := [name for name, _, target in pairs if not (name and _TARGET.fullmatch(target))]:
            raise UsageError(f"EOFORGE_OWNER_TARGETS: expected OWNER=HOST:PORT; got {wrong[0][:80]!r}")
        return {name: target for name, _, target in pairs}

    @property
    def base_map_origin(self) -> str:
        """Origin of the base map's tiles; empty without one."""
        parts = urlsplit(self.base_map_url or "")
        return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""

    def require_consistent(self) -> None:
        """Refuses settings that contradict each other or expose the console.

        Raises:
            UsageError: With what to set.
        """
        super().require_consistent()
        _ = self.owners
        if self.signs_in and not (self.oidc_client_id and self.public_url):
            raise UsageError("EOFORGE_OIDC_ISSUER needs EOFORGE_OIDC_CLIENT_ID and EOFORGE_PUBLIC_URL too")
        if self.signs_in and self.token is not None:
            raise UsageError("EOFORGE_TOKEN would give everyone one identity; with EOFORGE_OIDC_ISSUER leave it out")
        for name in ("public_url", "oidc_issuer", "base_map_url"):
            value = getattr(self, name)
            if value is None:
                continue
            if not (_URL.match(value) and value.isascii() and value.isprintable()):  # it may hold a password
                raise UsageError(f"EOFORGE_{name.upper()}: expected https://HOST or https://HOST:PORT, and a path")
            if value.startswith("http:") and not (self.insecure or is_loopback(str(urlsplit(value).hostname))):
                raise UsageError(f"EOFORGE_{name.upper()}: expected https:// (or EOFORGE_INSECURE=true)")
        for name in ("retrieval_target", "federation_target", "compression_target"):
            value = getattr(self, name)
            if value is not None and not _TARGET.fullmatch(value):
                raise UsageError(f"EOFORGE_{name.upper()}: expected HOST:PORT, without scheme, user and password")
        if self.token is not None and not re.fullmatch("[!-~]{1,8192}", self.token.get_secret_value()):
            raise UsageError("EOFORGE_TOKEN: expected 1 to 8192 letters, digits and signs of ASCII on one line")
