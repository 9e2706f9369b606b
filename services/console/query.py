"""A search as an address: read from the parameters of a URL, written back to one, to Python and to the command line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from eoforge.data.bands import require_modality
from eoforge.data.search_filter import SearchFilter
from eoforge.errors import UsageError

MAX_HITS = 200
MAX_MARKS = 20
_LISTS = {"country": "countries", "split": "splits", "label": "labels_any", "all_labels": "labels_all"}
_YES = ("1", "on", "true")
_FLAGS = ("exclude_snow", "exclude_cloud")
_OPTIONS = {name: "--" + name.replace("_", "-") for name in (*_LISTS, *_FLAGS, "bbox", "since", "until")}


@dataclass(frozen=True)
class Query:
    """One search of the page.

    Attributes:
        patch_id: Patch to search for; empty with a code, or to look at places alone.
        code: Packed code of an image that was uploaded; empty otherwise.
        source: Sensor of the query, ``s1`` or ``s2``.
        target: Sensor of the hits.
        k: Number of hits.
        filter: Conditions on the hits.
        up: Hits that the person marked as similar.
        down: Hits that the person marked as dissimilar.
        across: Whether the archives of other owners are asked too.
    """

    patch_id: str = ""
    code: bytes = b""
    source: str = "s1"
    target: str = "s2"
    k: int = 20
    filter: SearchFilter = field(default_factory=SearchFilter)
    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    across: bool = False

    @classmethod
    def parse(cls, given: QueryParams) -> Query:
        """Query of a URL.

        Raises:
            UsageError: A value is malformed; the message names it.
        """
        source, target = given.get("from") or "s1", given.get("to") or "s2"
        for sensor in (source, target):
            require_modality(sensor)
        up, down = (tuple(dict.fromkeys(given.getlist(name))) for name in ("up", "down"))
        if len(up) + len(down) > MAX_MARKS:
            raise UsageError(f"at most {MAX_MARKS} hits can be marked; got {len(up) + len(down)}")
        across = given.get("across") in _YES
        if across and (up or down):
            raise UsageError("hits of several owners cannot be marked: their codes stay with their owners")
        return cls(
            patch_id=given.get("patch_id", "").strip(),
            code=_code(given.get("code", "")),
            source=source,
            target=target,
            k=_count(given.get("k") or "20"),
            filter=SearchFilter(
                countries=_names(given, "country"),
                splits=_names(given, "split"),
                labels_any=_names(given, "label"),
                labels_all=_names(given, "all_labels"),
                exclude_snow=given.get("exclude_snow") in _YES,
                exclude_cloud=given.get("exclude_cloud") in _YES,
                bbox=box_of(given["bbox"]) if given.get("bbox") else None,
                acquired_from=_day(given.get("since"), "since"),
                acquired_until=_day(given.get("until"), "until"),
            ),
            up=up,
            down=tuple(name for name in down if name not in up),
            across=across,
        )

    @property
    def given(self) -> bool:
        """Whether there is something to search for."""
        return bool(self.patch_id or self.code)

    @property
    def narrowed(self) -> bool:
        """Whether a filter is set."""
        return self.filter != SearchFilter()

    def pairs(self) -> list[tuple[str, str]]:
        """Parameters of the URL, without those that have their default."""
        plain = Query()
        found = [("patch_id", self.patch_id), ("code", self.code.hex()), ("from", self.source), ("to", self.target)]
        found = [(name, value) for name, value in found if value]
        found += [("k", str(self.k))] if self.k != plain.k else []
        found += [("across", "1")] if self.across else []
        found += self.conditions()
        return found + [("up", name) for name in self.up] + [("down", name) for name in self.down]

    def conditions(self) -> list[tuple[str, str]]:
        """Parameters of the filter alone."""
        found = [(key, value) for key, name in _LISTS.items() for value in getattr(self.filter, name)]
        found += [(name, "1") for name in _FLAGS if getattr(self.filter, name)]
        if self.filter.bbox is not None:
            found.append(("bbox", ",".join(f"{degrees:.6g}" for degrees in self.filter.bbox)))
        for name, moment in (("since", self.filter.acquired_from), ("until", self.filter.acquired_until)):
            found += [(name, f"{moment:%Y-%m-%d}")] if moment is not None else []
        return found

    def url(self, path: str = "/search", **changes: Any) -> str:
        """Address of this search, or of one with other values."""
        return f"{path}?{urlencode(replace(self, **changes).pairs())}"

    def like(self, patch_id: str, sensor: str) -> str:
        """Address of the search for what resembles a hit, with the same filter."""
        return self.url(patch_id=patch_id, code=b"", source=sensor, up=(), down=())

    def python(self, address: str) -> str:
        """The same search in Python."""
        conditions = [
            f"{f.name}={_literal(getattr(self.filter, f.name))}"
            for f in fields(SearchFilter)
            if getattr(self.filter, f.name) != getattr(SearchFilter(), f.name)
        ]
        names = "RetrievalClient, SearchFilter" if conditions else "RetrievalClient"
        lines = ["from datetime import datetime", ""] if "datetime" in " ".join(conditions) else []
        what = f"patch_id={self.patch_id!r}, source={self.source!r}"
        if self.code:
            what = f"code=bytes.fromhex({self.code.hex()!r})"
        call = f"{what}, target={self.target!r}, k={self.k}"
        call += f", filter=SearchFilter({', '.join(conditions)})" if conditions else ""
        lines += [
            f"from eoforge.client import {names}",
            "",
            f"with RetrievalClient({address!r}) as client:",
            f"    hits = client.search_across({call}).hits" if self.across else f"    hits = client.search({call})",
        ]
        return "\n".join(lines)

    def command(self, address: str) -> str:
        """The same search on the command line; for the code of an upload, that of its files."""
        words = ["eoforge", "search", "--server", address]
        words += ["--image", "YOUR_IMAGE.tif"] if self.code else ["--patch-id", self.patch_id, "--from", self.source]
        words += ["--to", self.target, "-k", str(self.k), *(["--across"] if self.across else [])]
        for name, value in self.conditions():
            words += [_OPTIONS[name]] if name in _FLAGS else [_OPTIONS[name], value]
        return shlex.join(words)


def box_of(text: str) -> tuple[float, float, float, float]:
    """Box of a text ``west,south,east,north`` in degrees.

    Raises:
        UsageError: It has another form.
    """
    return _numbers(text, "bbox", "west,south,east,north")  # type: ignore[return-value]  # four, as the names say


def point_of(text: str) -> tuple[float, float]:
    """Place of a text ``longitude,latitude`` in degrees.

    Raises:
        UsageError: It has another form, or lies outside the globe.
    """
    lon, lat = _numbers(text, "at", "longitude,latitude")
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise UsageError(f"at: expected degrees, longitude and latitude; got {text[:80]!r}")
    return lon, lat


def _names(given: QueryParams, key: str) -> tuple[str, ...]:
    return tuple(filter(None, given.getlist(key)))


def _numbers(text: str, name: str, form: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != form.count(",") + 1 or any(number != number for number in found):
        raise UsageError(f"{name}: expected {form} in degrees; got {text[:80]!r}")
    return found


def _code(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise UsageError("code: expected hexadecimal digits, as an upload's address has them") from error


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_HITS):
        raise UsageError(f"k: expected a number of hits from 1 to {MAX_HITS}; got {text[:20]!r}")
    return int(text)


def _day(text: str | None, name: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise UsageError(f"{name}: expected a day such as 2017-06-13; got {text[:40]!r}") from error


def _literal(value: Any) -> str:
    if isinstance(value, datetime):
        return f"datetime.fromisoformat({value.isoformat()!r})"
    return repr(value)


def choices(query: Query, countries: Sequence[str]) -> list[str]:
    """Countries to offer: those of the archive, and those of the query."""
    return sorted({*countries, *query.filter.countries})
