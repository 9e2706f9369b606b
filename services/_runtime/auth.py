"""Who is calling: a bearer token (JWT) and/or a client certificate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from eoforge.errors import UsageError
from services._runtime.errors import Unauthenticated
from services._runtime.settings import RuntimeSettings

SCHEME = "bearer "
MAX_TOKEN_CHARS = 8192
MIN_SECRET_BYTES = 32
_CLAIMS = ["exp", "aud", "iss", "sub"]
_LEEWAY_S = 10


@dataclass(frozen=True, slots=True)
class Caller:
    """Quotas count per ``name``; ``way`` is token, certificate or anonymous.

    ``scopes`` are what a token grants (its ``scope`` claim, separated by blanks, as in RFC 8693); ``certificate`` is
    the client certificate of a gRPC call (PEM), whatever way the caller was identified by.
    """

    name: str
    way: str
    scopes: frozenset[str] = frozenset()
    certificate: bytes = b""


CALLER: ContextVar[Caller] = ContextVar("caller")
"""Who makes the call that is being answered; the interceptor sets it."""


class Authenticator:
    """Identifies callers as the settings demand.

    With a token key, every caller needs a token signed by the one accepted algorithm with expiry, audience, issuer and
    subject. With a client CA alone, the certificate (already verified by the TLS handshake) names the caller. With
    neither, callers are told apart by address.

    Args:
        settings: What is demanded.
        either: With key and CA, a certificate or a token suffices (they come in on different ports).

    Raises:
        UsageError: The key file cannot be read or holds no key for the algorithm.
    """

    def __init__(self, settings: RuntimeSettings, *, either: bool = False) -> None:
        self._settings, self._either = settings, either
        self._keys: TokenKeys | None = None
        if settings.token_key_file is not None:
            self._keys = TokenKeys(settings.token_key_file, settings.token_algorithm)

    def identify(self, authorization: str | None, certificate_names: Sequence[str], address: str) -> Caller:
        """The caller of one request.

        Args:
            authorization: The ``authorization`` header.
            certificate_names: Alternative names of the verified client certificate, or none.
            address: Where the request comes from.

        Raises:
            Unauthenticated: What is demanded is missing or does not hold.
        """
        if self._either and certificate_names and authorization is None:
            return Caller(certificate_names[0], "certificate")
        if self._keys is not None:
            claims = self._claims(self._keys, authorization)
            return Caller(str(claims["sub"]), "token", frozenset(str(claims.get("scope", "")).split()))
        if self._settings.tls_client_ca_file is not None:
            if not certificate_names:
                raise Unauthenticated("expected a client certificate with a subject alternative name; there is none")
            return Caller(certificate_names[0], "certificate")
        return Caller(f"anonymous@{address}", "anonymous")

    def _claims(self, keys: TokenKeys, authorization: str | None) -> dict[str, Any]:
        if authorization is None or not authorization.lower().startswith(SCHEME):
            raise Unauthenticated("expected the header 'authorization: Bearer TOKEN'; there is none")
        if len(authorization) > MAX_TOKEN_CHARS:
            raise Unauthenticated(f"expected a token of at most {MAX_TOKEN_CHARS} characters")
        token = authorization[len(SCHEME) :].strip()
        settings = self._settings
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                keys.key_for(token),
                algorithms=[settings.token_algorithm],
                audience=settings.token_audience,
                issuer=settings.token_issuer,
                leeway=_LEEWAY_S,
                options={"require": _CLAIMS},
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("the token has expired; get a new one") from error
        except jwt.InvalidAudienceError as error:
            raise Unauthenticated(f"the token is for another audience than {settings.token_audience!r}") from error
        except jwt.PyJWTError as error:
            raise Unauthenticated("the token was refused: signature, issuer or required claims do not hold") from error
        return claims


class TokenKeys:
    """The verification keys of one file, read again when the file changes (a rotated secret needs no restart)."""

    def __init__(self, path: Path, algorithm: str) -> None:
        self._path, self._algorithm = path, algorithm
        self._stamp: tuple[int, int] | None = None
        self._keys: dict[str | None, Any] = {}
        self._refresh()

    def key_for(self, token: str) -> Any:
        """The key that the token's header names, or the only one.

        Raises:
            Unauthenticated: No key has that name.
            jwt.PyJWTError: The header is malformed.
        """
        self._refresh()
        kid = jwt.get_unverified_header(token).get("kid")
        if kid in self._keys:
            return self._keys[kid]
        if len(self._keys) == 1:
            return next(iter(self._keys.values()))
        raise Unauthenticated("the token is signed with a key that this service does not know")

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if stamp != self._stamp:
                self._keys, self._stamp = self._load(self._path.read_bytes()), stamp
        except OSError as error:
            raise UsageError(f"cannot read EOFORGE_TOKEN_KEY_FILE {self._path}: {error}") from error

    def _load(self, content: bytes) -> dict[str | None, Any]:
        text = content.strip()
        try:
            if text.startswith(b"{"):
                keys = [jwt.PyJWK.from_dict(k) for k in json.loads(text)["keys"]]
                return {k.key_id: k.key for k in keys}
            if self._algorithm == "HS256":
                if len(text) < MIN_SECRET_BYTES:
                    raise UsageError(f"an HS256 secret needs at least {MIN_SECRET_BYTES} bytes; got {len(text)}")
                return {None: text}
            return {None: jwt.get_algorithm_by_name(self._algorithm).prepare_key(text)}
        except (ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
            raise UsageError(f"EOFORGE_TOKEN_KEY_FILE holds no key for {self._algorithm}: {error}") from error
