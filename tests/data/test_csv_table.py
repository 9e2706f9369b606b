"""Bounded reader of CSV files of people: what is malformed or too large is refused by name; nothing else is raised."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoforge.data import csv_table
from eoforge.data.csv_table import plain, read_rows
from eoforge.errors import DataRefused, LimitExceeded

NEEDED = ("id", "value")


def rows(data: bytes) -> list[tuple[int, dict[str, str]]]:
    return list(read_rows(data, "x.csv", NEEDED))


def test_rows_have_their_line_and_all_cells() -> None:
    found = rows(b'\xef\xbb\xbfid,more,value\r\n"a\nb",x,1\r\n\r\nc\r\n')
    assert found == [(3, {"id": "a\nb", "more": "x", "value": "1"}), (5, {"id": "c", "more": "", "value": ""})]
    assert rows(b"id,value\ra,1\r") == [(2, {"id": "a", "value": "1"})], "ends of lines of an old Mac"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "got none: it lacks id"),
        (b"id\n", "it lacks value"),
        (b"id,value,id\n", "it has id twice"),
        (b"\xff\xfe", "no CSV in UTF-8"),
        ("id,value\n".encode("utf-16"), "no CSV in UTF-8"),
        (b"id,value\na\0,1\n", "it holds NUL"),
        (b"id,value\na," + b"1" * 200_000, "line 2 of x.csv is no CSV: field larger"),
        (b'id,value\n"' + b"1" * 200_000, "is no CSV: field larger"),
        (b"id,value\na,1,2\n", "line 2 of x.csv has 3 cells; expected 2"),
    ],
)
def test_what_is_malformed_is_named(data: bytes, words: str) -> None:
    with pytest.raises(DataRefused, match=words):
        rows(data)


def test_columns_and_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LimitExceeded, match="has 1000000 columns; at most 1024"):
        rows(b"id," * 999_999 + b"value\n")
    monkeypatch.setattr(csv_table, "MAX_ROWS", 2)
    with pytest.raises(LimitExceeded, match="more than 2 rows"):
        rows(b"id,value\n" + b"a,1\n" * 3)


@given(st.binary(max_size=40))
def test_any_bytes_are_rows_or_refused(data: bytes) -> None:
    with suppress(DataRefused):
        rows(b"id,value\n" + data)


def test_a_cell_is_no_formula() -> None:
    assert [plain(value) for value in ("=1+1", "@x", "-1", "ana", -1)] == ["'=1+1", "'@x", "'-1", "ana", -1]
