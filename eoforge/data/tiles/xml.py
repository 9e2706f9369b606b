"""Reader of the XML metadata of products, which come from strangers: no document type, no entities, bounded size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from xml.etree import ElementTree  # the parser's entities are refused below

from eoforge.errors import DataRefused


def parse_xml(data: bytes, where: str) -> ElementTree.Element:
    """Root element of a metadata file.

    Raises:
        DataRefused: It is cut off, no XML, or declares a document type or entities.
    """
    # UTF-16, with or without a mark at its start, would hide these words from the search.
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\0" in data or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataRefused(f"{where} declares a document type, which metadata of products do not")
    try:
        return ElementTree.fromstring(data)  # noqa: S314
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataRefused(f"{where} is cut off or no XML: {error}") from error


def elements(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Elements of a name in any namespace."""
    return (e for e in root.iter() if isinstance(e.tag, str) and e.tag.rsplit("}", 1)[-1] == name)


def text_of(root: ElementTree.Element, name: str) -> str | None:
    """Text of the first element of a name; None if there is none."""
    return next(((e.text or "").strip() for e in elements(root, name)), None)


def number_of(root: ElementTree.Element, name: str, where: str) -> float:
    """Number in the first element of a name.

    Raises:
        DataRefused: There is no such element, or no finite number in it.
    """
    text = text_of(root, name)
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataRefused(f"{where}: expected a number in {name}, got {(text or '')[:40]!r}")
    return number
