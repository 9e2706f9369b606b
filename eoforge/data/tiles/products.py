"""Products below an address: SAFE folders, STAC Items, and folders with one GeoTIFF per band."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eoforge.data.bands import GROUP_OF, S2_BANDS
from eoforge.data.names import MGRS_PATTERN, TileName, parse_tile
from eoforge.data.tiles.files import TileFiles
from eoforge.data.tiles.offsets import Offsets
from eoforge.errors import DataRefused
from eoforge.geo.grids import Grid

TIFF = (".tif", ".tiff")
_NAME = re.compile(rf"S2[A-D]_MSIL(1C|2A)_\d{{8}}T\d{{6}}_N\d{{4}}_R\d{{3}}_T{MGRS_PATTERN}", re.ASCII)
_BAND = re.compile(r"(?:^|[_.\-])(B(?:0?[1-9]|1[0-2]|8A))(?:_(10|20|60)m)?$", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class BandFile:
    """File of a band; ``grid`` is what the product says of it, None if the file itself is read."""

    key: str
    grid: Grid | None = None


@dataclass(frozen=True)
class Product:
    """Level-2A product as its files describe it; nothing is decoded yet.

    Attributes:
        where: Address, for messages.
        name: Parsed name; None if neither folder nor metadata hold one.
        bands: Files of the optical bands that were found.
        offsets: Offsets of the stored reflectances.
    """

    where: str
    name: TileName | None
    bands: Mapping[str, BandFile]
    offsets: Offsets


def name_in(text: str, where: str) -> TileName | None:
    """Last name of a level-2A product in a text, such as a path; None if there is none.

    Raises:
        DataRefused: It is that of a level-1C product.
    """
    names = list(_NAME.finditer(text))
    if not names:
        return None
    found = names[-1]
    if found[1] == "1C":
        raise DataRefused(f"{where} is a level-1C product; expected level 2A (surface reflectance)")
    return parse_tile(found[0])


def band_in(stem: str) -> tuple[str, int | None] | None:
    """Band and resolution in metres (None if not said) that the name of a file ends with; None if it names none."""
    match = _BAND.search(stem)
    if match is None:
        return None
    number = match[1][1:].upper()
    return f"B{number.zfill(2)}", int(match[2]) if match[2] else None


def choose_bands(files: TileFiles, where: str, keys: Sequence[str]) -> dict[str, str]:
    """File of each band out of those of one product; of several resolutions the native one.

    Raises:
        DataRefused: Two files name one band, or a band of level 1C is among them.
    """
    chosen: dict[str, tuple[str, bool]] = {}
    for key in keys:
        found = band_in(key.rsplit("/", 1)[-1].rsplit(".", 1)[0])
        if found is None:
            continue
        band, metres = found
        if band == "B10":
            raise DataRefused(f"{where} holds B10, a band of level 1C; expected level 2A (surface reflectance)")
        if band not in GROUP_OF or (metres and metres != GROUP_OF[band].resolution):
            continue
        if band in chosen and chosen[band][1] == bool(metres):
            raise DataRefused(f"{where}: two files for {band}: {chosen[band][0]} and {key}")
        if band not in chosen or metres:
            chosen[band] = key, bool(metres)
    return {band: chosen[band][0] for band in S2_BANDS if band in chosen}


def read_folder(files: TileFiles, folder: str, keys: Sequence[str]) -> Product:
    """Product of a folder with one GeoTIFF per band, named as the product.

    Raises:
        DataRefused: Two files name one band, or it is no level-2A product.
    """
    where = files.address(folder)
    bands = choose_bands(files, where, keys)
    name = name_in(where, where)
    if name is None:
        offsets = Offsets(None, "its folder names no processing baseline")
    else:
        offsets = Offsets.of_baseline(name.baseline, "a folder of bands does not say whether it was taken out")
    return Product(where, name, {band: BandFile(key) for band, key in bands.items()}, offsets)
