"""Addresses with reserved characters: Lance and the object store read one address alike, locally and on S3."""

from __future__ import annotations

import uuid

import pyarrow as pa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eoforge.data.tables.commit import Job, changed_keys, commit, create_table, fragments_exist, write_fragments
from eoforge.data.tables.schema import PRIMARY_KEY
from eoforge.storage.addresses import TableRef, address_of, join, normalise, open_table, table_exists
from eoforge.storage.objects import ObjectStore

SCHEMA = pa.schema(
    [
        pa.field("patch_id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        pa.field("digest", pa.string(), nullable=False),
    ]
)
NAMES = st.text(alphabet="ab1#?%&+=;:@,!$'()*[]{}|^`<>\"~ .-_äß漢😀", min_size=1, max_size=12).filter(
    lambda name: name.strip() and name not in (".", "..")
)
"""Names of folders; of the characters, ``#``, ``?`` and ``%`` have a meaning in URLs."""


def load(table: str, job_id: str, rows: dict[str, str]) -> int:
    """Version of the table after a bulk load of ``{patch_id: digest}``."""
    batch = pa.record_batch([list(rows), list(rows.values())], schema=SCHEMA)
    job = Job(table, job_id)
    fragments = write_fragments(table, SCHEMA, [batch])
    assert fragments_exist(table, fragments)
    assert job.put_manifest(0, {"fragments": fragments})
    return commit(table, job, 1, ("patch_id",), digest="digest").version


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES)
@example(name="a#b")
@example(name="a?b=c")
@example(name="a%20b")
@example(name="a%2Fb")
@example(name="a%23b")
@example(name="100%")
def test_a_table_lies_where_its_address_says(store_uri: str, name: str) -> None:
    folder = join(store_uri, uuid.uuid4().hex)
    table = normalise(f"{folder}/{name}/t{name}.lance")
    assert not table_exists(table)
    assert address_of(create_table(table, SCHEMA)) == table
    load(table, "first", {"a": "1", "b": "1"})
    load(table, "second", {"b": "2", "c": "1"})
    assert changed_keys(Job(table, "second")) == ["b"]
    opened = open_table(TableRef(table))
    assert address_of(opened) == table
    assert sorted(zip(*(opened.to_table()[c].to_pylist() for c in ("patch_id", "digest")), strict=True)) == [
        ("a", "1"), ("b", "2"), ("c", "1"),
    ]  # fmt: skip
    inside = list(ObjectStore(table).list())
    assert any(key.startswith("data/") for key in inside)
    assert any(key.startswith("_versions/") for key in inside)
    # Nothing of the table lies anywhere else.
    assert {key.split("/")[0] for key in ObjectStore(folder).list()} == {name}
