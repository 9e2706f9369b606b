"""Columns of the filters of one segment: plain arrays that a filter reads, memory-mapped.

A row takes 48 bytes in them, and 8 in the orders; only the columns of the conditions are read. Dates and boxes have an
order of the rows beside them, so that a narrow condition looks at the rows of its range instead of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eoforge.data.labels import mask_of
from eoforge.data.search_filter import COUNTRIES, BoundingBox, SearchFilter
from eoforge.data.tables.schema import ACQUIRED
from eoforge.errors import UsageError, did_you_mean
from eoforge.index.search import Allowed

SNOW, CLOUD, DATED = 1, 2, 4
SENSOR = {sensor: 8 << i for i, sensor in enumerate(sorted(ACQUIRED))}
"""Bits of the column ``flags``; a bit of a sensor says that the patch has it."""
FIELDS: dict[str, tuple[Any, ...]] = {
    "flags": ("<u1",),
    "split": ("<u1",),
    "country": ("<u2",),
    "labels": ("<u4",),
    "acquired": ("<i8",),
    "box": ("<f8", 4),
}
"""Column -> type, and shape of a row. ``box`` is west, south, east and north in degrees, ``acquired`` microseconds of
Sentinel-2 since 1970; names are numbers of a list, 0 for none."""
ORDERS = ("by_time", "by_cell", "cells")
"""Rows with a date by date; rows by cell of their south-west corner; start of each cell in that order."""

_CELL_DEGREES = 0.5
_CELLS = (int(180 / _CELL_DEGREES), int(360 / _CELL_DEGREES))
_NARROW = 8
"""A range below one in so many rows is looked at row by row, a larger one with all rows."""
_BLOCK = 1 << 20
_COMPARED = 8
"""Names that are faster to compare one after the other than to look up: 0.05 ms each against 0.9 ms of 549,488 rows."""

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


def columns_of(metadata: pa.Table, names: Mapping[str, dict[str, int]]) -> dict[str, Array]:
    """Columns ``FIELDS`` of rows; ``names`` (of ``country`` and ``split``) gains the names that it lacks."""
    dates = metadata.column("acquired_s2")
    flags = np.zeros(metadata.num_rows, np.uint8)
    for bit, column in ((SNOW, "contains_seasonal_snow"), (CLOUD, "contains_cloud_or_shadow")):
        flags |= np.where(metadata.column(column).to_numpy(), np.uint8(bit), np.uint8(0))
    present = [(DATED, dates), *((bit, metadata.column(ACQUIRED[sensor])) for sensor, bit in SENSOR.items())]
    for bit, column in present:
        flags |= np.where(column.is_valid().to_numpy(), np.uint8(bit), np.uint8(0))
    box = [metadata.column(name).to_numpy() for name in ("lon_min", "lat_min", "lon_max", "lat_max")]
    found = {
        "flags": flags,
        "split": _numbers(metadata.column("split"), names["split"]),
        "country": _numbers(metadata.column("country"), names["country"]),
        # An unlabelled patch has no class, and one without an optical date passes no condition on it.
        "labels": pc.fill_null(metadata.column("label_mask"), 0).to_numpy(),
        "acquired": pc.fill_null(dates.cast(pa.int64()), 0).to_numpy(),
        "box": np.stack(box, axis=1),
    }
    return {name: np.ascontiguousarray(found[name], dtype) for name, (dtype, *_) in FIELDS.items()}


def _numbers(column: pa.ChunkedArray, names: dict[str, int]) -> npt.NDArray[np.int64]:
    """Number of each name, from 1 on; 0 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    numbers = [0, *(names.setdefault(name, len(names) + 1) for name in encoded.dictionary.to_pylist())]
    return np.array(numbers)[pc.fill_null(encoded.indices, -1).to_numpy() + 1]


