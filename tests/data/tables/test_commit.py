"""The bulk-load protocol on a small table, on a local folder and on a real S3 server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import lance
import pyarrow as pa
import pytest

from eoforge.data.tables import commit as exactly_once
from eoforge.data.tables import staged as staged_rows
from eoforge.data.tables.commit import CommitResult, Job, changed_keys, commit, create_table, write_fragments
from eoforge.data.tables.schema import PRIMARY_KEY
from eoforge.errors import ConflictError, DataRefused, StoreError, UsageError
from eoforge.storage.addresses import TableRef, join, open_table
from eoforge.storage.objects import ObjectStore
from tests.data.ingest.ingest_support import forkserver_context, set_environment

KEYS = ("name", "kind")
SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        pa.field("kind", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        pa.field("pixels", pa.fixed_shape_tensor(pa.uint16(), (2, 2)), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
    ]
)


@pytest.fixture
def table(store_uri: str) -> str:
    uri = join(store_uri, "t.lance")
    create_table(uri, SCHEMA)
    return uri


def batch(names: Sequence[str], digest: str = "a", kind: str = "k") -> pa.RecordBatch:
    count = len(names)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array([ord(n[0]) for n in names for _ in range(4)], pa.uint16()), 4)
    tensor = pa.ExtensionArray.from_storage(SCHEMA.field("pixels").type, pixels)
    columns = [pa.array(names), pa.array([kind] * count), tensor, pa.array([digest] * count)]
    return pa.record_batch(columns, schema=SCHEMA)


def staged(table: str, job_id: str, shards: Sequence[Sequence[str]], digest: str = "a") -> Job:
    job = Job(table, job_id)
    for number, names in enumerate(shards):
        batches = [batch(names, digest)] if names else []
        assert job.put_manifest(number, {"fragments": write_fragments(table, SCHEMA, batches)})
    return job


def load(table: str, job_id: str, shards: Sequence[Sequence[str]], digest: str = "a") -> CommitResult:
    return commit(table, staged(table, job_id, shards, digest), len(shards), KEYS, digest="digest")


def rows(table: str) -> dict[tuple[str, str], str]:
    found = open_table(TableRef(table)).to_table(columns=["name", "kind", "digest"]).to_pylist()
    keyed = {(r["name"], r["kind"]): r["digest"] for r in found}
    assert len(keyed) == len(found), "a key is in the table twice"
    return keyed


def test_first_load_is_one_version_and_committing_again_changes_nothing(table: str) -> None:
    job = staged(table, "one", [["a", "b"], [], ["c"]])
    first = commit(table, job, 3, KEYS)
    assert first == CommitResult(version=2, added=3, skipped=0)
    assert [commit(table, job, 3, KEYS) for _ in range(3)] == [first] * 3
    assert open_table(TableRef(table)).version == 2
    assert list(rows(table)) == [("a", "k"), ("b", "k"), ("c", "k")], "shard order"


def test_keys_of_a_table_are_compared_in_parts(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later load must not hold the keys of the whole table."""
    monkeypatch.setattr(staged_rows, "COMPARED", 3)
    for number, names in enumerate(("ab", "cde", "f", "gh")):
        load(table, f"load-{number}", [list(names)])
    parts = list(staged_rows._parts(open_table(TableRef(table)), ["name"], 3))
    assert [part.column("name").to_pylist() for part in parts] == [["a", "b", "c", "d", "e"], ["f", "g", "h"]]
    mixed = commit(table, staged(table, "mixed", [["b", "x"], ["h", "b", "y"]], "b"), 2, KEYS, digest="digest")
    assert (mixed.added, mixed.changed, mixed.skipped) == (2, 2, 1)
    same = load(table, "same", [["a"], ["h", "x"]], "b")
    assert (same.added, same.changed, same.skipped) == (0, 1, 2)
    assert rows(table) == {(n, "k"): "b" if n in "abhxy" else "a" for n in "abcdefghxy"}


def test_rows_that_are_there_are_left_out_and_their_fragment_is_rewritten_without_them(table: str) -> None:
    load(table, "one", [["a", "b"]])
    second = load(table, "two", [["b", "c"], ["a"], ["d"]])
    assert (second.added, second.skipped, second.version) == (2, 2, 3)
    assert set(rows(table)) == {(n, "k") for n in "abcd"}
    pixels = open_table(TableRef(table)).to_table(filter="name = 'c'")["pixels"]
    assert pixels.chunk(0).storage.to_pylist() == [[ord("c")] * 4], "the kept rows keep their content"


