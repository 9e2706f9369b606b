"""Headers of the pages of a parquet file, read before Arrow makes room for what they claim.

A footer can say one size and the header in front of a page another; Arrow allocates what the header says. Headers are
structs of Thrift's compact protocol.

Source: https://github.com/apache/parquet-format (parquet.thrift, PageHeader) and Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow.parquet as pq

from eoforge.errors import DataRefused

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_UNCOMPRESSED, _COMPRESSED, _DATA, _DICTIONARY, _DATA_V2 = 2, 3, 5, 7, 8
"""Fields of a PageHeader: two sizes, and what is said of each kind of page, whose field 1 counts values."""
_MAX_DEPTH = 8
_MAX_PAGES = 1 << 16
"""Pages of a file that are looked at; the official files have some hundred. A page without values takes ten bytes."""


def check_pages(data: bytes, footer: pq.FileMetaData, columns: Collection[str], name: str) -> None:
    """Refuses a file with a page whose header claims more than the footer says of its column.

    Args:
        data: All bytes of the file.
        footer: Its footer.
        columns: Columns that will be read.
        name: Name of the file in error messages.

    Raises:
        DataRefused: A header claims more bytes or values than the footer, or lies outside the file, or is none;
            or there are too many pages.
    """
    left = _MAX_PAGES
    for group in (footer.row_group(i) for i in range(footer.num_row_groups)):
        for chunk in (group.column(j) for j in range(group.num_columns)):
            if chunk.path_in_schema.partition(".")[0] in columns:
                left = _check_chunk(data, chunk, name, left)


def _check_chunk(data: bytes, chunk: pq.ColumnChunkMetaData, name: str, left: int) -> int:
    """Checks the pages of a column, of which at most ``left`` are read; returns how many are left."""
    if not chunk.num_values and not chunk.data_page_offset:
        return left  # a file without rows has no pages, or a dictionary that nobody reads
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
        starts.append(chunk.dictionary_page_offset)
    place = min(starts)
    end = place + chunk.total_compressed_size
    if place < 0 or end > len(data):
        raise DataRefused(f"{name}: truncated: a column ends at byte {end}, the file has {len(data)} bytes")
    size = values = 0
    while place < end:
        left -= 1
        if left < 0:
            raise DataRefused(f"{name}: has more than {_MAX_PAGES} pages, beyond the limit")
        try:
            header, place = _struct(data, place, end)
            page, packed = header[_UNCOMPRESSED], header[_COMPRESSED]
            kind = next(header[field] for field in (_DATA, _DATA_V2, _DICTIONARY, None) if field in header)
            count = kind[1]
        except (IndexError, KeyError, StopIteration, TypeError, ValueError) as error:
            raise DataRefused(f"{name}: damaged: no header of a page at byte {place}") from error
        size += page
        values += 0 if _DICTIONARY in header else count
        if min(page, packed, count) < 0 or size > chunk.total_uncompressed_size or values > chunk.num_values:
            raise DataRefused(
                f"{name}: damaged: pages of {chunk.path_in_schema} claim {size} bytes and {values} values, and the "
                f"footer {chunk.total_uncompressed_size} bytes and {chunk.num_values} values"
            )
        if _DICTIONARY in header and count > chunk.total_uncompressed_size:
            raise DataRefused(f"{name}: damaged: the dictionary of {chunk.path_in_schema} claims {count} values")
        place += packed
    if place != end:
        raise DataRefused(f"{name}: damaged: pages of {chunk.path_in_schema} end at byte {place}, the column at {end}")
    return left


def _varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= end or shift > 63:
            raise ValueError("no number")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _integer(data: bytes, place: int, end: int) -> tuple[int, int]:
    value, place = _varint(data, place, end)
    return (value >> 1) ^ -(value & 1), place


def _struct(data: bytes, place: int, end: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A struct as ``{field number: value}``, and the place behind it."""
    if depth > _MAX_DEPTH:
        raise ValueError("too deep")
    found: dict[int, Any] = {}
    field = 0
    while True:
        if place >= end:
            raise ValueError("no end")
        head = data[place]
        place += 1
        if not head:
            return found, place
        if head >> 4:
            field += head >> 4
        else:
            field, place = _integer(data, place, end)
        kind = head & 0x0F
        if kind in (_TRUE, _FALSE):
            found[field] = kind == _TRUE
        else:
            found[field], place = _value(data, place, end, kind, depth)


def _value(data: bytes, place: int, end: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind == _STRUCT:
        return _struct(data, place, end, depth + 1)
    if kind == _BINARY:
        size, place = _varint(data, place, end)
        return None, place + size
    if kind == _DOUBLE:
        return None, place + 8
    if kind == _BYTE:
        return None, place + 1
    if kind in (_LIST, _SET, _MAP):
        raise ValueError("a page header holds no lists")
    return _integer(data, place, end)
