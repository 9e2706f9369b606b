"""Coordinate reference systems from text: EPSG codes and WKT, and nothing that names a file, a host or a pipeline.

GDAL's and PROJ's parsers for "user input" also take URLs, paths, PROJ strings and ``+init`` files, and open what these
name. So text is checked here first, by a grammar of its own, and then goes to the two importers that read codes and
WKT alone. Both dialects of WKT are taken, because GDAL writes WKT 1 where it can; PROJJSON is not, because rasterio
has no importer for it but the one for user input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from eoforge.errors import DataRefused

MAX_CHARS = 8192
MAX_DEPTH = 16
"""Of nested WKT nodes; the deepest that GDAL writes has nine."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_EPSG = re.compile(r"EPSG:([0-9]{1,8})", re.IGNORECASE)
_TOKEN = re.compile(
    r'\s*(?:(?P<word>[A-Za-z][A-Za-z0-9_]*)|"(?P<text>(?:[^"\x00-\x1f\x7f\u201c\u201d]|"")*)"'
    r"|(?P<number>[+-]?[0-9][0-9.:TZ-]*(?:[eE][+-]?[0-9]+)?|[+-]?\.[0-9]+(?:[eE][+-]?[0-9]+)?)|(?P<mark>[][(),]))",
    re.ASCII,
)
_SYSTEMS = _words(
    "PROJCS GEOGCS GEOCCS LOCAL_CS VERT_CS COMPD_CS PROJCRS PROJECTEDCRS GEOGCRS GEOGRAPHICCRS GEODCRS GEODETICCRS "
    "VERTCRS VERTICALCRS ENGCRS ENGINEERINGCRS COMPOUNDCRS BOUNDCRS DERIVEDPROJCRS"
)
_PARTS = _SYSTEMS | _words(
    "DATUM LOCAL_DATUM VERT_DATUM SPHEROID TOWGS84 AUTHORITY PRIMEM UNIT AXIS PROJECTION PARAMETER GEODETICDATUM "
    "TRF VDATUM VERTICALDATUM VRF EDATUM ENGINEERINGDATUM ENSEMBLE MEMBER ENSEMBLEACCURACY DYNAMIC FRAMEEPOCH MODEL "
    "ANCHOR ANCHOREPOCH ELLIPSOID PRIMEMERIDIAN BASEGEODCRS BASEGEOGCRS BASEPROJCRS CONVERSION DERIVINGCONVERSION "
    "METHOD CS ORDER MERIDIAN BEARING LENGTHUNIT ANGLEUNIT SCALEUNIT SOURCECRS TARGETCRS ABRIDGEDTRANSFORMATION ID "
    "CITATION URI VERSION USAGE SCOPE AREA BBOX VERTICALEXTENT TIMEEXTENT REMARK"
)
_PROJ_TEXT = re.compile(r"\bproj\s*=|\+\s*init|grids\s*=|^\s*PROJ[ -]|custom_proj4", re.IGNORECASE)
_OPENING = (("mark", "["), ("mark", "("))
_CLOSING = (("mark", "]"), ("mark", ")"))
_WEB_MERCATOR = [
    ("text", "PROJ4"),
    ("mark", ","),
    (
        "text",
        "+proj=merc +a=6378137 +b=6378137 +lat_ts=0 +lon_0=0 +x_0=0 +y_0=0 +k=1 +units=m +nadgrids=@null +wktext "
        "+no_defs",
    ),
]
"""The EXTENSION that GDAL gives every web Mercator in WKT 1; it names no file, and no other is taken."""
_WANTED = "expected a CRS as EPSG:<code> or as WKT that names no file, address or PROJ string"


def check_crs(text: str) -> None:
    """Refuses text that is neither an EPSG code nor well-formed WKT; opens nothing and loads no library.

    Raises:
        DataRefused: It is anything else: a URL, a path, a PROJ string, JSON, or WKT with grids or pipelines.
    """
    if _EPSG.fullmatch(text):
        return
    if len(text) > MAX_CHARS:
        raise DataRefused(f"{_WANTED}, at most {MAX_CHARS} characters; got {len(text)}")
    _check_wkt(text)