def test_a_key_that_a_job_brings_twice_is_taken_once(table: str) -> None:
    result = load(table, "one", [["a", "a", "b"], ["b"]])
    assert (result.added, result.skipped) == (2, 2)
    assert len(rows(table)) == 2


def test_composite_keys_differ_if_one_part_differs(table: str) -> None:
    job = Job(table, "one")
    batches = [batch(["a"], kind="s1"), batch(["a"], kind="s2"), batch(["as"], kind="2")]
    job.put_manifest(0, {"fragments": write_fragments(table, SCHEMA, batches)})
    assert commit(table, job, 1, KEYS).added == 3


def test_changed_rows_replace_the_old_ones_and_are_named(table: str) -> None:
    load(table, "one", [["a", "b", "c"]])
    job = staged(table, "two", [["b", "c"], ["d"]], digest="new")
    result = commit(table, job, 2, KEYS, digest="digest")
    assert (result.added, result.changed, result.skipped) == (1, 2, 0)
    assert changed_keys(job) == ["b/k", "c/k"]
    assert rows(table) == {("a", "k"): "a", ("b", "k"): "new", ("c", "k"): "new", ("d", "k"): "new"}
    again = commit(table, job, 2, KEYS, digest="digest")
    assert again == result
    assert open_table(TableRef(table)).version == result.version


def test_new_and_changed_rows_of_many_fragments_come_in_one_version(table: str) -> None:
    names = [f"n{i:04d}" for i in range(300)]
    before = load(table, "one", [names[:100], names[100:200], names[200:]])
    open_table(TableRef(table)).create_scalar_index("name", "BTREE", name="name_idx")
    indexed = open_table(TableRef(table)).version
    # The first fragment changes whole, the second in part, the third not at all.
    job = staged(table, "two", [names[:150], ["new", *names[290:]]], digest="b")
    rival = staged(table, "three", [names[120:130]], digest="b")
    result = commit(table, job, 2, KEYS, digest="digest")
    assert (result.version, result.changed, result.added, result.skipped) == (indexed + 1, 160, 1, 0)
    fragments = open_table(TableRef(table)).get_fragments()
    assert [f.count_rows() for f in fragments] == [50, 90, 150, 11], "of the first nothing is left, not even a name"
    expected = dict.fromkeys(names, "a") | dict.fromkeys([*names[:150], *names[290:], "new"], "b")
    assert {name: digest for (name, _), digest in rows(table).items()} == expected
    for name in (names[0], names[120], names[170], names[299], "new"):
        found = open_table(TableRef(table)).to_table(columns=["digest"], filter=f"name = '{name}'")
        assert found["digest"].to_pylist() == [expected[name]], "the index has entries of deleted rows"
    assert set(open_table(TableRef(table, before.version)).to_table()["digest"].to_pylist()) == {"a"}
    assert commit(table, rival, 1, KEYS, digest="digest").skipped == 10, "addresses of old rows are of no use any more"


