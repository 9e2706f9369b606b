"""Errors as pages: what happened and what to do, with the request id and without internal text."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from eoforge.client.base import RemoteError
from eoforge.errors import EoforgeError, NotFound, UsageError
from services._runtime.errors import CATALOGUE, Entry, Problem, describe, forget, report
from services.console.render import page
from services.console.session import SAFE_METHODS, SignInNeeded

TITLES = {
    400: "The request was not understood",
    401: "Sign in",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible here",
    409: "Things have changed meanwhile",
    413: "Too large",
    422: "The data were refused",
    429: "Too many requests",
    500: "The console failed",
    501: "Not offered",
    503: "Not available at the moment",
    504: "It took too long",
}


UNREACHABLE = "the service behind this page cannot be reached at the moment; try again later"
LOCAL_PATH = re.compile(r"/(?![/\\])[^\s\\]*")
"""Path that a browser cannot take for the address of another site."""


class NotConfigured(NotFound):
    """Page whose service or table this console was not given."""


def problem_of(error: BaseException, request_id: str) -> Problem:
    """Problem of an error; words that a service wrote for its callers pass, those of the network do not."""
    if not isinstance(error, RemoteError):
        return describe(error, request_id)
    if error.remote_reason in CATALOGUE:
        entry = CATALOGUE[error.remote_reason]
        return Problem(error.remote_reason, entry, str(error), request_id, error.retry_after)
    if error.code == "DEADLINE_EXCEEDED":
        entry, words = CATALOGUE["DEADLINE_EXCEEDED"], "the service did not answer in time; try again later"
    else:
        words = UNREACHABLE
        entry = Entry(CATALOGUE["NOT_READY"].status, 503, words)  # fixed words: the log holds the address
    return Problem("SERVICE_UNAVAILABLE", entry, f"{words} (request id {request_id})", request_id)


async def answer(request: Request, error: Exception) -> Response:
    """Page of an error; a redirection to the sign-in for people who have not signed in."""
    if isinstance(error, HTTPException) and isinstance(error.__cause__, EoforgeError):
        error = error.__cause__  # FastAPI has read the form, and makes any error of that its own
    if isinstance(error, RequestValidationError):
        fields = sorted({str(found["loc"][-1]) for found in error.errors()})
        error = UsageError(f"a value of the form is missing or has another form: {', '.join(fields)[:200]}")
    if isinstance(error, HTTPException):
        return _refused(request, error)
    problem = problem_of(error, request.state.request_id)
    if isinstance(error, SignInNeeded) and _shows_pages(request):
        return _to_sign_in(request)
    report(problem, error)
    forget(error)
    return _page(request, problem.entry.http, problem.message, problem.retry_after)


def _refused(request: Request, error: HTTPException) -> Response:
    """Page for a path or method without a route."""
    words = "there is no such page" if error.status_code == 404 else "the page takes no such request"
    made = _page(request, error.status_code, words)
    made.headers.update(error.headers or {})
    return made


def _page(request: Request, status: int, message: str, retry_after: float | None = None) -> Response:
    title = TITLES.get(status, TITLES[500])
    text = message[:1].upper() + message[1:]
    if request.headers.get("accept", "").startswith("application/json"):
        made: Response = JSONResponse({"error": text, "request_id": request.state.request_id}, status)
    else:
        made = page(request, "problem.html", status, code=status, title=title, message=text, there=_there(request))
    if retry_after is not None:
        made.headers["Retry-After"] = str(max(1, round(retry_after)))
    return made


def _shows_pages(request: Request) -> bool:
    """Whether a person sees the answer as a page; scripts and pictures cannot follow to the page of a provider."""
    if request.headers.get("hx-request"):
        return request.method == "GET"
    mode, accept = request.headers.get("sec-fetch-mode", "navigate"), request.headers.get("accept", "")
    return request.method == "GET" and mode == "navigate" and not accept.startswith("application/json")


def _there(request: Request) -> str:
    """Page where the person was: that of the request, or the one that sent a form or asked for a part of itself."""
    path, query = request.scope.get("raw_path", b"/").decode("ascii", "replace"), request.url.query
    form = request.method not in SAFE_METHODS
    try:
        shown = urlsplit(request.headers.get("hx-current-url") or request.headers.get("referer") or "")
    except ValueError:  # such as http://[
        shown = urlsplit("")
    ours = shown.netloc == request.headers.get("host")
    if form or (ours and "hx-request" in request.headers and shown.path != path):
        path, query = (shown.path, shown.query) if ours else ("/", "")
    if path.startswith("/sign-") or not LOCAL_PATH.fullmatch(path):
        return "/"
    return f"{path}?{query}" if query else path


def _to_sign_in(request: Request) -> Response:
    target = "/sign-in?next=" + quote(_there(request), safe="")
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"HX-Redirect": target})
    return RedirectResponse(target, status_code=303)


HANDLED: tuple[type[Exception], ...] = (EoforgeError, RequestValidationError, HTTPException, Exception)
"""Errors that become pages."""
