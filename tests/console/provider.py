"""A real OpenID Connect provider on the loopback address, which demands PKCE and knows one client of a console."""

from __future__ import annotations

import base64
import hashlib
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import flask
import httpx
import oidc_provider_mock
import werkzeug.serving
from oidc_provider_mock._app import AuthorizationCodeGrant, RefreshTokenGrant
from oidc_provider_mock._storage import Client, ClientAllowAny, storage

from eoforge.storage.seaweed import free_ports

CLIENT, SECRET = "eoforge-console", "the client's secret"
for grant in (AuthorizationCodeGrant, RefreshTokenGrant):  # authlib takes public clients only where a grant says so
    grant.TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "none"]


@dataclass(frozen=True)
class Provider:
    """A running provider, and what it has seen.

    Attributes:
        issuer: Its address.
        public: Whether its client is public: without a secret.
        verified: Challenges whose verifier came.
        ways: How the client identified itself at the token endpoint: ``secret`` or ``none``.
    """

    issuer: str
    public: bool
    verified: list[str]
    ways: list[str]

    def jwks(self, folder: Path) -> Path:
        """File with its public keys, as a service wants them."""
        path = folder / "jwks.json"
        path.write_bytes(httpx.get(f"{self.issuer}/jwks").content)
        return path


@contextmanager
def running_provider(seconds: float = 3600.0, *, public: bool = False, host: str = "127.0.0.1") -> Iterator[Provider]:
    """The provider during the block.

    Args:
        seconds: Time that its tokens last.
        public: Whether its client has no secret.
        host: Name or address of this machine; to a browser, ``localhost`` is another site than the console's.
    """
    app = oidc_provider_mock.app(
        require_client_registration=True, require_nonce=True, access_token_max_age=timedelta(seconds=seconds)
    )
    client = Client(
        id=CLIENT,
        secret=SECRET,
        redirect_uris=ClientAllowAny(),
        allowed_scopes=Client.SCOPES_SUPPORTED,
        token_endpoint_auth_method="none" if public else "client_secret_basic",
    )
    challenges: set[str] = set()
    verified: list[str] = []
    ways: list[str] = []

    @app.before_request
    def demand_pkce() -> flask.typing.ResponseReturnValue | None:
        request = flask.request
        storage.store_client(client)
        if request.path == "/oauth2/authorize":
            if request.args.get("code_challenge_method") != "S256" or not request.args.get("code_challenge"):
                return "expected PKCE with S256", 400
            challenges.add(request.args["code_challenge"])
        if request.path == "/oauth2/token" and request.form.get("grant_type") == "authorization_code":
            ways.append("none" if request.authorization is None else "secret")
            digest = hashlib.sha256(request.form.get("code_verifier", "").encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            if challenge not in challenges:
                return flask.jsonify({"error": "invalid_grant"}), 400
            verified.append(challenge)
        return None

    server = werkzeug.serving.make_server(host, 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield Provider(f"http://{host}:{server.server_port}", public, verified, ways)
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@cache
def secret(words: str = SECRET) -> Path:
    """File with a client's secret."""
    path = Path(tempfile.mkdtemp()) / "secret"
    path.write_text(f"{words}\n")
    return path


def signing_in(provider: Provider, **values: Any) -> dict[str, Any]:
    """Settings of a console whose people sign in there."""
    (port,) = free_ports(1)
    given = {
        "rest_port": port,
        "public_url": f"http://127.0.0.1:{port}",
        "oidc_issuer": provider.issuer,
        "oidc_client_id": CLIENT,
        "oidc_client_secret_file": None if provider.public else secret(),
        "oidc_service_token": "id_token",
    }
    return given | values


def trusting(provider: Provider, folder: Path) -> dict[str, Any]:
    """Settings of a service that takes this provider's tokens alone."""
    return {"token_key_file": provider.jwks(folder), "token_audience": CLIENT, "token_issuer": provider.issuer}
