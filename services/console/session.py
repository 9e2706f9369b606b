"""Sessions in encrypted cookies, the caller of a request, and the token that every form carries.

A session holds the caller's tokens, so that any replica answers any request. Browsers keep cookies of 4 KiB; a longer
session is spread over several.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Annotated, Any, Self

import jwt
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from fastapi import Depends, Request
from starlette.datastructures import FormData

from eoforge.errors import EoforgeError, UsageError
from services._runtime.errors import PermissionDenied
from services.console.settings import LEAST_KEY_BYTES, ConsoleSettings

MAX_COOKIE_CHARS, MAX_COOKIES = 3800, 4
CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"
MAX_PARTS, MAX_FIELD_BYTES = 100, 64 << 10
"""Files of a form, its other fields, and bytes of one of these."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class SignInNeeded(EoforgeError):
    """Request of somebody who has not signed in, or whose session has ended."""

    reason = "UNAUTHENTICATED"


@dataclass(frozen=True)
class Session:
    """Content of the session cookie.

    Attributes:
        csrf: Secret that forms of this session carry.
        began: Unix time of the sign-in, or of the first visit without one.
        name: Name of the signed-in person for display; empty for nobody.
        subject: ``sub`` claim; empty for nobody.
        token: Bearer token for the services.
        expires: Unix time at which the token ends; 0 if it does not say.
        refresh: Refresh token; empty without one.
    """

    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    began: float = field(default_factory=time.time)
    name: str = ""
    subject: str = ""
    token: str = field(default="", repr=False)
    expires: float = 0.0
    refresh: str = field(default="", repr=False)

    def signed_in(self, **values: Any) -> Self:
        """Session after a sign-in: nothing of the former one remains."""
        return replace(self, csrf=secrets.token_urlsafe(32), began=time.time(), **values)


@dataclass(frozen=True)
class Caller:
    """Person behind a request.

    Attributes:
        name: Name for display.
        subject: Identity, as the services see it; ``anonymous`` where nobody signs in.
        token: Bearer token that goes on to the services; None without one.
        csrf: Secret that the page's forms carry.
    """

    name: str
    subject: str
    token: str | None = field(repr=False)
    csrf: str = field(repr=False)


class Cookies:
    """Encrypted, authenticated cookies of one name.

    Args:
        settings: Keys, and whether browsers reach the console over TLS.
        name: Name of the cookie.
        seconds: Time after which it counts no more.
    """

    def __init__(self, settings: ConsoleSettings, name: str, seconds: float) -> None:
        self._name = f"__Host-{name}" if settings.secure else name
        self._secure, self._seconds = settings.secure, int(seconds)
        # The name goes into the key: a cookie of one kind is none of another kind.
        self._box = MultiFernet([_box(key, name) for key in _keys(settings.session_key_file)])

    def read(self, cookies: Mapping[str, str]) -> dict[str, Any] | None:
        """Content; None if there is none, or it was not made here, was changed, or is too old."""
        parts = [cookies.get(f"{self._name}.{number}", "") for number in range(MAX_COOKIES)]
        try:
            found = json.loads(self._box.decrypt("".join(parts), ttl=self._seconds))
        except (InvalidToken, ValueError, TypeError):
            return None
        return found if isinstance(found, dict) else None

    def write(self, content: dict[str, Any], present: Mapping[str, str]) -> list[str]:
        """Values of ``Set-Cookie`` that replace the cookies of ``present``.

        Raises:
            UsageError: The content is too long for cookies.
        """
        text = self._box.encrypt(json.dumps(content, separators=(",", ":")).encode()).decode()
        parts = [text[start : start + MAX_COOKIE_CHARS] for start in range(0, len(text), MAX_COOKIE_CHARS)]
        if len(parts) > MAX_COOKIES:
            raise UsageError("the provider's tokens are too long for cookies; ask it for fewer claims")
        return [self._header(number, part, self._seconds) for number, part in enumerate(parts)] + self._gone(
            present, len(parts)
        )

    def clear(self, present: Mapping[str, str]) -> list[str]:
        """Values of ``Set-Cookie`` that remove the cookies of ``present``."""
        return self._gone(present, 0)

    def _gone(self, present: Mapping[str, str], first: int) -> list[str]:
        numbers = [number for number in range(first, MAX_COOKIES) if f"{self._name}.{number}" in present]
        return [self._header(number, "", 0) for number in numbers]

    def _header(self, number: int, value: str, seconds: int) -> str:
        cookie: SimpleCookie = SimpleCookie({f"{self._name}.{number}": value})
        (morsel,) = cookie.values()
        secure = "; Secure" if self._secure else ""
        return f"{morsel.OutputString()}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"