def orders_of(columns: Mapping[str, Array]) -> dict[str, npt.NDArray[np.uint32]]:
    """Orders ``ORDERS`` of the rows of a segment."""
    dated = np.flatnonzero(np.asarray(columns["flags"]) & DATED).astype(np.uint32)
    by_time = dated[np.argsort(columns["acquired"][dated], kind="stable")]
    cells = np.concatenate([_cell_numbers(columns["box"][at]) for at in _blocks(len(columns["box"]))] or [_NO_ROWS])
    # One more cell than there are: rows wider than a cell, such as those across the 180th meridian.
    starts = np.zeros(_CELLS[0] * _CELLS[1] + 2, np.int64)
    np.cumsum(np.bincount(cells, minlength=len(starts) - 1), out=starts[1:])
    return {
        "by_time": by_time,
        "by_cell": np.argsort(cells, kind="stable").astype(np.uint32),
        "cells": starts.astype(np.uint32),
    }


_NO_ROWS = np.empty(0, np.uint32)


def _cell_numbers(box: Array) -> npt.NDArray[np.uint32]:
    west, south, east, north = np.asarray(box, np.float64).T
    with np.errstate(invalid="ignore"):
        narrow = (east - west <= _CELL_DEGREES) & (north - south <= _CELL_DEGREES) & (east >= west) & (north >= south)
    number = _line(south, 90.0, _CELLS[0]) * _CELLS[1] + _line(west, 180.0, _CELLS[1])
    return np.where(narrow, number, _CELLS[0] * _CELLS[1]).astype(np.uint32)


def _line(degrees: npt.NDArray[np.float64], offset: float, cells: int) -> npt.NDArray[np.int64]:
    """Number of the row or column of cells, clipped at the edges; the order of degrees stays."""
    return np.clip(np.nan_to_num((degrees + offset) / _CELL_DEGREES), 0, cells - 1).astype(np.int64)


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, rows)) for start in range(0, rows, _BLOCK))


