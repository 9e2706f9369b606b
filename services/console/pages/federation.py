"""Page Federation: runs, rounds and silos as they change, curves, and the steering of runs."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client import FederationClient
from eoforge.client.base import RemoteError
from eoforge.client.federation_live import MAX_RUNS, live_runs
from eoforge.client.federation_text import line, phase_name, status_name
from services.console.live import RETRY_MILLISECONDS, STREAMS, LiveAnswer, message
from services.console.problems import problem_of
from services.console.render import finite, page, part
from services.console.session import Caller, SignedIn
from services.console.settings import ConsoleSettings
from services.console.sources import Sources

router = APIRouter(prefix="/federation")
RUNS, SILOS, LINES = 50, 200, 100
"""Runs, silos and events that a page shows."""
POLL_SECONDS, COLLECT_SECONDS = 5.0, 0.25
"""Time between looks at what the journal does not tell (silos, new runs), and time in which events are put together."""
ACTIVE = (pb.RUN_STATUS_RUNNING, pb.RUN_STATUS_PAUSED)

RunId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


@router.get("")
def federation(request: Request, caller: SignedIn) -> HTMLResponse:
    """Runs that the caller may see, and silos."""
    client = _client(request, caller)
    return page(request, "federation/index.html", **_tables(client))


@router.get("/events")
async def events(request: Request, caller: SignedIn) -> LiveAnswer:
    """Stream of the rows of runs that changed, and of the table of silos."""
    client = _client(request, caller)

    async def changes(goes_on: Callable[[], bool]) -> AsyncIterator[str]:
        shown: dict[str, str] = {}
        async with live_runs(client) as live:
            while goes_on():
                tables = await run_in_threadpool(_tables, client)
                live.watch({run.run_id: run.sequence for run in tables["runs"] if run.status in ACTIVE})
                found = {"runs": part(request, "federation/runs.html", **tables)}
                found["silos"] = part(request, "federation/silos.html", **tables)
                for name, text in found.items():
                    if shown.get(name) != text:
                        yield message("table", name=name, html=text)
                shown = found
                if not await live.next(POLL_SECONDS):
                    yield ": nothing new\n\n"
                await asyncio.sleep(COLLECT_SECONDS)

    return _stream(request, caller, changes)


@router.get("/runs/{run_id}")
def run(request: Request, caller: SignedIn, run_id: RunId, done: str = "") -> HTMLResponse:
    """One run: its round, history and journal."""
    found = _client(request, caller).run(run_id)
    return page(request, "federation/run.html", run=found, done=done[:40], lines=LINES, **_names(found))


@router.get("/runs/{run_id}/events")
async def run_events(
    request: Request, caller: SignedIn, run_id: RunId, after: Annotated[int, Query(ge=0, le=1 << 53)] = 0
) -> LiveAnswer:
    """Stream of the events of a run, and of its state after them."""
    client = _client(request, caller)
    # Before the answer begins, so that an unknown run is an error page and no broken stream.
    first = await run_in_threadpool(client.state, run_id)
    after = min(max(after, first.sequence - LINES), first.sequence)

    async def changes(goes_on: Callable[[], bool]) -> AsyncIterator[str]:
        async with live_runs(client) as live:
            live.watch({run_id: after})
            while goes_on() and not live.ended:
                new = await live.next(POLL_SECONDS)
                if not new:
                    yield ": nothing new\n\n"
                    continue
                for _, event in new:
                    yield message("line", text=line(event), sequence=event.sequence)
                found = await run_in_threadpool(client.state, run_id)
                yield message("state", html=part(request, "federation/state.html", run=found, **_names(found)))
                if any(event.WhichOneof("event") == "round_closed" for _, event in new):
                    whole = await run_in_threadpool(client.run, run_id)
                    yield message("charts", charts=charts(whole))
                await asyncio.sleep(COLLECT_SECONDS)
            if live.ended:
                yield message("end")

    return _stream(request, caller, changes)


@router.get("/runs/{run_id}/curves")
def curves(request: Request, caller: SignedIn, run_id: RunId) -> JSONResponse:
    """Training and evaluation figures by round, for uPlot."""
    return JSONResponse({"charts": charts(_client(request, caller).run(run_id))})


@router.post("/runs/{run_id}")
def steer(
    request: Request,
    caller: SignedIn,
    run_id: RunId,
    action: Annotated[Literal["pause", "resume", "cancel"], Form()],
    reason: Annotated[str, Form(max_length=500)] = "",
) -> RedirectResponse:
    """Pauses, resumes or cancels a run; the service decides whether the caller may."""
    client = _client(request, caller)
    if action == "resume":
        client.resume(run_id)
    else:
        (client.pause if action == "pause" else client.cancel)(run_id, reason)
    return RedirectResponse(f"/federation/runs/{run_id}?done={action}", status_code=303)


def charts(found: pb.Run) -> list[dict[str, Any]]:
    """One chart per figure that silos measured, with its curves in training and evaluation."""
    names = sorted({name for s in found.history for name in (*s.training, *s.evaluation)})
    made = []
    for name in names:
        lines = []
        for kind in ("training", "evaluation"):
            points = [(s.number, getattr(s, kind)[name]) for s in found.history if name in getattr(s, kind)]
            if points:
                lines.append({"name": kind, "x": [n for n, _ in points], "y": finite(v for _, v in points)})
        made.append({"title": name.replace("_", " "), "unit": "round", "curves": lines})
    return made


def _client(request: Request, caller: Caller) -> FederationClient:
    sources: Sources = request.app.state.sources
    return sources.federation(caller)


def _tables(client: FederationClient) -> dict[str, Any]:
    runs = list(itertools.islice(client.runs(), RUNS))
    active = [run.run_id for run in runs if run.status in ACTIVE][:MAX_RUNS]
    whole = {run_id: client.state(run_id) for run_id in active}  # a list has neither settings nor updates
    runs = [whole.get(run.run_id, run) for run in runs]
    silos = list(itertools.islice(client.silos(), SILOS))
    return {"runs": runs, "silos": silos, "status_name": status_name, "phase_name": phase_name}


def _names(found: pb.Run) -> dict[str, Any]:
    return {"status_name": status_name, "phase_name": phase_name, "active": found.status in ACTIVE}


def _stream(
    request: Request, caller: Caller, changes: Callable[[Callable[[], bool]], AsyncIterator[str]]
) -> LiveAnswer:
    """Answer that streams until the page is closed, or the console is about to end.

    Raises:
        QuotaExceeded: The caller has too many streams open.
    """
    settings: ConsoleSettings = request.app.state.settings
    # Ends by itself before the guard of all requests cuts it off; the browser then opens it again.
    until = time.monotonic() + 0.8 * settings.max_call_seconds

    def goes_on() -> bool:
        return time.monotonic() < until and not request.app.state.draining()

    async def body() -> AsyncIterator[str]:
        yield f"retry: {RETRY_MILLISECONDS}\n\n"
        try:
            async for text in changes(goes_on):
                yield text
        except RemoteError as error:
            yield message("problem", text=problem_of(error, request.state.request_id).message)

    return LiveAnswer(body(), STREAMS.place(caller.subject))
