"""Page Archive: versions of the table, counts, class balance, quarantine, footprints on the map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from eoforge.data.ingest.pictures import quarantine_pictures
from eoforge.data.ingest.quarantine import findings
from eoforge.data.labels import CLASSES
from eoforge.data.loading.plot import thumbnail_png
from eoforge.data.records import WARNINGS
from eoforge.data.tables.contents import class_rows
from eoforge.data.tables.versions import table_versions, version_change
from eoforge.errors import NotFound, UsageError
from eoforge.storage.addresses import TableRef, address_of, open_table
from services.console.archive_data import CONTENTS, FOOTPRINTS
from services.console.render import page
from services.console.session import caller
from services.console.sources import Sources

if TYPE_CHECKING:
    import lance

router = APIRouter(prefix="/archive", dependencies=[Depends(caller)])
VERSIONS, FINDINGS = 12, 24
PRIVATE = {"cache-control": "private, max-age=3600"}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

MOST = 1 << 53
"""Most that a version, or a place in a list, can be in an address: JSON's and Lance's numbers end soon after it."""

Version = Annotated[int | None, Query(ge=1, le=MOST)]


@router.get("")
def archive(request: Request, version: Version = None, before: Version = None) -> HTMLResponse:
    """Counts of a version, and the list of versions."""
    table = _table(request, version)
    contents = CONTENTS.of(table)
    versions, older = table_versions(address_of(table), VERSIONS, before)
    return page(
        request,
        "archive/index.html",
        table_version=table.version,
        newest=_table(request).version,
        contents=contents,
        classes=class_rows(contents),
        months=list(zip(_MONTHS, contents.months.tolist(), strict=True)),
        most=max(1, int(contents.class_counts.sum(axis=1).max(initial=0))),
        versions=versions,
        older=versions[-1].version if older else None,
        extent=FOOTPRINTS.of(table).extent,
        findings=findings(address_of(table), count=0),
    )


@router.get("/footprints")
def footprints(
    request: Request,
    west: Annotated[float, Query(ge=-1000, le=1000)],
    south: Annotated[float, Query(ge=-1000, le=1000)],
    east: Annotated[float, Query(ge=-1000, le=1000)],
    north: Annotated[float, Query(ge=-1000, le=1000)],
    version: Version = None,
) -> JSONResponse:
    """GeoJSON of a box: polygons of a few patches, counts on a grid of many."""
    if west >= east or south >= north:
        raise UsageError("expected a box with west < east and south < north")
    return JSONResponse(FOOTPRINTS.of(_table(request, version)).view((west, south, east, north)))


@router.get("/changes")
def changes(
    request: Request,
    older: Annotated[int, Query(ge=1, le=MOST)],
    newer: Annotated[int, Query(ge=1, le=MOST)],
) -> HTMLResponse:
    """What a version changed in comparison to another one."""
    refs = [TableRef(address_of(_table(request, number)), number) for number in (older, newer)]
    change = version_change(*refs)
    classes = [(name, int(count)) for name, count in zip(CLASSES, change.classes, strict=True) if count]
    return page(request, "archive/changes.html", older=older, newer=newer, change=change, classes=classes)


@router.get("/quarantine")
def quarantine(
    request: Request,
    reason: Annotated[str | None, Query(max_length=64)] = None,
    start: Annotated[int, Query(ge=0, le=MOST)] = 0,
) -> HTMLResponse:
    """Findings of ingestions, by reason, with pictures of the patches."""
    found = findings(address_of(_table(request)), reason=reason or None, start=start, count=FINDINGS)
    if reason and reason not in found.reasons:
        raise NotFound("no patch was set aside for this reason")
    return page(
        request,
        "archive/quarantine.html",
        found=found,
        reason=reason or "",
        start=start,
        step=FINDINGS,
        warnings={str(one) for one in WARNINGS},
    )


@router.get("/quarantine/picture")
def picture(
    request: Request,
    ingest: Annotated[str, Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")],
    patch: Annotated[str, Query(max_length=200)],
    sensor: Literal["s2", "s1"],
) -> Response:
    """Picture (PNG) of a patch that was set aside; pixels without data are magenta."""
    try:
        found: dict[str, Any] = quarantine_pictures(address_of(_table(request)), ingest, patch)
    except NotFound as error:
        raise NotFound("the archive that this patch came from, or its ingestion, is not there any more") from error
    if sensor not in found:
        raise NotFound("no band of this sensor can be decoded")
    return Response(thumbnail_png(found[sensor]), media_type="image/png", headers=PRIVATE)


def _table(request: Request, version: int | None = None) -> lance.LanceDataset:
    """Table of patches, at a version.

    Raises:
        NotFound: There is no such table, or no such version.
    """
    sources: Sources = request.app.state.sources
    table = sources.table("patches")
    if version is None or version == table.version:
        return table
    try:
        return open_table(TableRef(address_of(table), version))
    except NotFound as error:
        raise NotFound(f"the table of patches has no version {version}; the page Archive lists them") from error
