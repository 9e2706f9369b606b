"""Search page: by patch, image or place; hits with pictures and a map, exports, and the same search in code."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.datastructures import FormData, UploadFile

from eoforge.client import Hit, IndexInfo, Patch, RetrievalClient
from eoforge.client.messages import HIT_BYTES, OwnerAnswer
from eoforge.data.export.hits import hits_csv, write_hits
from eoforge.data.labels import CLASSES
from eoforge.data.search_filter import COUNTRIES
from eoforge.data.split import SPLITS
from eoforge.errors import NotFound, UsageError
from services._runtime.errors import Overloaded
from services._runtime.settings import is_loopback
from services.console.feedback import RULE, reranked
from services.console.places import MOST, patch_at, patches_in
from services.console.query import Query, box_of, choices, point_of
from services.console.render import page
from services.console.session import SignedIn, form_of
from services.console.sources import Sources

UPLOADS = ("/search/upload",)
MAX_FILES = 24
MAX_WINDOWS = 64
READING_SECONDS = 10.0
_READING, _WAITING = threading.Lock(), threading.BoundedSemaphore(4)
"""One image at a time: a small file may hold 82 MiB of pixels, of which several copies are made."""
SENSORS = {"s1": "radar (Sentinel-1)", "s2": "optical (Sentinel-2)"}
WORLD = (-180.0, -90.0, 180.0, 90.0)
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")

router = APIRouter()


@router.get("/search")
def search(request: Request, caller: SignedIn) -> Response:
    """The page; its parameters are the search, so that its address can be shared."""
    query = Query.parse(request.query_params)
    client = _sources(request).retrieval(caller)
    index = _index(client)
    if request.query_params.get("at"):
        lon, lat = point_of(request.query_params["at"])
        found = patch_at(client, index, query.source, lon, lat)
        if found is None:
            raise NotFound(f"the index has no {SENSORS[query.source]} patch at longitude {lon:g}, latitude {lat:g}")
        return RedirectResponse(query.url(patch_id=found.patch_id, code=b""), status_code=303)
    own, hits, owners = _answer(client, index, query)
    answer = page(
        request,
        "search/page.html",
        query=query,
        index=index,
        own=own,
        hits=hits,
        owners=owners,
        pictured=_sources(request).owners,
        sensors=SENSORS,
        labels=sorted(CLASSES),
        countries=choices(query, COUNTRIES),
        splits=SPLITS,
        rule=RULE,
        address=_shown(request),
    )
    if request.headers.get("hx-request"):
        answer.headers["HX-Push-Url"] = query.url()
    return answer


@router.get("/search/export")
def export(request: Request, caller: SignedIn, format: str = "parquet") -> Response:
    """Hits of a search as a file: ``format`` is parquet (GeoParquet) or csv."""
    query = Query.parse(request.query_params)
    client = _sources(request).retrieval(caller)
    _, hits, _ = _answer(client, _index(client), query)
    rows = [{name: getattr(hit, name) for name in Hit.__slots__ if name not in HIT_BYTES} for hit in hits]
    if format == "csv":
        content, kind = hits_csv(rows).encode(), "text/csv; charset=utf-8"
    elif format == "parquet":
        with tempfile.TemporaryDirectory() as folder:
            write_hits(rows, path := Path(folder) / "hits.parquet")
            content, kind = path.read_bytes(), "application/vnd.apache.parquet"
    else:
        raise UsageError(f"format: expected parquet or csv; got {format[:20]!r}")
    return Response(content, media_type=kind, headers={"content-disposition": f'attachment; filename="hits.{format}"'})


@router.get("/search/footprints")
def footprints(request: Request, caller: SignedIn, bbox: str) -> Response:
    """Names and boxes of the patches in the map's view, as JSON; of more than 1000, some of them."""
    query = Query.parse(request.query_params)
    client = _sources(request).retrieval(caller)
    hits = patches_in(client, _index(client), query.source, box_of(bbox), query.filter)
    return JSONResponse(
        {
            "patches": [[hit.patch_id, *hit.footprint] for hit in hits if hit.footprint is not None],
            "more": len(hits) >= MOST,
        }
    )


