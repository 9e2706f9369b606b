"""Page Annotate: pairs of patches that people call similar or dissimilar, progress, agreement, adjudication."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from eoforge.errors import DamagedObject, DataRefused, NotFound, StoreError
from eoforge.methods.anneal.annotations import Pair
from eoforge.methods.anneal.sessions import AnnotationSession
from services.console.annotation import (
    NAME,
    Posted,
    Who,
    address_of,
    annotator,
    new_request_id,
    open_session,
    pair_of,
    sessions,
)
from services.console.batches import BATCHES
from services.console.pair_pictures import Shown, bands_of, picture, shown_patches
from services.console.problems import problem_of
from services.console.render import finite, page
from services.console.session import SignedIn, caller

router = APIRouter(prefix="/annotate", dependencies=[Depends(caller)])
Session = Annotated[str, Path(pattern=f"^{NAME.pattern}$")]
KEPT = {"x-answer-kept": "yes"}
"""Header of an answer page that still holds an answer which could not be stored."""


@router.get("")
def index(request: Request) -> HTMLResponse:
    """Sessions."""
    return page(request, "annotate/index.html", sessions=sessions(request))


@router.get("/{name}")
def session(request: Request, signed_in: SignedIn, name: Session, who: Who = "") -> HTMLResponse:
    """A session: the next pair, and how far it is."""
    return page(request, "annotate/session.html", **_work(request, name, annotator(signed_in, who), who))


@router.get("/{name}/work")
def work(request: Request, signed_in: SignedIn, name: Session, who: Who = "") -> HTMLResponse:
    """The part of the page that changes."""
    return page(request, "annotate/work.html", **_work(request, name, annotator(signed_in, who), who))


@router.post("/{name}/answer")
def answer(request: Request, signed_in: SignedIn, name: Session, posted: Annotated[Posted, Form()]) -> Response:
    """Stores an answer and shows the next pair; an answer that cannot be stored stays in the form."""
    who = annotator(signed_in, posted.who)
    try:
        open_session(request, name).answer(pair_of(posted), posted.answer, who, posted.seconds, posted.request_id)
    except (StoreError, OSError, NotFound, DataRefused, DamagedObject) as error:
        problem = problem_of(error, request.state.request_id)
        partial = "hx-request" in request.headers
        shown = {"name": name, "posted": posted, "message": problem.message, "partial": partial}
        template = "annotate/kept_form.html" if partial else "annotate/kept.html"
        kept = page(request, template, problem.entry.http, **shown)
        kept.headers.update(KEPT)
        return kept
    return _next(request, name, who, posted.who)


@router.post("/{name}/undo")
def undo(
    request: Request,
    signed_in: SignedIn,
    name: Session,
    request_id: Annotated[str, Form(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")],
    given: Annotated[str, Form(alias="as", max_length=128)] = "",
) -> Response:
    """Withdraws the annotator's last answer and shows its pair again."""
    who = annotator(signed_in, given)
    withdrawn = open_session(request, name).undo(who, request_id)
    said = "There is no answer of yours to withdraw." if withdrawn is None else "Your last answer was withdrawn."
    return _next(request, name, who, given, said, withdrawn.pair if withdrawn else None)


@router.get("/{name}/disagreements")
def disagreements(request: Request, name: Session, done: str = "") -> HTMLResponse:
    """Pairs on which annotators disagree, with Cohen's kappa."""
    opened = open_session(request, name)
    found = opened.disagreements()
    ids = [one for disputed in found.pairs for one in (disputed.pair.first, disputed.pair.second)]
    return page(
        request,
        "annotate/disagreements.html",
        name=name,
        found=found,
        patches={one.patch_id: one for one in shown_patches(opened.settings.patches, ids)},
        new_id=new_request_id,
        done=done == "yes",
    )


@router.post("/{name}/adjudicate")
def adjudicate(request: Request, signed_in: SignedIn, name: Session, posted: Annotated[Posted, Form()]) -> Response:
    """Stores the final answer about a pair in dispute."""
    who = annotator(signed_in, posted.who)
    open_session(request, name).adjudicate(pair_of(posted), posted.answer, who, posted.request_id)
    return RedirectResponse(f"/annotate/{name}/disagreements?done=yes", status_code=303)


@router.get("/{name}/picture")
def pair_picture(
    request: Request,
    name: Session,
    patch: Annotated[str, Query(max_length=200)],
    what: Annotated[str, Query(max_length=20)] = "s2",
) -> Response:
    """Picture (PNG) of a patch of the session: true colour, radar, or one band."""
    png = picture(open_session(request, name).settings.patches, patch, what)
    return Response(png, media_type="image/png", headers={"cache-control": "private, max-age=3600"})


@router.get("/{name}/curves")
def curves(request: Request, name: Session) -> JSONResponse:
    """Figures of the model after each batch, for uPlot."""
    rounds = [one for one in open_session(request, name).status().rounds if one.figures]
    names = sorted({key for one in rounds for key in one.figures})
    charts = []
    for key in names:
        points = [(one.iteration, one.figures[key]) for one in rounds if key in one.figures]
        curve = {"name": key.replace("_", " "), "x": [n for n, _ in points], "y": finite(v for _, v in points)}
        charts.append({"title": key.replace("_", " "), "unit": "batch", "curves": [curve]})
    return JSONResponse({"charts": charts})


def _next(request: Request, name: str, who: str, given: str, said: str = "", pair: Pair | None = None) -> Response:
    """The next pair: as a part for htmx, by a redirection otherwise."""
    if request.headers.get("hx-request") is None:
        query = f"?{urlencode({'as': given})}" if given else ""
        return RedirectResponse(f"/annotate/{name}{query}", status_code=303)
    return page(request, "annotate/work.html", **_work(request, name, who, given, said, pair))


def _work(
    request: Request, name: str, who: str, given: str, said: str = "", pair: Pair | None = None
) -> dict[str, Any]:
    """What the page of a session shows: its state, and the next pair of an annotator.

    Args:
        request: The request.
        name: The session.
        who: The annotator.
        given: Name in the address, where nobody signs in.
        said: What happened, for the reader.
        pair: The pair to show; None for the next one.
    """
    opened = open_session(request, name)
    status = opened.status()
    address = address_of(request, name)
    if status.state in ("new", "ready"):
        BATCHES.ensure(address)
    pair = pair or next(iter(opened.batch(who, 1)), None)
    return {
        "name": name,
        "who": who,
        "given": given,
        "said": said,
        "progress": status,
        "choosing": BATCHES.running(address),
        "failed": BATCHES.failed(address),
        "patches": _both(opened, pair),
        "answer_id": new_request_id(),
        "undo_id": new_request_id(),
        "bands": bands_of(),
    }


def _both(opened: AnnotationSession, pair: Pair | None) -> list[Shown]:
    """Both patches of a pair, without labels, which would tell the answer.

    Raises:
        NotFound: A patch is not in the table any more.
    """
    if pair is None:
        return []
    found = {one.patch_id: one for one in shown_patches(opened.settings.patches, [pair.first, pair.second])}
    if len(found) < 2:
        raise NotFound("a patch of this pair is not in the table any more")
    return [found[pair.first], found[pair.second]]
