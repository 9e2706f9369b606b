"""Authentication of callers: a bearer token (JWT), a client certificate, or both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from eoforge.errors import UsageError
from services._runtime.errors import Unauthenticated
from services._runtime.files import ReloadedFiles
from services._runtime.settings import RuntimeSettings

SCHEME = "bearer "
MAX_TOKEN_CHARS = 8192
MIN_SECRET_BYTES, MIN_RSA_BITS = 32, 2048
KEY_TYPES: dict[str, tuple[str, str | None]] = {
    "RS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
    "HS256": ("oct", None),
}
"""Algorithm -> type and curve of its keys in a JWKS (RFC 7518, RFC 8037)."""
_CLAIMS = ["exp", "aud", "iss", "sub"]
_LEEWAY_S = 10

log = structlog.get_logger("auth")


@dataclass(frozen=True, slots=True)
class Caller:
    """Identity of a caller. Quotas count per ``name``; ``way`` is token, certificate or anonymous.

    ``scopes`` are what a token grants (its ``scope`` claim, separated by blanks, as in RFC 8693); ``certificate`` is
    the client certificate of a gRPC call (PEM), also of a caller that was identified by a token.
    """

    name: str
    way: str
    scopes: frozenset[str] = frozenset()
    certificate: bytes = b""


CALLER: ContextVar[Caller] = ContextVar("caller")
"""Caller of the current call; set by the interceptor."""


class Authenticator:
    """Authentication as the settings require.

    With a token key, every caller needs a token signed by the one accepted algorithm with expiry, audience, issuer and
    subject. With a client CA alone, the certificate (already verified by the TLS handshake) names the caller. With
    neither, the address of a caller is its name.

    Args:
        settings: Required credentials.
        either: With key and CA, a certificate or a token is enough (each has its own port).

    Raises:
        UsageError: The key file cannot be read or holds no key for the algorithm.
    """

    def __init__(self, settings: RuntimeSettings, *, either: bool = False) -> None:
        self._settings, self._either = settings, either
        self._keys: TokenKeys | None = None
        if settings.token_key_file is not None:
            self._keys = TokenKeys(settings.token_key_file, settings.token_algorithm)

    def identify(self, authorization: str | None, certificate_names: Sequence[str], address: str) -> Caller:
        """Caller of one request.

        Args:
            authorization: The ``authorization`` header.
            certificate_names: Subject alternative names of the verified client certificate.
            address: Address of the peer.

        Raises:
            Unauthenticated: A required credential is missing or invalid.
        """
        if self._either and certificate_names and authorization is None:
            return Caller(certificate_names[0], "certificate")
        if self._keys is not None:
            claims = self._claims(self._keys, authorization)
            subject, scope = claims["sub"], claims.get("scope")
            if not isinstance(subject, str) or not subject.strip() or not subject.isprintable():
                raise Unauthenticated("expected a token whose sub claim names its holder")
            return Caller(subject, "token", frozenset(scope.split() if isinstance(scope, str) else ()))
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
        try:
            return self._decode(token, keys.candidates(token))
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("the token has expired; get a new one") from error
        except jwt.InvalidAudienceError as error:
            audience = self._settings.token_audience
            raise Unauthenticated(f"the token is for another audience than {audience!r}") from error
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError) as error:
            raise Unauthenticated("the token was refused: signature, issuer or required claims do not hold") from error

    def _decode(self, token: str, candidates: Sequence[Any]) -> dict[str, Any]:
        settings = self._settings
        for number, key in enumerate(candidates, start=1):
            try:
                return jwt.decode(
                    token,
                    key,
                    algorithms=[settings.token_algorithm],
                    audience=settings.token_audience,
                    issuer=settings.token_issuer,
                    leeway=_LEEWAY_S,
                    options={"require": _CLAIMS},
                )
            except jwt.InvalidSignatureError:
                if number == len(candidates):
                    raise
        raise Unauthenticated("the token is signed with a key that this service does not know")


class TokenKeys:
    """Verification keys of a file: PEM public key, JWKS as identity providers publish it, or HS256 secret.

    Of a JWKS the signature keys of the algorithm are taken. Keys of other types or uses, and keys that are too short,
    are left out with a log line.

    Args:
        path: File; read again when it changes.
        algorithm: Accepted algorithm.

    Raises:
        UsageError: The file holds no usable key at the start.
    """

    def __init__(self, path: Path, algorithm: str) -> None:
        self._algorithm = algorithm
        self._file = ReloadedFiles("EOFORGE_TOKEN_KEY_FILE", [path], self._parse)

    def candidates(self, token: str) -> list[Any]:
        """Keys that may verify a token: those with its key id, else those without an id, else the only one.

        Raises:
            Unauthenticated: No key fits.
            jwt.PyJWTError: The header is malformed.
        """
        keys = self._file.value
        kid = jwt.get_unverified_header(token).get("kid")
        if kid is None:
            return [key for _, key in keys]
        found = [key for name, key in keys if name == kid] or [key for name, key in keys if name is None]
        if not found and len(keys) != 1:
            raise Unauthenticated("the token is signed with a key that this service does not know")
        return found or [keys[0][1]]

    def _parse(self, content: bytes) -> list[tuple[str | None, Any]]:
        text = content.strip()
        if text.startswith(b"{"):
            return self._key_set(json.loads(text))
        if self._algorithm == "HS256" and not text.startswith(b"-----BEGIN"):
            return [(None, _long_enough(text))]
        return [(None, _long_enough(jwt.get_algorithm_by_name(self._algorithm).prepare_key(text)))]

    def _key_set(self, found: dict[str, Any]) -> list[tuple[str | None, Any]]:
        keys = []
        for number, entry in enumerate(found["keys"]):
            try:
                keys.append(self._key(entry))
            except (ValueError, TypeError, KeyError, AttributeError, jwt.PyJWTError, UsageError) as error:
                why = str(error) if isinstance(error, UsageError) else type(error).__name__
                log.warning("key of a JWKS is left out", number=number, why=why)
        if not keys:
            raise UsageError(f"the JWKS holds no signature key for {self._algorithm}")
        return keys

    def _key(self, entry: dict[str, Any]) -> tuple[str | None, Any]:
        kind, curve = KEY_TYPES[self._algorithm]
        if entry.get("kty") != kind or (curve is not None and entry.get("crv") != curve):
            raise UsageError(f"expected kty {kind}" + (f" and crv {curve}" if curve else ""))
        if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
            raise UsageError("expected a key for signatures (use sig)")
        if entry.get("alg", self._algorithm) != self._algorithm:
            raise UsageError(f"expected alg {self._algorithm}")
        kid = entry.get("kid")
        if kid is not None and not isinstance(kid, str):
            raise UsageError("expected a text as kid")
        return kid, _long_enough(jwt.PyJWK.from_dict(entry, self._algorithm).key)


def _long_enough(key: Any) -> Any:
    """The public half of a key that is long enough.

    Raises:
        UsageError: The key is too short.
    """
    key = key.public_key() if hasattr(key, "public_key") else key
    if isinstance(key, bytes) and len(key) < MIN_SECRET_BYTES:
        raise UsageError(f"an HS256 secret needs at least {MIN_SECRET_BYTES} bytes; got {len(key)}")
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise UsageError(f"an RSA key needs at least {MIN_RSA_BITS} bits; got {key.key_size}")
    return key
