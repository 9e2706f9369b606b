"""Ingestion killed with ``kill -9`` at random moments, and several at the same time: nothing lost, nothing twice."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from eoforge.data.ingest.run import ingest
from eoforge.data.records import digest
from eoforge.storage.addresses import join, table_exists
from tests.data.ingest.ingest_support import SHARD_ROWS, Ingestion, archive_of, content, pairs_of

PATCHES = 40
KILLS = 20


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    return archive_of(tmp_path_factory.mktemp("archive"), PATCHES)


def expected(count: int = PATCHES, start: int = 0) -> dict[str, str]:
    return {p.meta.patch_id: digest(p) for p in pairs_of(count, start=start)}


@pytest.mark.slow
def test_killed_at_random_moments_and_run_again(archive: str, store_uri: str, tmp_path: Path) -> None:
    """Kills fall between the start and 1.2 times the fastest run; the run after a complete one uses a new table.

    Each table already holds other pixels of half the patches, so a killed run adds and changes rows.
    """
    older = archive_of(tmp_path / "older", PATCHES // 2, seed=5)
    before = {p.meta.patch_id: digest(p) for p in pairs_of(PATCHES // 2, seed=5)}

    def table_with_older_patches(name: str) -> str:
        table = join(store_uri, name, "patches.lance")
        ingest(older, table, shard_rows=SHARD_ROWS)
        assert content(table) == before
        return table

    whole = Ingestion(archive, table_with_older_patches("whole")).ready().go()
    begin = time.monotonic()
    assert whole.summary()["changed"] == PATCHES // 2
    fastest = time.monotonic() - begin

    rng = np.random.default_rng(KILLS)
    tables = [table_with_older_patches("killed-0")]
    killed = 0
    while killed < KILLS:
        run = Ingestion(archive, tables[-1]).ready().go()
        begin = time.monotonic()
        if run.killed_within(rng.uniform(0, 1.2 * fastest)):
            killed += 1
            assert content(tables[-1]) in (before, expected()), "half of an ingestion is visible"
        else:
            run.summary()
            fastest = min(fastest, time.monotonic() - begin)  # the machine may have been busy when the first one ran
            tables.append(table_with_older_patches(f"killed-{len(tables)}"))
    for table in tables:
        summary = Ingestion(archive, table).ready().go().summary()
        done = {name: summary[name] for name in ("patches_in", "quarantined")}
        assert done == {"patches_in": PATCHES, "quarantined": 0}
        assert content(table) == expected()


def test_the_workers_of_a_killed_ingestion_end_too(archive: str, tmp_path: Path) -> None:
    table = str(tmp_path / "patches.lance")
    run = Ingestion(archive, table, workers=2, shard_rows=1).ready().go()
    assert run.process.pid is not None
    parent = psutil.Process(run.process.pid)
    children: list[psutil.Process] = []
    while len(children) < 2 and run.process.is_alive():
        children = parent.children(recursive=True)
        time.sleep(0.01)
    run.process.kill()
    run.process.join()
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert len(gone) >= 2
    assert not alive
    assert ingest(archive, table, shard_rows=1).patches_in == PATCHES
    assert content(table) == expected()


def test_four_ingestions_of_one_archive_at_the_same_time(archive: str, store_uri: str, tmp_path: Path) -> None:
    table = join(store_uri, "patches.lance")
    racers = [Ingestion(archive, table) for _ in range(4)]
    for racer in racers:
        racer.ready()
    for racer in racers:
        racer.go()
    summaries = [racer.summary() for racer in racers]
    assert content(table) == expected()
    by_job = {str(s["ingest_id"]): s for s in summaries}
    assert sum(int(str(s["added"])) for s in by_job.values()) == PATCHES
    for summary in summaries:
        assert int(str(summary["added"])) + int(str(summary["unchanged"])) == PATCHES


def test_archives_that_overlap_at_the_same_time(tmp_path: Path) -> None:
    table = str(tmp_path / "patches.lance")
    archives = [archive_of(tmp_path / str(start), 24, start=start) for start in (0, 12, 24)]
    racers = [Ingestion(archive, table).ready() for archive in archives]
    for racer in racers:
        racer.go()
    summaries = [racer.summary() for racer in racers]
    assert content(table) == expected(48)
    assert sum(int(str(s["added"])) for s in summaries) == 48
    assert sum(int(str(s["unchanged"])) for s in summaries) == 24


def test_two_ingestions_of_different_pixels_leave_one_of_the_two(tmp_path: Path) -> None:
    table = str(tmp_path / "patches.lance")
    archives = [archive_of(tmp_path / str(seed), 12, seed=seed) for seed in (1, 2)]
    racers = [Ingestion(archive, table).ready() for archive in archives]
    for racer in racers:
        racer.go()
    for racer in racers:
        racer.summary()
    allowed = [{p.meta.patch_id: digest(p) for p in pairs_of(12, seed=seed)} for seed in (1, 2)]
    assert content(table) in allowed


def test_workers_are_spawned_not_forked(archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lance is not fork-safe."""
    started: list[str] = []
    real = multiprocessing.get_context

    def context(method: str | None = None) -> object:
        started.append(str(method))
        return real(method)

    monkeypatch.setattr(multiprocessing, "get_context", context)
    table = str(tmp_path / "patches.lance")
    ingest(archive, table, shard_rows=SHARD_ROWS, workers=2)
    assert started == ["spawn"]
    assert table_exists(table)
