"""Guard of every REST request: caller, quota and limits come before the body."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eoforge.errors import LimitExceeded, NotFound, UsageError
from services._runtime.admission import RESERVATION, Quota, Reservation
from services._runtime.auth import CALLER, Authenticator
from services._runtime.errors import DOMAIN, DeadlineExceeded, Problem, Unimplemented, describe, forget, report
from services._runtime.inference import OpenInference
from services._runtime.interceptor import Reception, request_id_of
from services._runtime.rest_coding import CODINGS, decoded, most_of
from services._runtime.settings import RuntimeSettings
from services._runtime.telemetry import REQUESTS, SECONDS
from services._runtime.wire import COPIES

OPEN_PATHS = frozenset({"/metrics", "/v2/health/live", "/v2/health/ready"})
CERTIFICATE_CALLER = ("rest-client-certificate",)
"""Name of all callers with certificates: Uvicorn verifies certificates but does not pass on whose they are."""
PIECE_BYTES = 64 << 10

log = structlog.get_logger("access")


class Guard:
    """ASGI middleware in front of the application: a body is read after authentication and admission.

    Args:
        app: The application; errors that it raises are answered here.
        settings: Limits.
        inference: KServe's endpoints; mounted when one of them is asked for, if not before.
        authenticator: Authentication of callers.
        quota: Counts per caller, together with gRPC.
        reception: Bounds calls and bytes, together with gRPC.
        draining: Whether the service is draining, or has nothing to serve yet; readiness reports it.
    """

    def __init__(
        self,
        app: Any,
        settings: RuntimeSettings,
        inference: OpenInference,
        authenticator: Authenticator,
        quota: Quota,
        reception: Reception,
        draining: Callable[[], bool],
    ) -> None:
        for kind in (Exception, RequestValidationError):
            app.add_exception_handler(kind, _described)
        app.add_exception_handler(HTTPException, _refused)
        self._app, self._settings, self._inference = app, settings, inference
        self._authenticator, self._quota, self._reception, self._draining = authenticator, quota, reception, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        request, status = Request(scope), 500
        request_id = request_id_of(request.headers.get("x-request-id"))
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.perf_counter()
        CALLER.set(None)  # type: ignore[arg-type]  # a connection's requests share a context
        begun = False

        async def answer(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await _in_pieces(message, send)

        reservation = Reservation(None, "")
        limit = asyncio.timeout(self._settings.max_call_seconds)
        try:
            if scope["path"] in OPEN_PATHS:
                draining = scope["path"] == "/v2/health/ready" and self._draining()
                app: ASGIApp = JSONResponse({"ready": False}, status_code=503) if draining else self._app
                async with limit:
                    await app(scope, receive, answer)
                return
            address = request.client.host if request.client else "unknown"
            names = CERTIFICATE_CALLER if self._settings.tls_client_ca_file else ()
            caller = self._authenticator.identify(request.headers.get("authorization"), names, address)
            CALLER.set(caller)
            self._quota.take(caller.name)
            async with limit:
                with self._reception.admission.enter(caller.name):
                    RESERVATION.set(reservation := Reservation(self._reception.budget, caller.name))
                    await self._handle(request, scope, receive, answer, reservation)
        except Exception as raised:
            late = DeadlineExceeded(f"a call may take {self._settings.max_call_seconds:g} s")
            error = late if limit.expired() else raised
            problem = describe(error, request_id)
            report(problem, error)
            forget(error)
            if not begun:  # or the application's error handler answered
                await problem_response(problem)(scope, receive, answer)
        finally:
            reservation.resize(0)
            if scope["path"] not in OPEN_PATHS:
                self._record(scope, status, time.perf_counter() - started)

    async def _handle(
        self, request: Request, scope: Scope, receive: Receive, answer: Send, reservation: Reservation
    ) -> None:
        if scope["path"].startswith("/v2/repository/models"):
            raise Unimplemented("this service loads its models itself; they cannot be loaded or unloaded")
        body = await self._body(request, receive, reservation)
        await self._inference.mount(self._app)
        await self._app(scope, _once(body, receive), answer)

    async def _body(self, request: Request, receive: Receive, reservation: Reservation) -> list[bytes]:
        """The body, after its declared length, which is therefore required, was found to be allowed and has room."""
        if request.method not in ("POST", "PUT", "PATCH"):
            return [b""]
        length, coding = request.headers.get("content-length", ""), request.headers.get("content-encoding", "identity")
        chunked = "transfer-encoding" in request.headers  # goes before a length that is declared beside it
        if not length and not chunked:
            return [b""]
        if chunked or not re.fullmatch("[0-9]{1,12}", length):
            raise UsageError("a request with a body needs a Content-Length header, and no Transfer-Encoding")
        if int(length) > self._settings.max_message_bytes:
            raise LimitExceeded(f"a body may have {self._settings.max_message_bytes} bytes; this one has {length}")
        if coding not in ("identity", *CODINGS):
            raise UsageError(f"Content-Encoding may be one of {', '.join(CODINGS)}")
        await reservation.take(COPIES * int(length))
        parts = []
        try:
            async with asyncio.timeout(self._settings.receive_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise UsageError(f"expected a body of {length} bytes; the connection ended before")
                    parts.append(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        except TimeoutError as error:
            raise DeadlineExceeded(f"the body did not arrive within {self._settings.receive_seconds:g} s") from error
        if coding == "identity":
            return [await self._reception.turns.copy(lambda: b"".join(parts), reservation.caller)]
        limit = self._settings.max_message_bytes
        await reservation.take(COPIES * most_of(int(length), limit))
        box = [await self._reception.pool.run(decoded, b"".join(parts), coding, limit, cost=int(length))]
        reservation.resize(COPIES * len(box[0]))
        return box

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        caller = CALLER.get(None)
        name = f"REST {getattr(scope.get('route'), 'path', 'unknown')}"
        REQUESTS.labels(name, str(status)).inc()
        SECONDS.labels(name).observe(seconds)
        who = caller.name if caller is not None else ""
        log.info("call", method=name, code=status, caller=who, milliseconds=round(seconds * 1e3, 2))


async def _described(_: Request, error: Exception) -> JSONResponse:
    return problem_response(describe(error, structlog.contextvars.get_contextvars().get("request_id", "")))


async def _refused(request: Request, error: HTTPException) -> JSONResponse:
    """Answer for a path or method without a route."""
    if error.status_code == HTTPStatus.NOT_FOUND:
        return await _described(request, NotFound("there is no such path; GET /v2/models lists the models"))
    answer = await _described(request, UsageError("the path takes other methods, or the request has another form"))
    answer.status_code = error.status_code
    answer.headers.update(error.headers or {})
    return answer


def problem_response(problem: Problem) -> JSONResponse:
    """A problem as JSON with the status of the catalogue."""
    headers = {} if problem.retry_after is None else {"Retry-After": str(max(1, round(problem.retry_after)))}
    body = {
        "error": problem.message,
        "reason": problem.reason,
        "domain": DOMAIN,
        "request_id": problem.request_id,
    }
    return JSONResponse(body, status_code=problem.entry.http, headers=headers)


async def _in_pieces(message: Message, send: Send) -> None:
    """Sends a message; a large body piece by piece, each when the client has read nearly all before it.

    The call, and with it the bytes reserved for its answer, lasts until then.
    """
    body = message.get("body", b"")
    if len(body) <= PIECE_BYTES:
        await send(message)
        return
    for start in range(0, len(body), PIECE_BYTES):
        piece = body[start : start + PIECE_BYTES]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(0)  # a reader that is fast enough never makes the line above wait
    await send({"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)})


def _once(body: list[bytes], receive: Receive) -> Receive:
    """The body as one message; the list is emptied, so that no reference to it remains."""

    async def read() -> Message:
        if body:
            return {"type": "http.request", "body": body.pop(), "more_body": False}
        return await receive()

    return read
