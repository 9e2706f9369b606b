"""STAC collection with one Item per patch, whose assets are COGs, and all Items in one stac-geoparquet file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from eoforge.data.export.cogs import write_patch
from eoforge.data.names import tile_of
from eoforge.data.records import PatchPair
from eoforge.errors import UsageError
from eoforge.geo.footprint import corners, lonlat_bounds

COLLECTION, ITEMS = "collection.json", "items.parquet"
_TITLES = {
    "s2_10m": "Sentinel-2 B02 B03 B04 B08",
    "s2_20m": "Sentinel-2 B05 B06 B07 B8A B11 B12",
    "s2_60m": "Sentinel-2 B01 B09",
    "s1": "Sentinel-1 VV VH in dB",
    "reference_map": "CORINE Land Cover, level-3 codes",
}


def write_collection(pairs: Iterable[PatchPair], out: Path, name: str) -> None:
    """Collection below a new folder: ``collection.json``, ``items.parquet``, and Items beside their COGs.

    Raises:
        UsageError: The packages of the extra ``export`` are not installed.
    """
    try:
        import pystac
        from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet
    except ImportError as error:
        raise UsageError("STAC is written by pystac and stac-geoparquet; install eoforge[export]") from error
    out.mkdir()
    bounds: list[list[float]] = []
    times: list[datetime] = []
    links: list[dict[str, str]] = []

    def items() -> Iterator[dict[str, Any]]:
        for pair in pairs:
            item = _item(pair, out, name)
            path = out / tile_of(pair.meta.patch_id) / pair.meta.patch_id / f"{pair.meta.patch_id}.json"
            path.write_text(json.dumps(item.to_dict(include_self_link=False)))
            bounds.append(item.bbox)
            times.append(item.datetime)
            links.append({"rel": "item", "href": f"./{path.relative_to(out)}", "type": "application/geo+json"})
            yield item.to_dict(include_self_link=False)

    to_parquet(parse_stac_items_to_arrow(items()), out / ITEMS)
    boxes = np.array(bounds)
    box = [*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist()]
    extent = pystac.Extent(pystac.SpatialExtent([box]), pystac.TemporalExtent([[min(times), max(times)]]))
    collection = pystac.Collection(name, "Patches of 1,200 m with Sentinel-1 and Sentinel-2 on native grids", extent)
    content = collection.to_dict(include_self_link=False)
    content["links"] = [*(link for link in content["links"] if link["rel"] not in ("root", "self")), *links]
    content["assets"] = {"items": {"href": f"./{ITEMS}", "type": "application/vnd.apache.parquet"}}
    (out / COLLECTION).write_text(json.dumps(content))


def _item(pair: PatchPair, out: Path, collection: str) -> Any:
    import pystac

    meta, names = pair.meta, pair.meta.names
    place = names.footprint
    corner = [np.array([v], dtype=np.int32) for v in (place.epsg, place.ulx, place.uly)]
    ring = corners(*corner)[0].tolist()
    properties = {
        "proj:code": f"EPSG:{place.epsg}",
        "eoforge:split": meta.split,
        "eoforge:labels": None if meta.labels is None else list(meta.labels),
        "eoforge:country": meta.country,
        "eoforge:s1_name": meta.s1_name,
        "grid:code": f"MGRS-{names.patch.tile.mgrs}",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    item = pystac.Item(
        id=meta.patch_id,
        geometry={"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        bbox=lonlat_bounds(*corner)[0].tolist(),
        datetime=names.patch.tile.acquired,
        properties=properties,
        collection=collection,
    )
    for column, path in write_patch(pair, out).items():
        asset = pystac.Asset(f"./{path.name}", _TITLES[column], media_type=pystac.MediaType.COG, roles=["data"])
        item.add_asset(column, asset)
    item.links = [pystac.Link("collection", f"../../{COLLECTION}", "application/json")]
    return item
