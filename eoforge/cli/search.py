"""``eoforge search``: queries to a running retrieval service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eoforge.cli.export import export_hits
from eoforge.cli.options import DEFAULT_SERVER
from eoforge.cli.output import Json, as_dict, emit_rows, say
from eoforge.data.bands import require_modality
from eoforge.errors import UsageError

if TYPE_CHECKING:
    from eoforge.client import Hit, RetrievalClient

_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]


def search(
    server: Annotated[str, typer.Option(help="HOST:PORT of a retrieval service.")] = DEFAULT_SERVER,
    patch_id: Annotated[str | None, typer.Option(help="Query by a patch of the archive.")] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            help="Query by your own image: a GeoTIFF of several bands, a folder of GeoTIFFs like x_B02.tif, or files "
            "of single bands (repeat). Other sizes are cropped, cut into windows or resampled."
        ),
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="Names of the image's bands in order, such as B02,B03,B04 or VV,VH.")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Sensor of the query: s1 or s2; by default s1, or that of the image's bands."),
    ] = None,
    to: Annotated[str, typer.Option("--to", help="Sensor of the hits: s1 or s2.")] = "s2",
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of hits.")] = 10,
    country: Annotated[list[str] | None, typer.Option(help="Only these countries (repeat).")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only these splits (repeat).")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Any of these labels (repeat).")] = None,
    all_labels: Annotated[list[str] | None, typer.Option(help="All of these labels (repeat).")] = None,
    bbox: Annotated[str | None, typer.Option(help="LON_MIN,LAT_MIN,LON_MAX,LAT_MAX in degrees.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=_TIMES, help="Only patches acquired by Sentinel-2 at or after this time, UTC."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=_TIMES, help="Only patches acquired by Sentinel-2 before this time, UTC.")
    ] = None,
    exclude_snow: Annotated[bool, typer.Option("--no-snow", help="Leave out patches with seasonal snow.")] = False,
    exclude_cloud: Annotated[bool, typer.Option("--no-cloud", help="Leave out patches with cloud or shadow.")] = False,
    min_recall: Annotated[
        float | None,
        typer.Option(
            help="Least recall@10, above 0 and at most 1 (exact), of an index with the engine ivf; by default the "
            "server's."
        ),
    ] = None,
    across: Annotated[
        bool,
        typer.Option("--across", help="Also ask the archives of other owners that the service names; hits say whose."),
    ] = False,
    ca: Annotated[Path | None, typer.Option(help="CA certificate; turns TLS on.")] = None,
    token: Annotated[str | None, typer.Option(envvar="EOFORGE_TOKEN", help="Bearer token.")] = None,
    export: Annotated[str | None, typer.Option(help="Also write the hits to this GeoParquet file, for QGIS.")] = None,
    json: Json = False,
) -> None:
    """Find the patches most similar to one patch or image, across sensors."""
    from eoforge.client import RetrievalClient, SearchFilter

    if (patch_id is None) == (not image):
        raise UsageError("give exactly one of --patch-id and --image")
    if bands is not None and not image:
        raise UsageError("--bands names the bands of --image; it needs one")
    if from_ is not None:
        require_modality(from_)
    conditions = SearchFilter(
        countries=tuple(country or ()),
        splits=tuple(split or ()),
        labels_any=tuple(label or ()),
        labels_all=tuple(all_labels or ()),
        bbox=_bbox(bbox) if bbox else None,
        acquired_from=since.replace(tzinfo=UTC) if since else None,
        acquired_until=until.replace(tzinfo=UTC) if until else None,
        exclude_snow=exclude_snow,
        exclude_cloud=exclude_cloud,
    )
    with RetrievalClient(server, ca_file=str(ca) if ca else None, token=token) as client:
        ask = partial(_hits, client, across, min_recall=min_recall)
        if patch_id is not None:
            rows = _rows(ask(patch_id=patch_id, source=from_ or "s1", target=to, k=k, filter=conditions))
        else:
            names = [name.strip() for name in bands.split(",")] if bands else []
            read, found = client.search_files(
                image or [], bands=names, source=from_, target=to, k=k, filter=conditions, ask=ask
            )
            for note in read.notes:
                say(note)
            several = len(read.windows) > 1
            rows = [
                ({"window": [window.row, window.column]} if several else {}) | row
                for window, hits in zip(read.windows, found, strict=True)
                for row in _rows(hits)
            ]
    if export is not None:
        export_hits(rows, export)
    emit_rows(rows, line=_line)
    if not rows:
        say("no patch passes these filters" if conditions != SearchFilter() else "the index is empty")


def _hits(client: RetrievalClient, across: bool, **query: Any) -> list[Hit]:
    """Hits of one query; owners that are left out are named to people."""
    if not across:
        return client.search(**query)
    answer = client.search_across(**query)
    for owner in answer.owners:
        if owner.status != "ANSWERED":
            say(f"without {owner.owner} ({owner.status}): {owner.message}")
        elif owner.distance_step > 1:
            say(f"{owner.owner} rounds distances to multiples of {owner.distance_step}")
    if not answer.exact:
        lowest = f": the lowest measured recall is {answer.recall:.4f}" if 0 < answer.recall < 1 else ""
        say(f"the answer is not exact{lowest}")
    return answer.hits


def _rows(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Rows without bytes, and without owners where one archive was asked."""
    from eoforge.client.messages import HIT_BYTES

    return [
        {name: v for name, v in as_dict(hit).items() if name not in HIT_BYTES and (hit.owner or "owner" not in name)}
        for hit in hits
    ]


def _line(hit: dict[str, Any]) -> str:
    """Line of a hit: distance in bits, patch, country, date, labels."""
    labels = "; ".join(hit["labels"])
    country = hit["country"] or "country unknown"
    place = "window {},{}  ".format(*hit["window"]) if "window" in hit else ""
    owner = f"{hit['owner']}  " if "owner" in hit else ""
    date = f"{hit['acquired']:%Y-%m-%d}" if hit["acquired"] else "date unknown"
    return f"{place}{hit['distance']:>4}  {owner}{hit['patch_id']}  {country}, {date}  {labels}"


def _bbox(text: str) -> tuple[float, float, float, float]:
    parts = text.split(",")
    try:
        lon_min, lat_min, lon_max, lat_max = (float(p) for p in parts)
    except ValueError:
        raise UsageError(f"--bbox must be LON_MIN,LAT_MIN,LON_MAX,LAT_MAX in degrees; got {text!r}") from None
    return lon_min, lat_min, lon_max, lat_max
