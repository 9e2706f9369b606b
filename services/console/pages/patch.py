"""Patch page: bands, composites, radar, reference map with its legend, neighbours in place and time, streams."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response

from eoforge.client import Hit, IndexInfo, Patch, RetrievalClient
from eoforge.data.loading.plot import radar_colours
from eoforge.data.search_filter import SearchFilter
from services.console.pages.search import SENSORS
from services.console.pictures import Pictures, bands_of, legend, picture, views_of
from services.console.places import around, nearest_places, nearest_times, patches_in
from services.console.query import Query
from services.console.render import page
from services.console.session import SignedIn
from services.console.sources import Sources
from services.console.streams import StreamRow, streams_of

PICTURE_SECONDS = 600
NEAR_DEGREES, SAME_TIME_DEGREES = 0.05, 1.0
SHOWN = 8

router = APIRouter()


@router.get("/patch/{patch_id}")
def patch(request: Request, caller: SignedIn, patch_id: str) -> Response:
    """The page of one patch."""
    client = _client(request, caller)
    found = _pictures(request).patch(client, caller, patch_id)
    sensor = "s2" if found.info.acquired_s2 is not None else "s1"
    index = client.indexes()[0]
    near, sametime = _neighbours(client, index, found, sensor)
    return page(
        request,
        "patch/page.html",
        patch=found,
        info=found.info,
        query=Query(source=sensor, target="s1" if sensor == "s2" else "s2"),
        views=views_of(found),
        bands=bands_of(found),
        legend=legend(found),
        radar=radar_colours(),
        near=near,
        sametime=sametime,
        streams=_streams(request, caller, found),
        sensors=SENSORS,
        sensor=sensor,
    )


@router.get("/patch/{patch_id}/{name}.png")
def drawn(request: Request, caller: SignedIn, patch_id: str, name: str) -> Response:
    """Picture of a patch: a composite, a band, or the reference map."""
    found = _pictures(request).patch(_client(request, caller), caller, patch_id)
    return _png(picture(found, name))


@router.get("/thumbnail/{sensor}/{patch_id}")
def thumbnail(
    request: Request, caller: SignedIn, sensor: Literal["s1", "s2"], patch_id: str, owner: str = ""
) -> Response:
    """Small picture of a sensor's image; of another owner's patch, asked there."""
    client = _sources(request).owner(owner, caller) if owner else _client(request, caller)
    return _png(_pictures(request).thumbnail(client, caller, patch_id, sensor, owner))


def _neighbours(client: RetrievalClient, index: IndexInfo, patch: Patch, sensor: str) -> tuple[list[Hit], list[Hit]]:
    """The nearest patches in place, and those of the nearest time within a degree."""
    info = patch.info
    moment = info.acquired_s2 if sensor == "s2" else info.acquired_s1
    near = patches_in(client, index, sensor, around(info.footprint, NEAR_DEGREES), SearchFilter())
    wide = patches_in(client, index, sensor, around(info.footprint, SAME_TIME_DEGREES), SearchFilter())
    by_time = nearest_times(wide, info.patch_id, moment) if moment is not None else []
    return nearest_places(near, info.patch_id, info.footprint)[:SHOWN], by_time[:SHOWN]


def _streams(request: Request, caller: SignedIn, patch: Patch) -> list[StreamRow] | None:
    """Streams of a patch; None where the console was given no table of them."""
    settings, sources = request.app.state.settings, _sources(request)
    if settings.streams_uri is None:
        return None
    service = sources.compression(caller) if settings.compression_target is not None else None
    decode = None if service is None else lambda stream: service.decompress(stream).bands
    return streams_of(sources.table("streams"), patch, decode)


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png", headers={"cache-control": f"private, max-age={PICTURE_SECONDS}"})


def _client(request: Request, caller: SignedIn) -> RetrievalClient:
    return _sources(request).retrieval(caller)


def _sources(request: Request) -> Sources:
    sources: Sources = request.app.state.sources
    return sources


def _pictures(request: Request) -> Pictures:
    pictures: Pictures = request.app.state.pictures
    return pictures
