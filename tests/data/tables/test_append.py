"""Appends of single rows: exactly once under racing writers, nothing of a refused decision."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from eoforge.data.tables.append import append, compact
from eoforge.data.tables.commit import create_table
from eoforge.errors import ConflictError, NotFound
from eoforge.storage.addresses import open_table

SCHEMA = pa.schema([pa.field("number", pa.int64(), nullable=False)])


def numbers(table: lance.LanceDataset) -> list[int]:
    return table.to_table()["number"].to_pylist()


def row(number: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"number": [number]}, schema=SCHEMA)


def test_every_decision_sees_all_rows_before_it(store_uri: str) -> None:
    """Each writer appends the next number: a decision from an outdated version would write one twice."""
    uri = f"{store_uri}/numbers.lance"
    create_table(uri, SCHEMA)

    def count_on(times: int) -> None:
        for _ in range(times):
            append(uri, lambda table: row(len(numbers(table))))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(count_on, [4, 4, 4]))
    assert numbers(open_table(uri)) == list(range(12))


def test_no_rows_make_no_version(tmp_path: Path) -> None:
    uri = str(tmp_path / "numbers.lance")
    create_table(uri, SCHEMA)
    first = append(uri, lambda table: row(7))
    assert append(uri, lambda table: None) == first
    assert open_table(uri).version == first
    with pytest.raises(NotFound):
        append(str(tmp_path / "absent.lance"), lambda table: row(1))


def test_a_writer_that_always_loses_says_so_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eoforge.data.tables.append.COMMIT_ATTEMPTS", 2)
    uri = str(tmp_path / "numbers.lance")
    create_table(uri, SCHEMA)

    def late(table: lance.LanceDataset) -> pa.RecordBatch:
        append(uri, lambda _: row(0))  # another writer is faster, every time
        return row(1)

    with pytest.raises(ConflictError, match="committed first, 2 times"):
        append(uri, late)
    assert numbers(open_table(uri)) == [0, 0]
    assert len(list(Path(uri, "data").iterdir())) == 2


def test_compaction_keeps_the_order_and_waits_for_many_fragments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eoforge.data.tables.append.COMPACT_FRAGMENTS", 4)
    uri = str(tmp_path / "numbers.lance")
    create_table(uri, SCHEMA)
    for number in (5, 3, 4):
        append(uri, lambda _, n=number: row(n))
    compact(uri)
    assert len(open_table(uri).get_fragments()) == 3
    append(uri, lambda _: row(1))
    compact(uri)
    append(uri, lambda _: row(2))
    assert len(open_table(uri).get_fragments()) == 2
    assert numbers(open_table(uri)) == [5, 3, 4, 1, 2]