def test_a_crash_after_changes_were_committed_still_names_them(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load(table, "zero", [["a", "b"]])
    job = staged(table, "one", [["a", "b", "c"]], digest="new")
    real = Job.put

    def crash_at_list(self: Job, name: str, data: bytes) -> None:
        if name == "fragments.changed.json":
            raise RuntimeError("killed here")
        real(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "put", crash_at_list)
        with pytest.raises(RuntimeError, match="killed here"):
            commit(table, job, 1, KEYS, digest="digest")
    load(table, "other", [["a"]], digest="newer")
    result = commit(table, job, 1, KEYS, digest="digest")
    assert (result.added, result.changed, result.skipped) == (1, 2, 0)
    assert changed_keys(job) == ["a/k", "b/k"]
    assert rows(table)["a", "k"] == "newer", "what came later stands"


def test_a_crash_between_commit_and_result_neither_repeats_nor_miscounts(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(table, "zero", [["a"]])
    job = staged(table, "one", [["a", "b", "c"]])
    real = Job.put_if_absent

    def crash_at_result(self: Job, name: str, data: bytes) -> bool:
        if name.endswith("result.json"):
            raise RuntimeError("killed here")
        return real(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "put_if_absent", crash_at_result)
        with pytest.raises(RuntimeError, match="killed here"):
            commit(table, job, 1, KEYS, digest="digest")
    load(table, "other", [["z"]])  # another writer comes in between
    result = commit(table, job, 1, KEYS, digest="digest")
    assert (result.added, result.skipped) == (2, 1)
    assert len(rows(table)) == 4


def test_a_commit_that_lost_the_race_checks_again(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = staged(table, "one", [["a", "b"]])
    real = exactly_once._merge
    races = iter([["a"], ["q"]])

    def commit_other_first(*args: object) -> object:
        for names in races:
            monkeypatch.setattr(exactly_once, "_merge", real)
            load(table, f"rival-{names[0]}", [names])
            monkeypatch.setattr(exactly_once, "_merge", commit_other_first)
            break
        return real(*args)  # type: ignore[arg-type]  # the same arguments as the function it stands in for

    monkeypatch.setattr(exactly_once, "_merge", commit_other_first)
    result = commit(table, job, 1, KEYS, digest="digest")
    assert (result.added, result.skipped) == (1, 1)
    assert set(rows(table)) == {("a", "k"), ("b", "k"), ("q", "k")}


def test_giving_up_after_many_lost_races_says_so(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def always(*_: object) -> None:
        raise lance.commit.CommitConflictError("another writer")

    monkeypatch.setattr(exactly_once, "_merge", always)
    monkeypatch.setattr(exactly_once, "COMMIT_ATTEMPTS", 3)
    with pytest.raises(ConflictError, match="3 times"):
        load(table, "one", [["a"]])
    assert rows(table) == {}


def _commit_in_process(table: str, job_id: str) -> CommitResult:
    return commit(table, Job(table, job_id), 4, KEYS, digest="digest")


def test_many_committers_of_the_same_and_of_other_jobs(table: str) -> None:
    names = [f"n{i:03d}" for i in range(40)]
    for job_id in ("one", "two", "three"):
        staged(table, job_id, [names[i::4] for i in range(4)])
    jobs = ["one", "two", "three", "one", "two", "three"]
    environment = (dict(os.environ),)
    with ProcessPoolExecutor(3, forkserver_context(), initializer=set_environment, initargs=environment) as pool:
        results = list(pool.map(_commit_in_process, [table] * 6, jobs))
    assert len(rows(table)) == 40
    assert results[:3] == results[3:], "every committer of a job reports the same"
    assert sum(r.added for r in results[:3]) == 40


def test_of_racing_creators_all_open_one_table(store_uri: str) -> None:
    """The mode=create of Lance lets a second creator overwrite the table of the first."""
    with ThreadPoolExecutor(8) as pool:
        for number in range(5):
            uri = join(store_uri, f"raced-{number}.lance")
            versions = [t.version for t in pool.map(lambda _, uri=uri: create_table(uri, SCHEMA), range(8))]
            assert versions == [1] * 8


def test_another_schema_is_refused(table: str) -> None:
    with pytest.raises(DataRefused, match="another schema"):
        create_table(table, SCHEMA.remove(3))


def test_a_shard_without_manifest_stops_the_commit(table: str) -> None:
    job = staged(table, "one", [["a"]])
    with pytest.raises(StoreError, match="has no manifest; run the shard"):
        commit(table, job, 2, KEYS)
    assert rows(table) == {}


def test_the_first_manifest_of_a_shard_stands(table: str) -> None:
    job = Job(table, "one")
    assert job.put_manifest(3, {"fragments": [], "by": 1})
    assert not job.put_manifest(3, {"fragments": [], "by": 2})
    assert job.manifest(3) == {"fragments": [], "by": 1}
    assert job.manifest(4) is None


@pytest.mark.parametrize("job_id", ["", "../up", "a/b", ".hidden", "x" * 129])
def test_job_ids_are_plain_names(table: str, job_id: str) -> None:
    with pytest.raises(UsageError, match="job id"):
        Job(table, job_id)


def test_what_the_batches_raise_comes_out_as_it_is(table: str) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield batch(["a"])
        raise DataRefused("the archive is gone")

    with pytest.raises(DataRefused, match="the archive is gone"):
        write_fragments(table, SCHEMA, broken())
    assert rows(table) == {}


def test_nothing_to_write_is_no_fragment(table: str) -> None:
    assert write_fragments(table, SCHEMA, []) == []


def test_files_of_a_job_lie_beside_the_table(table: str) -> None:
    staged(table, "one", [["a"]])
    manifest = json.loads(ObjectStore(f"{table}.jobs/one").get("shard-000000.json"))
    assert len(manifest["fragments"]) == 1