@contextmanager
def _turn_to_read() -> Iterator[None]:
    """Turn to read an image, one at a time; few wait for it, because each takes a thread of the pages."""
    busy = Overloaded("other images are being read; try again in a moment", READING_SECONDS)
    if not _WAITING.acquire(blocking=False):
        raise busy
    try:
        if not _READING.acquire(timeout=READING_SECONDS):
            raise busy
        try:
            yield
        finally:
            _READING.release()
    finally:
        _WAITING.release()


@router.post("/search/upload")
def upload(request: Request, caller: SignedIn, form: Annotated[FormData, Depends(form_of)]) -> Response:
    """Search for an image: its files are read and encoded here, and the address of the answer holds its code alone."""
    client = _sources(request).retrieval(caller)
    target, sensor = str(form.get("to") or "s2"), str(form.get("from") or "") or None
    bands = [name.strip() for name in str(form.get("bands") or "").split(",") if name.strip()]
    with _files(form) as paths:
        from eoforge.data.query_image import read_query_image  # the pages without an image need no GDAL

        with _turn_to_read():
            image = read_query_image(paths, bands, sensor, MAX_WINDOWS)
    found = client.encode([window.bands for window in image.windows], image.modality)
    queries = [Query(code=encoded.code, source=image.modality, target=target) for encoded in found]
    if len(queries) == 1 and not image.notes:
        return RedirectResponse(queries[0].url(), status_code=303)
    windows = [(window.row, window.column, query) for window, query in zip(image.windows, queries, strict=True)]
    return page(request, "search/windows.html", windows=windows, notes=image.notes, sensor=SENSORS[image.modality])


def _answer(
    client: RetrievalClient, index: IndexInfo, query: Query
) -> tuple[Patch | None, list[Hit], list[OwnerAnswer]]:
    """Patch that is searched for, if it is one, the hits, and the owners that were asked if others were.

    Without a query, the hits are the patches that pass its filter.
    """
    if not query.given:
        box = query.filter.bbox or WORLD
        return None, patches_in(client, index, query.target, box, query.filter, query.k) if query.narrowed else [], []
    own = client.get_patch(query.patch_id) if query.patch_id else None
    if query.up or query.down:
        return own, reranked(client, query), []
    asked: dict[str, Any] = {"target": query.target, "k": query.k, "filter": query.filter}
    asked |= {"patch_id": query.patch_id, "source": query.source} if query.patch_id else {"code": query.code}
    if query.across:
        found = client.search_across(**asked)
        return own, found.hits, found.owners
    return own, client.search(**asked), []


def _index(client: RetrievalClient) -> IndexInfo:
    """The served index.

    Raises:
        NotFound: The service has none.
    """
    found = client.indexes()
    if not found:
        raise NotFound("the retrieval service has no index yet")
    return found[0]


@contextmanager
def _files(form: FormData) -> Iterator[list[Path]]:
    """Uploaded files below a folder of their own during the block, under harmless names that keep those of bands.

    Raises:
        UsageError: There is none, or there are too many.
    """
    given = [part for part in form.getlist("files") if isinstance(part, UploadFile) and part.filename]
    if not 1 <= len(given) <= MAX_FILES:
        raise UsageError(f"choose one to {MAX_FILES} GeoTIFF files; got {len(given)}")
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, part in enumerate(given):
            name = _UNSAFE.sub("_", Path(str(part.filename)).name)[-80:].lstrip(".") or "image.tif"
            path = Path(folder) / str(number) / name
            path.parent.mkdir()
            with path.open("wb") as out:
                while piece := part.file.read(1 << 20):
                    out.write(piece)
            paths.append(path)
        yield paths


def _shown(request: Request) -> str:
    """Address of the service in examples: on a laptop the true one, elsewhere a place to fill in."""
    target: Any = request.app.state.settings.retrieval_target or ""
    return target if is_loopback(target.rpartition(":")[0]) else "HOST:PORT"


def _sources(request: Request) -> Sources:
    sources: Sources = request.app.state.sources
    return sources
