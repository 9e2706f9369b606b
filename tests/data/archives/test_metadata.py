"""Metadata files that are small and claim or hold far more than the official ones."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eoforge.data.archives import metadata, parquet_pages
from eoforge.data.archives.layout import MAIN_FILE
from eoforge.data.archives.metadata import MAX_DECODED_BYTES, MAX_ROWS, METADATA, read_metadata
from eoforge.errors import DataRefused

MIB = 1 << 20


def repeated(text: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def parquet(rows: int, **columns: pa.Array) -> bytes:
    """Metadata file of equal rows; ``columns`` replace those of the same name."""
    parts = {}
    for field in METADATA:
        if pa.types.is_boolean(field.type):
            parts[field.name] = pa.array(np.zeros(rows, bool))
        elif pa.types.is_list(field.type):
            offsets = pa.array(np.arange(rows + 1, dtype=np.int32))
            parts[field.name] = pa.ListArray.from_arrays(offsets, repeated("Pastures", rows))
        else:
            parts[field.name] = repeated(field.name, rows)
    sink = io.BytesIO()
    pq.write_table(pa.table(parts | columns), sink, compression="zstd", store_schema=False)
    return sink.getvalue()


def read(data: bytes) -> pa.Table:
    return read_metadata(lambda name: data if name == MAIN_FILE else None, "archive").table


def test_equal_rows_are_read_as_the_official_types() -> None:
    table = read(parquet(3))
    assert [(f.name, f.type) for f in table.schema] == [(f.name, f.type) for f in METADATA]
    assert table["labels"].to_pylist() == [["Pastures"]] * 3
    assert table["country"].to_pylist() == ["country"] * 3


def labels(count: int, text: str) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), repeated(text, count))


BOMBS = {
    "text": lambda: parquet(3900, country=repeated("x" * MIB, 3900)),
    "labels": lambda: parquet(1, labels=labels(3900, "x" * MIB)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_of_gigabytes_is_refused_in_bounded_memory(tmp_path: Path, name: str) -> None:
    """A process of its own shows the peak: gigabytes would be there, whatever is freed later."""
    (tmp_path / MAIN_FILE).write_bytes(BOMBS[name]())
    assert (tmp_path / MAIN_FILE).stat().st_size < MIB
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom eoforge.data.archives.metadata import read_metadata\n"
        "def load(name):\n    path = Path(sys.argv[1], name)\n    return path.read_bytes() if path.exists() else None\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    read_metadata(load, 'archive')\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    refusal, grown = done.stdout.splitlines()
    assert refusal.startswith("DataRefused")
    assert f"beyond the limit of {MAX_DECODED_BYTES}" in refusal
    assert int(grown) < 64


def test_too_many_rows_or_labels_are_refused() -> None:
    with pytest.raises(DataRefused, match=f"rows, beyond the limit of {MAX_ROWS}"):
        read(parquet(MAX_ROWS + 1))
    with pytest.raises(DataRefused, match=f"values in one column, beyond the limit of {MAX_ROWS}"):
        read(parquet(1, labels=labels(MAX_ROWS + 1, "x")))


def test_a_footer_that_claims_too_many_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "MAX_DECODED_BYTES", MIB)
    with pytest.raises(DataRefused, match=f"decompressed bytes, beyond the limit of {MIB}"):
        read(parquet(1, country=repeated("x" * (MIB + 1), 1)))


@pytest.mark.parametrize(
    "column", [{"patch_id": pa.array([["a"], ["b"]])}, {"labels": pa.array([1.5, 2.5])}], ids=["list", "number"]
)
def test_a_column_of_another_type_is_refused(column: dict[str, pa.Array]) -> None:
    with pytest.raises(DataRefused, match="other types"):
        read(parquet(2, **column))


def varint(value: int) -> bytes:
    """A number as Thrift's compact protocol writes it."""
    value <<= 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def with_claim(data: bytes, column: str, claimed: int) -> bytes:
    """The file, with another size of a column in its footer."""
    group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    (chunk,) = (group.column(j) for j in range(group.num_columns) if group.column(j).path_in_schema.startswith(column))
    old, new = varint(chunk.total_uncompressed_size), varint(claimed)
    assert len(old) == len(new), "offsets must stay"
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    place = data.index(old, footer)
    return data[:place] + new + data[place + len(old) :]


def test_a_page_that_claims_more_than_its_footer_is_refused() -> None:
    whole = parquet(1, country=pa.array(["x" * (20 * MIB)]))
    assert len(whole) < 64 * 1024
    with pytest.raises(DataRefused, match=r"pages of country claim \d{8} bytes .* and the footer 2000000 bytes"):
        read_metadata({MAIN_FILE: with_claim(whole, "country", 2_000_000)}.get, "here")
    assert len(read_metadata({MAIN_FILE: whole}.get, "here")) == 1


def test_any_damage_of_a_page_header_is_refused_or_harmless() -> None:
    whole = parquet(50)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    random = np.random.default_rng(0)
    refused = 0
    for place in random.integers(4, footer, 300):
        damaged = bytearray(whole)
        damaged[place] ^= int(random.integers(1, 256))
        try:
            read_metadata({MAIN_FILE: bytes(damaged)}.get, "here")
        except DataRefused:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip"])
def test_files_of_other_writers_pass(version: str, compression: str) -> None:
    read = pq.read_table(pa.BufferReader(parquet(3000)))
    sink = io.BytesIO()
    pq.write_table(
        read, sink, compression=compression, data_page_version=version, row_group_size=700, data_page_size=512
    )
    assert len(read_metadata({MAIN_FILE: sink.getvalue()}.get, "here")) == 3000
    assert len(read_metadata({MAIN_FILE: parquet(0)}.get, "here")) == 0


def test_a_crowd_of_row_groups_or_pages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs time, whatever it holds; a file of the allowed size could have millions."""
    rows = pq.read_table(io.BytesIO(parquet(40)))
    sink = io.BytesIO()
    pq.write_table(rows, sink, row_group_size=1)
    monkeypatch.setattr(metadata, "MAX_ROW_GROUPS", 40)
    assert len(read(sink.getvalue())) == 40
    monkeypatch.setattr(metadata, "MAX_ROW_GROUPS", 39)
    with pytest.raises(DataRefused, match="40 row groups, beyond the limit of 39"):
        read(sink.getvalue())
    monkeypatch.setattr(metadata, "MAX_ROW_GROUPS", 40)
    monkeypatch.setattr(parquet_pages, "_MAX_PAGES", 100)
    with pytest.raises(DataRefused, match="more than 100 pages"):
        read(sink.getvalue())