class Sessions:
    """Sessions of the console.

    Args:
        settings: How people sign in, and for how long.
    """

    def __init__(self, settings: ConsoleSettings) -> None:
        self.settings = settings
        self._cookies = Cookies(settings, "eoforge_session", settings.session_seconds)
        self._static = settings.token.get_secret_value() if settings.token is not None else None

    def load(self, cookies: Mapping[str, str]) -> tuple[Session, bool]:
        """Session of a request, and whether it is new and must be sent."""
        found = self._cookies.read(cookies)
        try:
            session = Session(**(found or {}))
        except TypeError:  # a cookie of another release of the console
            return Session(), True
        lasting = found is not None and time.time() - session.began < self.settings.session_seconds
        return (session, False) if lasting else (Session(), True)

    def headers(self, session: Session, cookies: Mapping[str, str]) -> list[str]:
        """Values of ``Set-Cookie`` for a session."""
        return self._cookies.write(asdict(session), cookies)

    def caller(self, session: Session) -> Caller:
        """Caller of a session.

        Raises:
            SignInNeeded: People sign in here, and this one has not, or the token has expired.
        """
        if not self.settings.signs_in:
            name = "anonymous" if self._static is None else subject_of(self._static)
            return Caller(name, name, self._static, session.csrf)
        if not session.token:
            raise SignInNeeded("sign in to see this page")
        if session.expires and session.expires <= time.time():
            raise SignInNeeded("the session has ended; sign in again")
        return Caller(session.name, session.subject, session.token, session.csrf)


def subject_of(token: str) -> str:
    """``sub`` claim of a token for display; the services verify it, and the console decides nothing by it."""
    try:
        return str(jwt.decode(token, options={"verify_signature": False})["sub"])
    except (jwt.PyJWTError, KeyError):
        return "token"


def caller(request: Request) -> Caller:
    """Dependency: the caller of a request.

    Raises:
        SignInNeeded: People sign in here, and this one has not.
    """
    sessions: Sessions = request.app.state.sessions
    return sessions.caller(request.state.session)


SignedIn = Annotated[Caller, Depends(caller)]
"""Parameter of a route: its caller; people who have not signed in are sent to do so."""


async def form_of(request: Request) -> FormData:
    """Dependency: the form of a request within the bounds on its parts; read once."""
    return await request.form(max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=MAX_FIELD_BYTES)


async def require_csrf(request: Request) -> None:
    """Dependency of all routes: a request that changes something carries its session's token.

    The token is the field ``csrf`` of the form, or the header ``x-csrf-token``, which htmx sends.

    Raises:
        PermissionDenied: It carries none or another.
    """
    if request.method in SAFE_METHODS:
        return
    given: object = request.headers.get(CSRF_HEADER)
    if not given:
        form = await form_of(request)
        given = form.get(CSRF_FIELD)
    session: Session = request.state.session
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), session.csrf.encode()):
        raise PermissionDenied(
            "the form was not made by this page, or your session has ended since; nothing was changed. Reload the page "
            "and send it again"
        )


def _box(key: bytes, name: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(name.encode() + b"\0" + key).digest()))


def _keys(path: Path | None) -> list[bytes]:
    if path is None:
        return [secrets.token_bytes(LEAST_KEY_BYTES)]
    try:
        keys = [line.strip() for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise UsageError(f"EOFORGE_SESSION_KEY_FILE cannot be read: {error.strerror}") from error
    if not keys or min(map(len, keys)) < LEAST_KEY_BYTES:
        raise UsageError(f"EOFORGE_SESSION_KEY_FILE: expected secrets of at least {LEAST_KEY_BYTES} bytes, one a line")
    return keys
