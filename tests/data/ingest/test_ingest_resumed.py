"""Ingestions that are interrupted, repeated, concurrent, or observed while they run."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from eoforge.data.ingest.plan import load_plan
from eoforge.data.ingest.run import (
    commit_ingest,
    ingest_shards,
    plan_ingest,
)
from eoforge.data.tables.commit import Job
from eoforge.errors import StoreError
from eoforge.storage.addresses import TableRef, open_table
from eoforge.storage.objects import ObjectStore
from tests.data.ingest.ingest_support import (
    PATCHES,
    SHARD_ROWS,
    archive_of,
    content,
    digests,
    ingest_small_shards,
    pairs_of,
)


def test_an_interrupted_ingestion_reads_only_the_shards_that_are_missing(archive: str, table: str) -> None:
    plan = plan_ingest(archive, table, shard_rows=SHARD_ROWS)
    assert (plan.shards, plan.rows) == (4, PATCHES)
    ingest_shards(table, plan.ingest_id, 1, 2)
    with pytest.raises(StoreError, match="is not written; run ingest_shards"):
        commit_ingest(table, plan.ingest_id)
    assert content(table) == {}
    again = plan_ingest(archive, table, shard_rows=SHARD_ROWS)
    assert again == plan
    assert ingest_shards(table, plan.ingest_id, 0, 4) == {"shards": 2, "resumed": 2, "rows": PATCHES}
    first = commit_ingest(table, plan.ingest_id)
    assert commit_ingest(table, plan.ingest_id) == first
    assert first.added == PATCHES


def test_a_shard_whose_files_were_cleaned_up_is_written_again(archive: str, table: str) -> None:
    plan = plan_ingest(archive, table, shard_rows=SHARD_ROWS)
    ingest_shards(table, plan.ingest_id, 0, plan.shards)
    manifest = Job(table, plan.ingest_id).manifest(2)
    assert manifest is not None
    ObjectStore(table).delete("data/" + json.loads(manifest["fragments"][0])["files"][0]["path"])
    assert ingest_shards(table, plan.ingest_id, 0, plan.shards)["shards"] == 1
    assert commit_ingest(table, plan.ingest_id).added == PATCHES
    assert content(table) == digests(pairs_of(PATCHES))


def test_a_table_made_again_at_the_same_place_resumes_nothing(archive: str, tmp_path: Path) -> None:
    table = str(tmp_path / "patches.lance")
    plan = plan_ingest(archive, table, shard_rows=SHARD_ROWS)
    ingest_shards(table, plan.ingest_id, 0, plan.shards)
    shutil.rmtree(table)
    assert plan_ingest(archive, table, shard_rows=SHARD_ROWS).ingest_id != plan.ingest_id
    assert ingest_small_shards(archive, table).added == PATCHES


def test_the_slower_of_two_writers_of_a_shard_leaves_no_files(archive: str, table: str) -> None:
    plan = plan_ingest(archive, table, shard_rows=SHARD_ROWS)
    job, _ = load_plan(table, plan.ingest_id)
    ingest_shards(table, plan.ingest_id, 0, 1)
    files = list(ObjectStore(table).list("data"))
    done = job.manifest(0)
    real = Job.manifest
    seen: list[int] = []

    def late(self: Job, shard: int) -> dict[str, object] | None:
        seen.append(shard)
        return None if len(seen) == 1 else real(self, shard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "manifest", late)
        ingest_shards(table, plan.ingest_id, 0, 1)
    assert job.manifest(0) == done
    assert list(ObjectStore(table).list("data")) == files


def test_a_reader_sees_the_old_table_or_the_new_one(tmp_path: Path, table: str) -> None:
    """New and changed patches appear together: no version in between holds some of them."""
    ingest_small_shards(archive_of(tmp_path / "a", 8), table)
    grown = archive_of(tmp_path / "b", 20, seed=5)
    seen: list[dict[str, str]] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(content(table))

    reader = threading.Thread(target=watch)
    reader.start()
    try:
        summary = ingest_small_shards(grown, table)
    finally:
        stop.set()
        reader.join()
    assert (summary.changed, summary.added) == (8, 12)
    whole = [digests(pairs_of(8)), digests(pairs_of(20, seed=5))]
    assert all(state in whole for state in seen)
    versions = [v["version"] for v in open_table(TableRef(table)).versions()]
    contents = [content(f"{table}@{version}") for version in versions]
    assert all(state in ({}, *whole) for state in contents)
    assert contents[-1] == whole[1]
