"""A real OpenID Connect provider on this machine, which demands PKCE."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import flask
import httpx
import oidc_provider_mock
import werkzeug.serving

CLIENT = "eoforge-console"


@dataclass(frozen=True)
class Provider:
    """Address of a running provider, and what it has seen."""

    issuer: str
    verified: list[str]

    def jwks(self, folder: Path) -> Path:
        """File with its public keys, as a service wants them."""
        path = folder / "jwks.json"
        path.write_bytes(httpx.get(f"{self.issuer}/jwks").content)
        return path


@contextmanager
def running_provider(seconds: float = 3600.0, host: str = "127.0.0.1") -> Iterator[Provider]:
    """The provider during the block, at an address of this machine; its tokens last so long."""
    app = oidc_provider_mock.app(require_nonce=True, access_token_max_age=timedelta(seconds=seconds))
    challenges: set[str] = set()
    verified: list[str] = []

    @app.before_request
    def demand_pkce() -> flask.typing.ResponseReturnValue | None:
        request = flask.request
        if request.path == "/oauth2/authorize":
            if request.args.get("code_challenge_method") != "S256" or not request.args.get("code_challenge"):
                return "expected PKCE with S256", 400
            challenges.add(request.args["code_challenge"])
        if request.path == "/oauth2/token" and request.form.get("grant_type") == "authorization_code":
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
        yield Provider(f"http://{host}:{server.server_port}", verified)
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