def parse_crs(text: str) -> Any:
    """The ``rasterio.crs.CRS`` of checked text.

    Raises:
        DataRefused: As :func:`check_crs`, or PROJ knows no such code or cannot make sense of the WKT.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    from eoforge.geo.gdal import session

    check_crs(text)
    code = _EPSG.fullmatch(text)
    with session():
        try:
            return CRS.from_epsg(int(code[1])) if code else CRS.from_wkt(text)
        except CRSError as error:
            raise DataRefused(f"{_WANTED}; PROJ does not know {_shown(text)}") from error


def epsg_of(crs: Any) -> int | None:
    """The EPSG code of a CRS that a file named, None if no code means exactly this CRS.

    The search for a code takes the most similar one too: another datum of the same zone, or one whose shift to WGS 84
    the file replaced (TOWGS84); both lie up to hundreds of metres away. So the code's own CRS must equal the file's.
    The WKT is checked first, because the search opens the grids that it names.

    Raises:
        DataRefused: The file's CRS names a grid or a pipeline.
    """
    from rasterio.crs import CRS

    if not crs:
        return None
    text = crs.to_wkt()
    check_crs(text)
    code: int | None = crs.to_epsg()
    shifted = "TOWGS84" in text.upper() or "BOUNDCRS" in text.upper()  # the comparison ignores such a shift
    return code if code is not None and not shifted and CRS.from_epsg(code) == crs else None


def crs_text(crs: Any) -> str | None:
    """``EPSG:<code>`` or WKT of a CRS that a file named, None if it named none.

    Raises:
        DataRefused: As for :func:`epsg_of`.
    """
    if not crs:
        return None
    code = epsg_of(crs)
    return f"EPSG:{code}" if code else str(crs.to_wkt())


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "...")


def _check_wkt(text: str) -> None:
    tokens = [*_tokens(text), ("end", ""), ("end", "")]
    if tokens[_check_node(tokens, 0, 0)][0] != "end":
        raise DataRefused(f"{_WANTED}; got more text after its end: {_shown(text)}")


def _check_node(tokens: list[tuple[str, str]], at: int, depth: int) -> int:
    """Checks ``KEYWORD[value, ...]`` from position ``at``; a value is a node, a word, a number or quoted text.

    Returns:
        The position after the node.
    """
    if tokens[at][0] != "word" or tokens[at + 1] not in _OPENING:
        raise DataRefused(f"{_WANTED}; got {_shown(tokens[at][1])} in the place of a WKT node")
    if depth >= MAX_DEPTH:
        raise DataRefused(f"{_WANTED}, nested {MAX_DEPTH} deep at most")
    keyword = tokens[at][1].upper()
    if keyword == "EXTENSION" and tokens[at + 2 : at + 5] == _WEB_MERCATOR and tokens[at + 5] in _CLOSING:
        return at + 6
    if keyword not in (_PARTS if depth else _SYSTEMS):
        raise DataRefused(f"{_WANTED}; got a node {_shown(keyword)}, which is not read")
    at += 2
    while True:
        kind, value = tokens[at]
        if tokens[at + 1] in _OPENING:
            at = _check_node(tokens, at, depth + 1)
        elif kind in ("word", "number", "text"):
            if kind == "text" and _PROJ_TEXT.search(value):
                raise DataRefused(f"{_WANTED}; got WKT that holds {_shown(value)}")
            at += 1
        else:
            raise DataRefused(f"{_WANTED}; got {_shown(value)} in the place of a value of {keyword}")
        if tokens[at] in _CLOSING:
            return at + 1
        if tokens[at] != ("mark", ","):
            raise DataRefused(f"{_WANTED}; got {_shown(tokens[at][1])} after a value of {keyword}")
        at += 1


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            raise DataRefused(f"{_WANTED}; got {_shown(text)}")
        yield found.lastgroup, found[found.lastgroup]
        position = found.end()