class FilterColumns:
    """Conditions on the rows of one segment.

    Args:
        arrays: Columns ``FIELDS`` and orders ``ORDERS``, memory-mapped or not.
        names: Names of ``country`` and ``split`` in the order of their numbers.
        lacking: Sensors that some rows lack.
    """

    def __init__(self, arrays: Mapping[str, Array], names: Mapping[str, Sequence[str]], lacking: Sequence[str]) -> None:
        self._arrays, self._names, self._lacking = arrays, names, lacking

    def __len__(self) -> int:
        return len(self._arrays["flags"])

    @property
    def countries(self) -> Sequence[str]:
        """Countries of the rows."""
        return self._names["country"]

    def allowed(self, wanted: SearchFilter | None, sensor: str | None) -> Allowed | None:
        """Rows that pass a filter and have a sensor: None for all, a mask ``[N]``, or a few row numbers, ascending."""
        wanted = wanted or SearchFilter()
        sensor = sensor if sensor in self._lacking else None
        if wanted == SearchFilter() and sensor is None:
            return None
        few = self._narrowest(wanted)
        if few is not None:
            return few[self._passes(wanted, sensor, few)]
        return np.concatenate([self._passes(wanted, sensor, at) for at in _blocks(len(self))] or [np.empty(0, bool)])

    def has(self, row: int, sensor: str) -> bool:
        """Whether a patch has a sensor."""
        return bool(self._arrays["flags"][row] & SENSOR[sensor])

    def _passes(self, wanted: SearchFilter, sensor: str | None, at: slice | npt.NDArray[np.int64]) -> Mask:
        dated = wanted.acquired_from is not None or wanted.acquired_until is not None
        set_bits = DATED * dated | (SENSOR[sensor] if sensor else 0)
        bits = set_bits | SNOW * wanted.exclude_snow | CLOUD * wanted.exclude_cloud
        keep: Mask = (self._arrays["flags"][at] & np.uint8(bits)) == set_bits
        for name, values in (("country", wanted.countries), ("split", wanted.splits)):
            if values:
                keep &= _is_any(self._arrays[name][at], [n in values for n in self._names[name]])
        if wanted.labels_any or wanted.labels_all:
            labels = self._arrays["labels"][at]
            if wanted.labels_any:
                keep &= (labels & np.uint32(mask_of(wanted.labels_any))) != 0
            if wanted.labels_all:
                every = np.uint32(mask_of(wanted.labels_all))
                keep &= (labels & every) == every
        if dated:
            acquired = self._arrays["acquired"][at]
            if wanted.acquired_from is not None:
                keep &= acquired >= _microseconds(wanted.acquired_from)
            if wanted.acquired_until is not None:
                keep &= acquired < _microseconds(wanted.acquired_until)
        if wanted.bbox is not None:
            keep &= _touches(np.asarray(self._arrays["box"][at]), wanted.bbox)
        return keep

    def _narrowest(self, wanted: SearchFilter) -> npt.NDArray[np.int64] | None:
        """Rows that may pass, ascending, if a condition leaves few; None otherwise."""
        ranges = []
        if wanted.acquired_from is not None or wanted.acquired_until is not None:
            ranges.append(self._dates(wanted.acquired_from, wanted.acquired_until))
        if wanted.bbox is not None:
            ranges.append(self._near(wanted.bbox))
        sizes = [sum(len(part) for part in parts) for parts in ranges]
        if not sizes or min(sizes) * _NARROW > len(self):
            return None
        rows = np.sort(np.concatenate([_NO_ROWS, *ranges[int(np.argmin(sizes))]])).astype(np.int64)
        # A box across the 180th meridian may name a row twice. np.unique took six times as long.
        return rows[np.diff(rows, prepend=-1) > 0]

    def _dates(self, first: datetime | None, until: datetime | None) -> list[Array]:
        order, acquired = self._arrays["by_time"], self._arrays["acquired"]

        def place(moment: datetime | None, default: int) -> int:
            return default if moment is None else _first_at_least(order, acquired, _microseconds(moment))

        return [order[place(first, 0) : place(until, len(order))]]

    def _near(self, box: BoundingBox) -> list[Array]:
        """Rows that may touch a box: corners in its cells and one cell west and south of it, and all wide rows."""
        west, south, east, north = box
        order, starts = self._arrays["by_cell"], self._arrays["cells"]
        spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
        lines = _line(np.array([south - _CELL_DEGREES, north]), 90.0, _CELLS[0])
        parts = [order[int(starts[-2]) : int(starts[-1])]]
        for left, right in spans:
            columns = _line(np.array([left - _CELL_DEGREES, right]), 180.0, _CELLS[1])
            for line in range(lines[0], lines[1] + 1):
                first, last = line * _CELLS[1] + columns
                parts.append(order[int(starts[first]) : int(starts[last + 1])])
        return parts


def require_countries(wanted: Sequence[str], present: Sequence[str]) -> None:
    """Check of the countries of a filter: a mistyped one would give an empty result.

    Raises:
        UsageError: A country is neither in the index nor one of reBEN's.
    """
    known = sorted({*present, *COUNTRIES})
    for country in wanted:
        if country not in known:
            raise UsageError(f"unknown country {country[:80]!r}{did_you_mean(country, known)}")


def _first_at_least(order: Array, values: Array, bound: int) -> int:
    """First place of an order whose value is not below a bound; reads as many values as a search by halves."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if values[order[middle]] < bound:
            low = middle + 1
        else:
            high = middle
    return low


def _is_any(numbers: Array, wanted: list[bool]) -> Mask:
    """Whether each number, from 1 on, is a wanted one."""
    chosen = np.flatnonzero(wanted) + 1
    if len(chosen) > _COMPARED:
        found: Mask = np.array([False, *wanted])[numbers]
        return found
    found = np.zeros(len(numbers), dtype=bool)
    for number in chosen:
        found |= numbers == number
    return found


def _touches(rows: npt.NDArray[np.float64], box: BoundingBox) -> Mask:
    west, south, east, north = box
    lon_min, lat_min, lon_max, lat_max = rows.T
    east_of, west_of = lon_max >= west, lon_min <= east
    across = east_of & west_of if west <= east else east_of | west_of
    found: Mask = across & (lat_max >= south) & (lat_min <= north)
    return found


def _microseconds(time: datetime) -> int:
    return int(pa.scalar(time, pa.timestamp("us", tz="UTC")).value)
