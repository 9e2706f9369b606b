"""Patches of annotation sessions as people see them: place, time, and pictures of sensors and bands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy.typing as npt

from eoforge.data.bands import GROUP_OF, GROUPS
from eoforge.data.loading.plot import grey, rgb, s1_composite, thumbnail_png
from eoforge.data.loading.read_pair import read_pair
from eoforge.data.records import PatchPair
from eoforge.data.tables.schema import sql_list
from eoforge.errors import NotFound
from eoforge.storage.addresses import TableRef, open_table

SIDE = 360
"""Side of a picture in pixels."""
_COLUMNS = ["patch_id", "country", "acquired_s2", "acquired_s1", "lon_min", "lat_min", "lon_max", "lat_max"]


@dataclass(frozen=True)
class Shown:
    """A patch without its labels.

    Attributes:
        patch_id: Its name.
        country: Empty where it is not known.
        acquired_s2: Time of the optical image; None without one.
        acquired_s1: Time of the radar image; None without one.
        box: West, south, east, north in degrees.
    """

    patch_id: str
    country: str
    acquired_s2: datetime | None
    acquired_s1: datetime | None
    box: tuple[float, float, float, float]


def shown_patches(table: TableRef, patch_ids: list[str]) -> list[Shown]:
    """Patches of a table by name; absent ones are left out."""
    if not patch_ids:
        return []
    rows = open_table(table).to_table(columns=_COLUMNS, filter=f"patch_id IN ({sql_list(sorted(set(patch_ids)))})")
    return [
        Shown(
            row["patch_id"],
            row["country"] or "",
            row["acquired_s2"],
            row["acquired_s1"],
            (row["lon_min"], row["lat_min"], row["lon_max"], row["lat_max"]),
        )
        for row in rows.to_pylist()
    ]


def bands_of() -> list[str]:
    """Names of all bands, in the order of their groups."""
    return [band for group in GROUPS for band in group.bands]


def picture(table: TableRef, patch_id: str, what: str) -> bytes:
    """PNG of a patch.

    Args:
        table: The table at a version.
        patch_id: Name of the patch.
        what: ``s2`` (true colour), ``s1`` (radar), or the name of a band. Land cover would tell the answer.

    Raises:
        NotFound: The patch is not in the table, or has no such picture.
    """
    pair = _pair(table, patch_id)
    if what == "s2":
        image = None if pair.s2_10m is None else rgb(pair.s2_10m)
    elif what == "s1":
        image = None if pair.s1 is None else s1_composite(pair.s1)
    else:
        pixels = _band(pair, what)
        image = None if pixels is None else grey(pixels)
    if image is None:
        raise NotFound("the patch has no such picture")
    return thumbnail_png(image, SIDE)


@lru_cache(maxsize=32)
def _pair(table: TableRef, patch_id: str) -> PatchPair:
    try:
        return read_pair(table, patch_id)
    except NotFound as error:
        raise NotFound("there is no such patch in the table of this session") from error


def _band(pair: PatchPair, band: str) -> npt.NDArray[Any] | None:
    group = GROUP_OF.get(band)
    pixels = None if group is None else getattr(pair, group.column)
    return None if group is None or pixels is None else pixels[group.bands.index(band)]
