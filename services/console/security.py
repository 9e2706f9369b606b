"""Guard of every request: host, origin and size come before the body; headers and cookies go with the answer."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from urllib.parse import urlsplit

import structlog
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from eoforge.errors import LimitExceeded, UsageError
from services._runtime.admission import Admission, Budget, Reservation
from services._runtime.errors import DeadlineExceeded, PermissionDenied
from services._runtime.fair import Shares
from services._runtime.interceptor import request_id_of
from services._runtime.telemetry import REQUESTS, SECONDS, Exposition
from services.console import problems
from services.console.live import MAX_PER_CALLER
from services.console.session import SAFE_METHODS, Session, Sessions
from services.console.settings import ConsoleSettings
from services.console.signin import Provider

LIVE, READY, METRICS, STATIC_PREFIX = "/health/live", "/health/ready", "/metrics", "/static/"
UPLOADS_AT_ONCE = 8
AT_ONCE = 8 + MAX_PER_CALLER
"""Requests of one caller that are answered at the same time, its live pages included; there are 40 threads for all."""
SIGN_OUT = "/sign-out"
FILES = "multipart/form-data"
_FORM = re.compile(
    rf'(?ai:({FILES}); ?boundary="?[\w+.-]{{1,70}}"?|application/x-www-form-urlencoded(; ?charset=utf-8)?)'
)
"""Kinds of forms; no parameter follows a boundary. Another character set is none that browsers send, and some take a
minute to decode 1 MB."""
_FIXED_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

log = structlog.get_logger("access")


class Guard:
    """ASGI middleware in front of the console.

    Args:
        app: The console; errors become its pages.
        settings: Limits.
        sessions: Sessions.
        provider: Provider that renews tokens; None where nobody signs in.
        uploads: Paths that take files.
        draining: Whether the process is about to end; readiness reports it.
    """

    def __init__(
        self,
        app: FastAPI,
        settings: ConsoleSettings,
        sessions: Sessions,
        provider: Provider | None,
        uploads: Iterable[str],
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._app, self._settings, self._sessions, self._provider = app, settings, sessions, provider
        self._uploads, self._draining = frozenset(uploads), draining
        self._admission = Admission(settings.max_calls, settings.max_calls_per_caller, settings.max_calls_per_caller)
        self._budget = Budget(UPLOADS_AT_ONCE * settings.max_upload_bytes, settings.receive_seconds)
        self._shares, self._exposition = Shares(AT_ONCE), Exposition()
        self._headers = _FIXED_HEADERS | {"content-security-policy": content_security_policy(settings)}
        if settings.secure:
            self._headers["strict-transport-security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        scope["app"] = self._app
        request = Request(scope)
        request_id = request_id_of(request.headers.get("x-request-id"))
        structlog.contextvars.bind_contextvars(request_id=request_id)
        headers = {**self._headers, "x-request-id": request_id}
        if (probe := await self._probe(scope["path"])) is not None:
            await probe(scope, receive, _with(send, lambda: headers, list))
            return
        static = scope["path"].startswith(STATIC_PREFIX)
        session, new = (Session(), False) if static else self._sessions.load(request.cookies)
        state = scope.setdefault("state", {})
        state.update(session=session, request_id=request_id)
        status, begun, started = 500, False, time.perf_counter()

        def cookies() -> list[str]:
            if static or not (new or state["session"] is not session):
                return []
            return self._sessions.headers(state["session"], request.cookies)

        guarded = _with(send, lambda: headers if static else {"cache-control": "no-store", **headers}, cookies)

        async def answer(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
            await guarded(message)

        settings = self._settings
        limit = asyncio.timeout(settings.max_call_seconds)
        known = bool(session.subject) or self._provider is None  # others get no page that takes a thread for long
        who = session.subject or (request.client.host if request.client else "unknown")
        reservation = Reservation(self._budget, who)
        try:
            async with limit:
                with self._admission.enter(who):
                    self._check_host(request)
                    if self._provider is not None:
                        state["session"] = await self._provider.renewed(session)
                    await self._check_body(request, state["session"], reservation)
                    async with self._shares.enter(who) if known else nullcontext():
                        safe = request.method in SAFE_METHODS
                        await self._app(scope, receive if safe else _in_time(receive, settings.receive_seconds), answer)
        except Exception as raised:
            if begun:  # the application's handler answered, or the answer broke off
                return
            late = DeadlineExceeded(f"an answer may take {settings.max_call_seconds:g} s")
            response = await problems.answer(request, late if limit.expired() else raised)
            await response(scope, receive, answer)
        finally:
            reservation.resize(0)
            self._record(scope, status, time.perf_counter() - started)

    async def _probe(self, path: str) -> Response | None:
        """Answer to a probe or to Prometheus, which have no session."""
        if path == METRICS:
            return await self._exposition.answer()
        if path == LIVE:
            return JSONResponse({"live": True})
        if path == READY:
            draining = self._draining()
            return JSONResponse({"ready": not draining}, status_code=503 if draining else 200)
        return None

    def _check_host(self, request: Request) -> None:
        """Refuses foreign names of this host, and forms of foreign pages, before anything is read.

        Raises:
            UsageError: The request names another host.
            PermissionDenied: Another site's page sends a form here.
        """
        known, host = self._settings.host_names, request.headers.get("host", "")
        if known and _host_of(f"//{host}") not in known:
            raise UsageError(f"this console answers at {' and '.join(sorted(known))}; the request names another host")
        if request.method in SAFE_METHODS:
            return
        site, origin = request.headers.get("sec-fetch-site", "same-origin"), request.headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2] != host
        if site not in ("same-origin", "none") or foreign:
            raise PermissionDenied("the form was sent by a page of another site; nothing was changed")

    async def _check_body(self, request: Request, session: Session, reservation: Reservation) -> None:
        """Refuses a body by its sender, its kind and its declared length, which is therefore required; waits for room.

        Raises:
            SignInNeeded: The sender has not signed in.
            UsageError: The length is not declared, or the body is no form.
            LimitExceeded: It is above the limit of its path.
            Overloaded: Others fill all room for uploads.
        """
        if request.method in SAFE_METHODS:
            return
        if request.url.path != SIGN_OUT:
            self._sessions.caller(session)
        length = request.headers.get("content-length", "0")
        if "transfer-encoding" in request.headers or not re.fullmatch("[0-9]{1,15}", length):
            raise UsageError("a form needs a Content-Length header, and no Transfer-Encoding")
        form = _FORM.fullmatch(request.headers.get("content-type", ""))
        if form is None and int(length):
            raise UsageError(f"a form is application/x-www-form-urlencoded or {FILES}, in UTF-8; got another kind")
        uploads = request.url.path in self._uploads and form is not None and form[1] is not None
        limit = self._settings.max_upload_bytes if uploads else self._settings.max_form_bytes
        if int(length) > limit:
            raise LimitExceeded(
                f"{'an upload' if uploads else 'a form'} may have {limit:,} bytes; this one has {int(length):,}"
            )
        if uploads:  # other forms are small, and need no room that slow uploads can hold
            await reservation.take(int(length))

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        name = f"WEB {STATIC_PREFIX if scope['path'].startswith(STATIC_PREFIX) else route}"
        REQUESTS.labels(name, str(status)).inc()
        SECONDS.labels(name).observe(seconds)
        session: Session = scope["state"]["session"]
        log.info("call", method=name, code=status, caller=session.subject, milliseconds=round(seconds * 1e3, 2))


def _in_time(receive: Receive, seconds: float) -> Receive:
    """``receive`` of a body that has so many seconds to arrive.

    Raises:
        DeadlineExceeded: It has not arrived by then.
        UsageError: The sender is gone.
    """
    end, whole = asyncio.get_running_loop().time() + seconds, False

    async def receiving() -> Message:
        nonlocal whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(end):
                message = await receive()
        except TimeoutError as error:
            raise DeadlineExceeded(f"the form did not arrive within {seconds:g} s") from error
        if message["type"] == "http.disconnect":
            raise UsageError("the connection ended before the form had arrived")
        whole = not message.get("more_body", False)
        return message

    return receiving


def _host_of(address: str) -> str | None:
    """Host of an address, as far as it has one."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def content_security_policy(settings: ConsoleSettings) -> str:
    """Policy of all pages: our own files alone, no inline script, no inline style, no frames; tiles of the base map."""
    images = " ".join(filter(None, ("'self'", "data:", settings.base_map_origin)))
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {images}; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def _with(send: Send, headers: Callable[[], dict[str, str]], cookies: Callable[[], list[str]]) -> Send:
    """``send`` that adds headers, unless the answer has them, and cookies."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message.get("headers", ())}
            more = [(n.encode(), v.encode()) for n, v in headers().items() if n.encode() not in present]
            more += [(b"set-cookie", value.encode()) for value in cookies()]
            message["headers"] = [*message.get("headers", ()), *more]
        await send(message)

    return sending
