"""Profiles from open GeoTIFFs, and onto them; what a profile cannot hold is refused or named in a warning.

A file beside a GeoTIFF (``.msk``, ``.aux.xml``, ``.tfw``) is never opened. A mask there changes which pixels are
valid, so it is refused; the others are named.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eoforge.codec.profile import (
    RPC_NUMBERS,
    RPC_POLYNOMIALS,
    UNWRITABLE_TAGS,
    BandProfile,
    ControlPoint,
    GridProfile,
    Profile,
)
from eoforge.codec.raster import BAND_ORDER, FACTORS
from eoforge.data.bands import GROUP_OF
from eoforge.errors import DataRefused
from eoforge.geo.crs import crs_text, parse_crs

BAND_TAG = "BAND_NAME"
"""Tag with the name of a band whose description is another text."""
_STATISTICS = ("STATISTICS_", "TIFFTAG_MINSAMPLEVALUE", "TIFFTAG_MAXSAMPLEVALUE")
_OWN_DOMAINS = {"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "RPC", "SUBDATASETS", "COLOR_PROFILE"}
"""Domains of metadata that GDAL derives from the file itself, and the RPCs, which are read apart."""
_SIDECARS = (".aux.xml", ".ovr")
_STEM_SIDECARS = (".tfw", ".tifw", ".wld", ".imd", ".rpb", "_rpc.txt", "_metadata.txt", ".prj")
_RADAR_WORDS = ("gray", "undefined")
_POINT_SHIFT = 1.0
"""GDAL moves control points by so many pixels when it writes a file whose pixels are points."""


@dataclass(frozen=True)
class FileProfile:
    """Profile of one file, its bands by name; warnings name what is not kept."""

    grid: GridProfile
    warnings: tuple[str, ...]


def read_file(dataset: Any, names: Sequence[str], content: object) -> FileProfile:
    """What an open file says about its pixels and their place.

    Args:
        dataset: Open in rasterio.
        names: Names of its bands.
        content: Path of the file; anything else if it has none.

    Raises:
        DataRefused: A band is marked as transparency, or a mask lies beside the file.
    """
    from rasterio.enums import MaskFlags

    what = ", ".join(names)
    warnings = list(_beside(content)) if isinstance(content, Path) else []
    colours = [colour.name for colour in dataset.colorinterp]
    if "alpha" in colours:
        raise DataRefused(
            f"band {names[colours.index('alpha')]} is marked as transparency (alpha); mark it as grey, or write an "
            "internal mask"
        )
    palettes = [name for name, colour in zip(names, colours, strict=True) if colour == "palette"]
    if palettes:
        warnings.append(f"the colour table of {', '.join(palettes)}")
    domains = sorted({d for i in (0, *dataset.indexes) for d in dataset.tag_namespaces(i) if d} - _OWN_DOMAINS)
    if domains:
        warnings.append(f"metadata of {what} in the domains {', '.join(domains)}")
    bands = {}
    tags = _kept(dataset.tags(), what, warnings)
    for i, name in enumerate(names):
        description = dataset.descriptions[i] or ""
        own = _kept(dataset.tags(i + 1), name, warnings)
        own.pop(BAND_TAG, None)
        bands[name] = BandProfile(
            scale=float(dataset.scales[i]),
            offset=float(dataset.offsets[i]),
            unit=dataset.units[i] or "",
            description="" if description == name else description,
            colour="" if colours[i] in (*_RADAR_WORDS, "palette") else colours[i],
            tags=own,
        )
    points, points_crs = dataset.gcps
    masked = MaskFlags.per_dataset in dataset.mask_flag_enums[0] and MaskFlags.alpha not in dataset.mask_flag_enums[0]
    grid = GridProfile(
        bands,
        None if dataset.nodata is None else float(dataset.nodata),
        masked,
        tags,
        tuple(ControlPoint(p.row, p.col, p.x, p.y, p.z or 0.0) for p in points),
        (crs_text(points_crs) or "") if points else "",
        _rpcs_of(dataset),
    )
    return FileProfile(grid, tuple(warnings))


def combine(files: Iterable[tuple[GridProfile, int]]) -> Profile:
    """Profile of the native grids from those of files on their own grids.

    A tag on which the files of a grid differ becomes a tag of their bands.

    Args:
        files: Profiles, each with the base pixels per pixel of its file.

    Raises:
        DataRefused: Files of one native grid differ in what one GeoTIFF has once: nodata, mask, points, RPCs.
    """
    parts: dict[str, list[GridProfile]] = {}
    for profile, factor in files:
        for grid in dict.fromkeys(GROUP_OF[name].column for name in profile.bands):
            own = {name: band for name, band in profile.bands.items() if GROUP_OF[name].column == grid}
            part = replace(profile, bands=own).resampled(FACTORS[grid] / factor)
            parts.setdefault(grid, []).append(part)
    ordered = [group for group in FACTORS if group in parts]
    return Profile({grid: _merged(parts[grid]) for grid in ordered})


def write_profile(dataset: Any, names: Sequence[str], profile: GridProfile) -> None:
    """Puts a profile onto a GeoTIFF that is being written, before its pixels; nodata is given when it is created."""
    from rasterio.control import GroundControlPoint
    from rasterio.crs import CRS
    from rasterio.enums import ColorInterp
    from rasterio.rpc import RPC

    bands = [profile.bands[name] for name in names]
    dataset.descriptions = [band.description or name for band, name in zip(bands, names, strict=True)]
    if any((band.scale, band.offset) != (1.0, 0.0) for band in bands):
        dataset.scales = [band.scale for band in bands]
        dataset.offsets = [band.offset for band in bands]
    if any(band.unit for band in bands):
        dataset.units = [band.unit for band in bands]
    if any(band.colour for band in bands):
        known = ColorInterp.__members__
        dataset.colorinterp = [known.get(band.colour, ColorInterp.undefined) for band in bands]
    dataset.update_tags(**profile.tags)
    for index, (band, name) in enumerate(zip(bands, names, strict=True), start=1):
        tags = band.tags | ({BAND_TAG: name} if band.description else {})
        if tags:
            dataset.update_tags(index, **tags)
    if profile.points:
        shift = _POINT_SHIFT if profile.tags.get("AREA_OR_POINT") == "Point" else 0.0
        points = [
            GroundControlPoint(row=p.row - shift, col=p.column - shift, x=p.x, y=p.y, z=p.z) for p in profile.points
        ]
        dataset.gcps = (points, parse_crs(profile.points_crs) if profile.points_crs else CRS())
    if profile.rpcs:
        numbers: dict[str, Any] = {n: v if n in RPC_POLYNOMIALS else v[0] for n, v in profile.rpcs.items()}
        dataset.rpcs = RPC(**numbers)


def _rpcs_of(dataset: Any) -> dict[str, list[float]]:
    try:
        rpcs = dataset.rpcs
    except (ValueError, KeyError, IndexError) as error:  # rasterio takes the numbers from text without a check
        raise DataRefused("the RPCs of a file are incomplete or no numbers; remove or repair them") from error
    if rpcs is None:
        return {}
    found = {name: [float(getattr(rpcs, name))] for name in RPC_NUMBERS}
    found |= {name: list(map(float, getattr(rpcs, name))) for name in RPC_POLYNOMIALS}
    optional = {name: getattr(rpcs, name) for name in ("err_bias", "err_rand")}
    return found | {name: [float(value)] for name, value in optional.items() if value is not None}


def _kept(tags: Mapping[str, str], what: str, warnings: list[str]) -> dict[str, str]:
    """Tags that can be written; without statistics, which GDAL computes again from pixels that may differ."""
    derived = sorted(key for key in tags if key.startswith(_STATISTICS))
    if derived:
        warnings.append(f"statistics of {what}: {', '.join(derived)}")
    unwritable = sorted(UNWRITABLE_TAGS & set(tags))
    if unwritable:
        warnings.append(f"tags of {what} with the names {', '.join(unwritable)}")
    return {key: value for key, value in tags.items() if key not in (*derived, *unwritable)}


def _beside(path: Path) -> Iterable[str]:
    if path.with_name(path.name + ".msk").exists():
        raise DataRefused(
            f"{path.name}.msk holds the mask of {path.name}, and files beside a GeoTIFF are not read; make it an "
            "internal mask, for example with gdal_translate --config GDAL_TIFF_INTERNAL_MASK YES"
        )
    names = {path.name.lower() + end for end in _SIDECARS} | {path.stem.lower() + end for end in _STEM_SIDECARS}
    found = sorted(other.name for other in path.parent.iterdir() if other.name.lower() in names)
    return [f"{', '.join(found)} beside {path.name}"] if found else []


def _merged(parts: Sequence[GridProfile]) -> GridProfile:
    """One profile of the files of one native grid."""
    first = parts[0]
    for other in parts[1:]:
        names = f"{', '.join(first.bands)} and {', '.join(other.bands)}"
        if not _same(first.nodata, other.nodata):
            raise DataRefused(
                f"{names} have the nodata values {first.nodata} and {other.nodata}, and bands of one grid come back in "
                "one GeoTIFF, which has one; compress them apart, or give them one value"
            )
        if first.masked != other.masked:
            raise DataRefused(f"of {names}, one has an internal mask; compress them apart, or give both the same mask")
        if (first.points, first.points_crs, first.rpcs) != (other.points, other.points_crs, other.rpcs):
            raise DataRefused(f"{names} differ in ground control points or RPCs; compress them apart")
    common = dict(set.intersection(*(set(part.tags.items()) for part in parts)))
    bands: dict[str, BandProfile] = {}
    for part in parts:
        apart = {key: value for key, value in part.tags.items() if key not in common}
        for name, band in part.bands.items():
            bands[name] = replace(band, tags=apart | band.tags)
    ordered = {name: bands[name] for name in BAND_ORDER if name in bands}
    return replace(first, bands=ordered, tags=dict(sorted(common.items())))


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))
