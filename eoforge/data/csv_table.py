"""Bounded reader of CSV files that people give: rows by name of column, or a refusal that says what is wrong."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from eoforge.errors import DataRefused, LimitExceeded

MAX_BYTES = 256 << 20
MAX_ROWS = 1 << 23
MAX_COLUMNS = 1024
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def read_rows(data: bytes, what: str, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Number of the line and cells of each row; a cell that a row lacks is empty.

    Args:
        data: The file.
        what: What to call it in messages.
        needed: Columns that it must have; others are given too.

    Raises:
        DataRefused: It is no CSV in UTF-8, lacks a column or has one twice, or a row has more cells than the header.
        LimitExceeded: It has too many columns or rows.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataRefused(f"{what} is no CSV in UTF-8: {error}") from error
    if "\0" in text:
        raise DataRefused(f"{what} is no CSV in UTF-8: it holds NUL")
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(reader, [])
        if len(header) > MAX_COLUMNS:
            raise LimitExceeded(f"{what} has {len(header)} columns; at most {MAX_COLUMNS} are read")
        for name in (name for name in needed if header.count(name) != 1):
            columns = f"{', '.join(needed[:-1])} and {needed[-1]}"
            seen = ", ".join(column[:80] for column in header[:20]) or "none"
            wrong = f"has {name} twice" if name in header else f"lacks {name}"
            raise DataRefused(f"{what} needs the columns {columns}; got {seen}: it {wrong}")
        for number, cells in enumerate(reader, start=1):
            if number > MAX_ROWS:
                raise LimitExceeded(f"{what} has more than {MAX_ROWS} rows")
            if len(cells) > len(header):
                raise DataRefused(f"line {reader.line_num} of {what} has {len(cells)} cells; expected {len(header)}")
            if cells:
                yield reader.line_num, dict.fromkeys(header, "") | dict(zip(header, cells, strict=False))
    except csv.Error as error:
        raise DataRefused(f"line {reader.line_num} of {what} is no CSV: {error}") from error


def plain(value: object) -> object:
    """Cell without a formula: a text that a spreadsheet would run gets a quote before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
