"""``eoforge search``: queries to a running retrieval service."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from eoforge.cli.export import export_hits
from eoforge.cli.options import DEFAULT_SERVER
from eoforge.cli.output import Json, as_dict, emit_rows, say
from eoforge.errors import NotFound, UsageError

_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]


def search(
    server: Annotated[str, typer.Option(help="HOST:PORT of a retrieval service.")] = DEFAULT_SERVER,
    patch_id: Annotated[str | None, typer.Option(help="Query by a patch of the archive.")] = None,
    image: Annotated[Path | None, typer.Option(help="Query by a multi-band GeoTIFF.")] = None,
    from_: Annotated[str, typer.Option("--from", help="Sensor of the query: s1 or s2.")] = "s1",
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
    ca: Annotated[Path | None, typer.Option(help="CA certificate; turns TLS on.")] = None,
    token: Annotated[str | None, typer.Option(envvar="EOFORGE_TOKEN", help="Bearer token.")] = None,
    export: Annotated[str | None, typer.Option(help="Also write the hits to this GeoParquet file, for QGIS.")] = None,
    json: Json = False,
) -> None:
    """Find the patches most similar to one patch or image, across sensors."""
    from eoforge.client import RetrievalClient, SearchFilter

    if (patch_id is None) == (image is None):
        raise UsageError("give exactly one of --patch-id and --image")
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
        if patch_id is not None:
            hits = client.search(patch_id=patch_id, source=from_, target=to, k=k, filter=conditions)
        else:
            hits = client.search(geotiff=_read(image), source=from_, target=to, k=k, filter=conditions)
    rows = [{name: v for name, v in as_dict(h).items() if name != "thumbnail_png"} for h in hits]
    if export is not None:
        export_hits(rows, export)
    emit_rows(rows, line=_line)
    if not rows:
        say("no patch passes these filters" if conditions != SearchFilter() else "the index is empty")


def _line(hit: dict[str, Any]) -> str:
    """Line of a hit: distance in bits, patch, country, date, labels."""
    labels = "; ".join(hit["labels"])
    country = hit["country"] or "country unknown"
    return f"{hit['distance']:>4}  {hit['patch_id']}  {country}, {hit['acquired']:%Y-%m-%d}  {labels}"


def _bbox(text: str) -> tuple[float, float, float, float]:
    parts = text.split(",")
    try:
        lon_min, lat_min, lon_max, lat_max = (float(p) for p in parts)
    except ValueError:
        raise UsageError(f"--bbox must be LON_MIN,LAT_MIN,LON_MAX,LAT_MAX in degrees; got {text!r}") from None
    return lon_min, lat_min, lon_max, lat_max


def _read(path: Path | None) -> bytes:
    if path is None or not path.is_file():
        raise NotFound(f"no image at {path}")
    return path.read_bytes()
