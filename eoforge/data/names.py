"""Parsers of the names of reBEN; the text of a parsed name equals the original.

Forms (facts of the official archive, all 549,488 rows)::

    tile      S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP         folder of BigEarthNet-S2 and Reference_Maps
    patch_id  <tile>_26_57                                         x, y padded to two digits
    scene     S1B_IW_GRDH_1SDV_20170612T165809                     folder of BigEarthNet-S1
    s1_name   <scene>_33UUP_26_57, <scene>_35VNJ_0_0               x, y not padded
    s2v1_name S2A_MSIL2A_20170613T101031_26_57                     BigEarthNet v1, including its errors

x counts columns from west to east, y rows from north to south; both start at the tile's north-west corner.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from eoforge.errors import DataRefused
from eoforge.geo.footprint import Footprint, footprint

GRID_SIDE = 91
"""Patches per tile side: 109,800 m cut in steps of 1,200 m, the incomplete last one dropped."""

# Zone 1..60, a latitude band, then the two letters of the 100 km square (rows repeat after V); no I and no O in MGRS.
MGRS_PATTERN = r"(?:0[1-9]|[1-5]\d|60)[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V]"

_TILE = re.compile(rf"(S2[A-D])_MSIL2A_(\d{{8}}T\d{{6}})_N(\d{{4}})_R(\d{{3}})_T({MGRS_PATTERN})", re.ASCII)
_SCENE = re.compile(r"(S1[A-D])_IW_GRDH_1SDV_(\d{8}T\d{6})", re.ASCII)
_MGRS = re.compile(MGRS_PATTERN, re.ASCII)
# The v1 time lost leading zeros of the hour (T93020) and has seconds beyond 59 (T94161): five or six digits, no clock.
_V1 = re.compile(r"(S2[AB])_MSIL2A_(\d{8})T(\d{5,6})_(\d{1,2})_(\d{1,2})", re.ASCII)
_TIME_FORMAT = "%Y%m%dT%H%M%S"
_PADDED = {f"{i:02d}": i for i in range(GRID_SIDE)}
_PLAIN = {str(i): i for i in range(GRID_SIDE)}


@dataclass(frozen=True, slots=True)
class TileName:
    """Name of a Sentinel-2 tile acquisition: its patches share sensing time, orbit and MGRS tile."""

    mission: str
    acquired: datetime
    baseline: int
    orbit: int
    mgrs: str

    def __str__(self) -> str:
        return f"{self.mission}_MSIL2A_{_time_text(self.acquired)}_N{self.baseline:04d}_R{self.orbit:03d}_T{self.mgrs}"


@dataclass(frozen=True, slots=True)
class PatchName:
    """Parsed ``patch_id``: cell (x, y) of a tile."""

    tile: TileName
    x: int
    y: int

    def __str__(self) -> str:
        return f"{self.tile}_{self.x:02d}_{self.y:02d}"

    @property
    def footprint(self) -> Footprint:
        """Zone and upper-left corner of the patch.

        Raises:
            DataRefused: The tile names no 100 km square.
        """
        return footprint(self.tile.mgrs, self.x, self.y)


@dataclass(frozen=True, slots=True)
class SceneName:
    """Name of a Sentinel-1 ground-range-detected scene."""

    mission: str
    acquired: datetime

    def __str__(self) -> str:
        return f"{self.mission}_IW_GRDH_1SDV_{_time_text(self.acquired)}"


@dataclass(frozen=True, slots=True)
class S1Name:
    """Parsed ``s1_name``: the part of a scene on cell (x, y) of an MGRS tile."""

    scene: SceneName
    mgrs: str
    x: int
    y: int

    def __str__(self) -> str:
        return f"{self.scene}_{self.mgrs}_{self.x}_{self.y}"


@dataclass(frozen=True, slots=True)
class S2V1Name:
    """Parsed BigEarthNet v1 name; ``time`` is text, as 99,253 of them are no clock time or differ from v2."""

    mission: str
    date: str
    time: str
    x: str
    y: str

    def __str__(self) -> str:
        return f"{self.mission}_MSIL2A_{self.date}T{self.time}_{self.x}_{self.y}"


@dataclass(frozen=True, slots=True)
class PairNames:
    """Parsed names of a patch pair, with the footprint that they imply.

    Attributes:
        patch: Tile and cell, from the ``patch_id``.
        s1: Scene and cell, from the ``s1_name``; None for a patch without radar.
        footprint: Zone and upper-left corner of the patch.
    """

    patch: PatchName
    s1: S1Name | None
    footprint: Footprint


def _utc(text: str, name: str) -> datetime:
    try:
        return datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError as error:
        raise DataRefused(f"{name!r}: {text} is no UTC time of the form YYYYMMDDTHHMMSS") from error


@lru_cache(maxsize=4096)
def _time_text(moment: datetime) -> str:
    return f"{moment:{_TIME_FORMAT}}"


@lru_cache(maxsize=4096)
def parse_tile(name: str) -> TileName:
    """Parsed name of a tile folder.

    Raises:
        DataRefused: The name has another form.
    """
    match = _TILE.fullmatch(name)
    if match is None:
        raise DataRefused(f"expected a tile like S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP, got {name!r}")
    mission, time, baseline, orbit, mgrs = match.groups()
    return TileName(mission, _utc(time, name), int(baseline), int(orbit), mgrs)


@lru_cache(maxsize=4096)
def parse_scene(name: str) -> SceneName:
    """Parsed name of a Sentinel-1 scene folder.

    Raises:
        DataRefused: The name has another form.
    """
    match = _SCENE.fullmatch(name)
    if match is None:
        raise DataRefused(f"expected a scene like S1B_IW_GRDH_1SDV_20170612T165809, got {name!r}")
    return SceneName(match[1], _utc(match[2], name))


def parse_patch_id(name: str) -> PatchName:
    """Parsed ``patch_id``.

    Raises:
        DataRefused: The name has another form, or x or y is not in 00..90.
    """
    tile, x, y = split_patch_id(name)
    return PatchName(parse_tile(tile), _PADDED[x], _PADDED[y])


def split_patch_id(name: str) -> tuple[str, str, str]:
    """Tuple ``(tile folder, xx, yy)`` of a ``patch_id``; the cell is checked, the tile is not.

    Raises:
        DataRefused: The cell is missing, or x or y is not in 00..90.
    """
    parts = name.rsplit("_", 2)
    if len(parts) != 3 or parts[1] not in _PADDED or parts[2] not in _PADDED:
        raise DataRefused(f"expected a patch_id like <tile>_26_57 with x and y in 00..{GRID_SIDE - 1}, got {name!r}")
    return parts[0], parts[1], parts[2]


def parse_s1_name(name: str) -> S1Name:
    """Parsed ``s1_name``.

    Raises:
        DataRefused: The name has another form, or x or y is padded or not in 0..90.
    """
    parts = name.rsplit("_", 3)
    if len(parts) != 4 or parts[2] not in _PLAIN or parts[3] not in _PLAIN or _MGRS.fullmatch(parts[1]) is None:
        raise DataRefused(
            f"expected an s1_name like <scene>_33UUP_26_57 with x and y in 0..{GRID_SIDE - 1}, got {name!r}"
        )
    return S1Name(parse_scene(parts[0]), parts[1], _PLAIN[parts[2]], _PLAIN[parts[3]])


def parse_s2v1_name(name: str) -> S2V1Name:
    """Parsed BigEarthNet v1 patch name, with every digit kept.

    Raises:
        DataRefused: The name has another form.
    """
    match = _V1.fullmatch(name)
    if match is None:
        raise DataRefused(f"expected a v1 name like S2A_MSIL2A_20170613T101031_26_57, got {name!r}")
    return S2V1Name(match[1], match[2], match[3], match[4], match[5])


def parse_pair(patch_id: str, s1_name: str | None, s2v1_name: str | None) -> PairNames:
    """Parsed names of a metadata row; a patch without radar has no ``s1_name``, one of a new tile no ``s2v1_name``.

    Raises:
        DataRefused: A name has another form, or the tile names no 100 km square.
    """
    patch = parse_patch_id(patch_id)
    place = patch.footprint
    s1 = None if s1_name is None else parse_s1_name(s1_name)
    if s2v1_name is not None:
        parse_s2v1_name(s2v1_name)
    return PairNames(patch, s1, place)


def tile_of(patch_id: str) -> str:
    """Folder of a patch below ``BigEarthNet-S2`` and ``Reference_Maps``: the name without its cell."""
    return patch_id.rsplit("_", 2)[0]


def scene_of(s1_name: str) -> str:
    """Folder of a patch below ``BigEarthNet-S1``: the name without tile and cell."""
    return s1_name.rsplit("_", 3)[0]
