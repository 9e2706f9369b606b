"""Profile of a raster: what a GeoTIFF says about its pixels and their place beside CRS and transform.

One part per native grid, because one GeoTIFF per native grid comes back. A raster without a profile follows the
convention of reBEN: 0 is nodata in Sentinel-2, and nothing is in Sentinel-1. In a stream a profile is deflated JSON.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from eoforge.data.bands import GROUP_OF
from eoforge.errors import DataRefused, LimitExceeded
from eoforge.geo.crs import check_crs

MAX_PACKED_BYTES = 1 << 16
MAX_TEXT_BYTES = 1 << 20
"""Largest profile in a stream, deflated and as text; that of a reBEN patch has a few hundred bytes."""
MAX_VALUES = 1 << 15
"""Most commas of that text: a validated value takes hundreds of times the bytes of a short one, a refused one more."""
UNWRITABLE_TAGS = frozenset({"bidx", "ns"})
"""Names that rasterio does not write as tags: they are arguments of its function."""
RPC_NUMBERS = ("line_off", "samp_off", "lat_off", "long_off", "height_off", "line_scale", "samp_scale", "lat_scale",
               "long_scale", "height_scale")  # fmt: skip
RPC_POLYNOMIALS = ("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff")
_RPC_LENGTHS = {name: {1} for name in RPC_NUMBERS} | {name: {20} for name in RPC_POLYNOMIALS}
_RPC_OPTIONAL = {"err_bias": {1}, "err_rand": {1}}
_KEY = re.compile(r"[^\x00-\x20=\x7f][^\x00-\x1f=\x7f]{0,255}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
_CONFIG = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


@dataclass(frozen=True)
class BandProfile:
    """What a file says about one band.

    Attributes:
        scale: Value of one unit of a sample; the physical value is ``scale * sample + offset``.
        offset: Physical value of the sample 0.
        unit: Unit of the physical value.
        description: Description of the band where it is not the band's name.
        colour: Colour interpretation in rasterio's word, such as ``red``; empty for grey and undefined.
        tags: Metadata of the band.
    """

    __pydantic_config__ = _CONFIG
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""
    description: str = ""
    colour: str = ""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ControlPoint:
    """Ground control point (GCP): a pixel position of the grid, and its place in the CRS of the points."""

    __pydantic_config__ = _CONFIG
    row: float
    column: float
    x: float
    y: float
    z: float = 0.0


@dataclass(frozen=True)
class GridProfile:
    """What the files of one native grid say.

    Attributes:
        bands: Band name -> its part.
        nodata: Sample that stands for no data in every band, None if there is none.
        masked: Whether the files have an internal mask.
        tags: Metadata of the file.
        points: Ground control points.
        points_crs: ``EPSG:<code>`` or WKT of the points.
        rpcs: Rational polynomial coefficients by rasterio's names, each as a list of numbers.
    """

    __pydantic_config__ = _CONFIG
    bands: dict[str, BandProfile]
    nodata: float | None = None
    masked: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    points: tuple[ControlPoint, ...] = ()
    points_crs: str = ""
    rpcs: dict[str, list[float]] = field(default_factory=dict)

    def resampled(self, ratio: float, row: float = 0.0, column: float = 0.0) -> GridProfile:
        """Profile of a grid that starts at pixel (``row``, ``column``) and is ``ratio`` times coarser."""
        if (ratio, row, column) == (1, 0, 0):
            return self
        points = tuple(replace(p, row=(p.row - row) / ratio, column=(p.column - column) / ratio) for p in self.points)
        rpcs = dict(self.rpcs)
        if rpcs:
            # Offsets count from the centre of the first pixel, not from its corner.
            rpcs["line_off"] = [(rpcs["line_off"][0] - row + 0.5) / ratio - 0.5]
            rpcs["samp_off"] = [(rpcs["samp_off"][0] - column + 0.5) / ratio - 0.5]
            rpcs |= {name: [rpcs[name][0] / ratio] for name in ("line_scale", "samp_scale")}
        return replace(self, points=points, rpcs=rpcs)


@dataclass(frozen=True)
class Profile:
    """Profile of a raster: native grid (``s2_10m``, ``s2_20m``, ``s2_60m``, ``s1``) -> its part."""

    __pydantic_config__ = _CONFIG
    grids: dict[str, GridProfile]

    def only(self, bands: Iterable[str]) -> Profile:
        """Profile of some of the bands."""
        kept = set(bands)
        parts = {
            grid: replace(part, bands={name: band for name, band in part.bands.items() if name in kept})
            for grid, part in self.grids.items()
        }
        return Profile({grid: part for grid, part in parts.items() if part.bands})

    def moved(self, row: int, column: int, factors: Mapping[str, int]) -> Profile:
        """Profile of a window that starts at this base pixel, with the base pixels per pixel of each grid."""
        return Profile({g: part.resampled(1, row / factors[g], column / factors[g]) for g, part in self.grids.items()})

    def nodata_of(self, band: str) -> npt.NDArray[Any] | None:
        """Sample of a band that stands for no data, as an array of one number; None if no sample can.

        A nodata value that the type of the band cannot hold, such as -9999 in unsigned integers or 1e300 in float32,
        marks no pixel.
        """
        value = self.grids[GROUP_OF[band].column].nodata
        if value is None:
            return None
        dtype = np.dtype(GROUP_OF[band].dtype)
        if dtype.kind == "u" and not (0 <= value <= np.iinfo(dtype).max and value == math.floor(value)):
            return None
        with np.errstate(over="ignore"):
            held: npt.NDArray[Any] = np.array(value).astype(dtype)
        return None if np.isinf(held) and math.isfinite(value) else held


_JSON = TypeAdapter(Profile)


def pack_profile(profile: Profile, bands: Iterable[str]) -> bytes:
    """Bytes of a profile in a stream.

    Raises:
        LimitExceeded: It is larger than a stream holds.
        DataRefused: A text holds control characters, or numbers that are not finite.
    """
    check_profile(profile, bands)
    text = _JSON.dump_json(profile, exclude_defaults=True)
    packed = zlib.compress(text, 9)
    values = text.count(b",")
    if len(text) > MAX_TEXT_BYTES or len(packed) > MAX_PACKED_BYTES or values > MAX_VALUES:
        raise LimitExceeded(
            f"tags, ground control points and RPCs of a raster may have {MAX_TEXT_BYTES} bytes and {MAX_VALUES} commas "
            f"as text, and {MAX_PACKED_BYTES} bytes deflated; got {len(text)}, {values} and {len(packed)}. Remove tags "
            "that are not needed"
        )
    return packed


def unpack_profile(packed: bytes, bands: Iterable[str]) -> Profile:
    """Profile from the bytes in a stream.

    Raises:
        DataRefused: The bytes are damaged, or do not fit these bands.
    """
    try:
        decoder = zlib.decompressobj()
        text = decoder.decompress(packed, MAX_TEXT_BYTES)
        if not decoder.eof:
            raise DataRefused(f"damaged stream: its profile has more than {MAX_TEXT_BYTES} bytes")
        if text.count(b",") > MAX_VALUES:  # before the parser, which keeps an error for every wrong value
            raise DataRefused(f"damaged stream: its profile has more than {MAX_VALUES} values")
        profile = _JSON.validate_json(text, strict=False)
    except (zlib.error, ValidationError) as error:
        raise DataRefused(f"damaged stream: its profile does not decode ({type(error).__name__})") from error
    check_profile(profile, bands)
    return profile


def check_profile(profile: Profile, bands: Iterable[str]) -> None:
    """Refuses a profile that does not fit the bands, or holds what no GeoTIFF can.

    Raises:
        DataRefused: It is one of these.
    """
    wanted: dict[str, set[str]] = {}
    for given in bands:
        wanted.setdefault(GROUP_OF[given].column, set()).add(given)
    found = {grid: set(part.bands) for grid, part in profile.grids.items()}
    if found != wanted:
        raise DataRefused(f"the profile of a raster describes {found}, its bands are {wanted}")
    for grid, part in profile.grids.items():
        for tags in (part.tags, *(band.tags for band in part.bands.values())):
            for key, value in tags.items():
                if not _KEY.fullmatch(key) or _CONTROL.search(value) or key in UNWRITABLE_TAGS:
                    raise DataRefused(f"{grid}: the tag {key[:80]!r} has a name or characters that are not kept")
        for name, band in part.bands.items():
            if not (math.isfinite(band.scale) and math.isfinite(band.offset)):
                raise DataRefused(f"{name}: scale {band.scale} and offset {band.offset} are not finite")
            if any(_CONTROL.search(text) for text in (band.unit, band.description, band.colour)):
                raise DataRefused(f"{name}: unit or description hold characters that a GeoTIFF cannot keep")
        _check_place(grid, part)


def _check_place(grid: str, part: GridProfile) -> None:
    numbers = [number for p in part.points for number in (p.row, p.column, p.x, p.y, p.z)]
    numbers += [number for values in part.rpcs.values() for number in values]
    if not all(map(math.isfinite, numbers)):
        raise DataRefused(f"{grid}: ground control points or RPCs are not finite")
    if part.points_crs:
        check_crs(part.points_crs)
    given = {name: {len(values)} for name, values in part.rpcs.items()}
    if given and {**_RPC_OPTIONAL, **given} != {**_RPC_OPTIONAL, **_RPC_LENGTHS}:
        raise DataRefused(f"{grid}: expected the RPCs {', '.join(_RPC_LENGTHS)}; got {given}")
