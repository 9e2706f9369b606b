"""Level-2A products in their official SAFE folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from eoforge.data.bands import GROUP_OF, S2_BANDS
from eoforge.data.tiles.files import TileFiles
from eoforge.data.tiles.offsets import Offsets
from eoforge.data.tiles.products import TIFF, BandFile, Product, choose_bands, name_in
from eoforge.data.tiles.xml import elements, number_of, parse_xml, text_of
from eoforge.errors import DataRefused
from eoforge.geo.grids import Grid

MAIN_FILE = "MTD_MSIL2A.xml"
_GRANULE = re.compile(r"GRANULE/([^/]+)/")
_BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""Bands by the ``band_id`` of the metadata."""
_SCALE = 10_000


def read_safe(files: TileFiles, folder: str, keys: Sequence[str]) -> Product:
    """Product of a SAFE folder.

    Args:
        files: Files of the address.
        folder: Path of the SAFE folder, empty if it is the address itself.
        keys: Paths of its files.

    Raises:
        DataRefused: Metadata are missing, damaged or of another kind, or it has several granules.
    """
    where = files.address(folder)
    start = f"{folder}/" if folder else ""
    main = parse_xml(files.text(start + MAIN_FILE), f"{where}/{MAIN_FILE}")
    quantity = text_of(main, "BOA_QUANTIFICATION_VALUE")
    if quantity is not None and number_of(main, "BOA_QUANTIFICATION_VALUE", where) != _SCALE:
        raise DataRefused(f"{where}: expected reflectance x {_SCALE}, got x {quantity}")
    granules = {m[1] for key in keys if (m := _GRANULE.match(key[len(start) :]))}
    if len(granules) != 1:
        raise DataRefused(f"{where}: expected one granule (tile), got {len(granules)}; download it again")
    inside = f"{start}GRANULE/{granules.pop()}/"
    if inside + "MTD_TL.xml" not in keys:
        raise DataRefused(f"{where} lacks {inside.removeprefix(start)}MTD_TL.xml; download it again")
    images = [key for key in keys if key.startswith(inside + "IMG_DATA/") and key.endswith((".jp2", *TIFF))]
    bands = choose_bands(files, where, images)
    grids = _grids(files, inside + "MTD_TL.xml")
    name = name_in(text_of(main, "PRODUCT_URI") or "", where) or name_in(where, where)
    return Product(
        where,
        name,
        {b: BandFile(key, grids[GROUP_OF[b].resolution] if key.endswith(".jp2") else None) for b, key in bands.items()},
        _offsets(main, where),
    )


def _grids(files: TileFiles, key: str) -> dict[int, Grid]:
    where = files.address(key)
    root = parse_xml(files.text(key), where)
    code = text_of(root, "HORIZONTAL_CS_CODE") or ""
    match = re.fullmatch(r"EPSG:(\d{4,6})", code, re.ASCII | re.IGNORECASE)
    if match is None:
        raise DataRefused(f"{where}: expected EPSG:<code> in HORIZONTAL_CS_CODE, got {code[:40]!r}")
    grids = {}
    for metres in (10, 20, 60):
        size, place = (
            next((e for e in elements(root, name) if e.get("resolution") == str(metres)), None)
            for name in ("Size", "Geoposition")
        )
        if size is None or place is None:
            raise DataRefused(f"{where}: no Size and Geoposition of {metres} m")
        if number_of(place, "XDIM", where) != metres or number_of(place, "YDIM", where) != -metres:
            raise DataRefused(f"{where}: expected pixels of {metres} m")
        grids[metres] = Grid(
            int(match[1]),
            number_of(place, "ULX", where),
            number_of(place, "ULY", where),
            float(metres),
            int(number_of(size, "NCOLS", where)),
            int(number_of(size, "NROWS", where)),
        )
    return grids


def _offsets(main: Element, where: str) -> Offsets:
    listed: dict[str, int] = {}
    for element in elements(main, "BOA_ADD_OFFSET"):
        band, text = element.get("band_id", ""), (element.text or "").strip()
        if not band.isdecimal() or int(band) >= len(_BAND_IDS) or not re.fullmatch(r"-?\d{1,5}", text, re.ASCII):
            raise DataRefused(f"{where}: expected a BOA_ADD_OFFSET of a band, got {text[:40]!r} of band {band[:40]!r}")
        listed[_BAND_IDS[int(band)]] = int(text)
    if listed:
        missing = [band for band in S2_BANDS if band not in listed]
        if missing or max(listed.values()) > 0:
            return Offsets(None, f"it lists no usable BOA_ADD_OFFSET of {', '.join(missing) or 'its bands'}")
        return Offsets(listed)
    baseline = re.fullmatch(r"(\d{2})\.(\d{2})", text_of(main, "PROCESSING_BASELINE") or "", re.ASCII)
    if baseline is None:
        return Offsets(None, "it names neither BOA_ADD_OFFSET nor a PROCESSING_BASELINE")
    return Offsets.of_baseline(int(baseline[1] + baseline[2]), "it lists no BOA_ADD_OFFSET")
