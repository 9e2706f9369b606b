"""STAC Items whose assets are the bands of a level-2A product."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from eoforge.data.archives.offset import FIRST_BASELINE
from eoforge.data.bands import GROUP_OF, S2_BANDS
from eoforge.data.tiles.files import TileFiles
from eoforge.data.tiles.offsets import Offsets
from eoforge.data.tiles.products import TIFF, BandFile, Product, band_in, name_in
from eoforge.errors import DataRefused, LimitExceeded
from eoforge.geo.grids import Grid

_SCALE = 10_000


def stac_item(files: TileFiles, key: str) -> dict[str, Any] | None:
    """Content of a file if it is a STAC Item, else None."""
    try:
        content = json.loads(files.text(key))
    except (ValueError, RecursionError, LimitExceeded):
        return None
    is_item = isinstance(content, dict) and content.get("type") == "Feature" and "stac_version" in content
    return content if is_item and isinstance(content.get("assets"), dict) else None


def read_stac(files: TileFiles, key: str, item: Mapping[str, Any]) -> Product:
    """Product of a STAC Item; its assets lie below the address of the tiles.

    Raises:
        DataRefused: An asset lies elsewhere, two assets name one band, or values have another form.
    """
    where = files.address(key)
    properties = item.get("properties")
    if not isinstance(properties, dict):
        raise DataRefused(f"{where}: expected properties of a STAC Item")
    chosen: dict[str, Mapping[str, Any]] = {}
    for band, asset in _band_assets(item["assets"]):
        better = str(asset["href"]).lower().endswith(TIFF)
        if band in chosen and str(chosen[band]["href"]).lower().endswith(TIFF) == better:
            raise DataRefused(f"{where}: two assets for {band}: {chosen[band]['href']!r} and {asset['href']!r}")
        if band not in chosen or better:
            chosen[band] = asset
    ordered = {band: chosen[band] for band in S2_BANDS if band in chosen}
    bands = {band: _file(files, key, asset, properties, band, where) for band, asset in ordered.items()}
    name = name_in(str(properties.get("s2:product_uri", "")), where) or name_in(str(item.get("id", "")), where)
    name = name or name_in(where, where)
    return Product(where, name, bands, _offsets(ordered, properties))


def _band_assets(assets: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for title, asset in assets.items():
        if not isinstance(asset, dict) or not isinstance(asset.get("href"), str):
            continue
        roles = asset.get("roles")
        if isinstance(roles, list) and {"thumbnail", "overview", "metadata"} & set(map(str, roles)):
            continue
        listed = asset.get("eo:bands") or asset.get("bands") or []
        if not isinstance(listed, list) or len(listed) > 1:
            continue
        stated = str(listed[0].get("name", "")) if listed and isinstance(listed[0], dict) else ""
        file = posixpath.basename(asset["href"]).rsplit(".", 1)[0]
        found = next(filter(None, map(band_in, (title, stated, file))), None)
        if found and found[0] in GROUP_OF and found[1] in (None, GROUP_OF[found[0]].resolution):
            yield found[0], asset


def _file(
    files: TileFiles, key: str, asset: Mapping[str, Any], properties: Mapping[str, Any], band: str, where: str
) -> BandFile:
    href = str(asset["href"])
    below = files.root.rstrip("/") + "/"
    if href.startswith(below):
        target = posixpath.normpath(href[len(below) :])
    elif "://" in href or href.startswith("/"):
        raise DataRefused(f"{where}: the asset {href[:200]!r} lies outside {files.root}; download it beside the item")
    else:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(key), href))
    if target.startswith("../") or target == "..":
        raise DataRefused(f"{where}: the asset {href[:200]!r} lies outside {files.root}; download it beside the item")
    grid = None
    if not target.lower().endswith(TIFF):
        grid = _grid(asset, properties, where, band)
    return BandFile(target, grid)


def _grid(asset: Mapping[str, Any], properties: Mapping[str, Any], where: str, band: str) -> Grid:
    def stated(name: str) -> Any:
        return asset.get(name, properties.get(name))

    code = str(stated("proj:code") or f"EPSG:{stated('proj:epsg')}")
    transform, shape = stated("proj:transform"), stated("proj:shape")
    match = re.fullmatch(r"EPSG:(\d{4,6})", code, re.ASCII)
    try:
        a, b, left, d, e, top = map(float, transform[:6])
        height, width = map(int, shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataRefused(f"{where}: a JPEG 2000 asset needs proj:transform and proj:shape; {band} has none") from error
    if match is None or b or d or a != -e or a <= 0 or not (math.isfinite(left) and math.isfinite(top)):
        raise DataRefused(f"{where}: expected an upright grid with an EPSG code for {band}")
    return Grid(int(match[1]), left, top, a, width, height)


def _offsets(assets: Mapping[str, Mapping[str, Any]], properties: Mapping[str, Any]) -> Offsets:
    """Offsets of an item: whether they were taken out, else what its raster extension says, else by its baseline."""
    applied = properties.get("earthsearch:boa_offset_applied")
    if applied is True:
        return Offsets.constant(0)
    stated = {band: value for band, asset in assets.items() if (value := _raster_offset(asset)) is not None}
    if len(stated) == len(S2_BANDS) and all(-_SCALE <= value <= 0 for value in stated.values()):
        return Offsets(stated)
    text = str(properties.get("s2:processing_baseline", properties.get("processing:version", "")))
    match = re.fullmatch(r"(\d{2})\.(\d{2})", text, re.ASCII)
    if match is None:
        return Offsets(None, "the item names neither raster offsets nor a processing baseline")
    baseline = int(match[1] + match[2])
    if applied is False and FIRST_BASELINE <= baseline < 9900:
        return Offsets.constant(-1000)
    return Offsets.of_baseline(baseline, "the item does not say whether it was taken out")


def _raster_offset(asset: Mapping[str, Any]) -> int | None:
    bands = asset.get("raster:bands") or asset.get("bands") or []
    first = bands[0] if isinstance(bands, list) and len(bands) == 1 and isinstance(bands[0], dict) else {}
    offset: Any = first.get("offset", first.get("raster:offset", asset.get("raster:offset")))
    scale: Any = first.get("scale", first.get("raster:scale", asset.get("raster:scale")))
    try:
        if round(1 / float(scale)) != _SCALE:
            return None
        return None if offset is None else round(float(offset) / float(scale))
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
