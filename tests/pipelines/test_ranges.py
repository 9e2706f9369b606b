"""Shard ranges: complete, in order, few and small, also for the whole of reBEN."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoforge.data.archives.folders import DirectoryArchive
from eoforge.data.split import official_split
from eoforge.errors import UsageError
from pipelines.components.ingest import plan_ingest
from pipelines.ranges import ShardRange, range_limit, shard_ranges
from pipelines.settings import MAX_ITERATIONS

REBEN_ROWS = 549_488
SHARD_ROWS = 1024
"""The pipelines' default."""
MAX_PARAMETER_BYTES = 8 * 1024


@given(st.integers(1, 5000), st.integers(1, 64))
def test_ranges_cover_every_shard_once_and_evenly(shards: int, limit: int) -> None:
    ranges = [ShardRange.parse(text) for text in shard_ranges("job-1", shards, limit)]
    covered = [shard for r in ranges for shard in range(r.first, r.first + r.count)]
    assert covered == list(range(shards))
    assert len(ranges) == min(shards, limit)
    sizes = [r.count for r in ranges]
    assert max(sizes) - min(sizes) <= 1


@given(st.text(min_size=1, max_size=20), st.integers(0, 10**6), st.integers(0, 10**6))
def test_text_form_round_trips(job_id: str, first: int, count: int) -> None:
    one = ShardRange(job_id, first, count)
    assert ShardRange.parse(str(one)) == one


@pytest.mark.parametrize(("rows", "ranges"), [(0, 0), (1, 1), (1024, 1), (2000, 2), (REBEN_ROWS, MAX_ITERATIONS)])
def test_no_pod_for_a_handful_of_patches(rows: int, ranges: int) -> None:
    assert range_limit(rows, SHARD_ROWS) == ranges


def test_finished_job_gets_one_empty_range() -> None:
    assert [ShardRange.parse(text).count for text in shard_ranges("job", 0)] == [0]


@pytest.mark.parametrize("text", ["", "job", "job:1", "job:a:2", ":1:2", "job:-1:2"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="JOB:FIRST:COUNT"):
        ShardRange.parse(text)


def metadata_only_archive(folder: Path, official: Path | None) -> Path:
    """An archive with the metadata of all of reBEN and not one pixel."""
    for name in ("BigEarthNet-S1", "BigEarthNet-S2"):
        (folder / name).mkdir(parents=True)
    if official is not None:
        for file in official.glob("*.parquet"):
            shutil.copy(file, folder / file.name)
        return folder
    tiles = [f"S2A_MSIL2A_201706{d:02d}T101031_N9999_R022_T{z}{c}" for d in range(1, 31) for z, c in _TILES]
    rows = [(t, x, y) for t in tiles for x in range(90) for y in range(90)][:REBEN_ROWS]
    columns = {
        "patch_id": [f"{t}_{x:02d}_{y:02d}" for t, x, y in rows],
        "labels": pa.array([["Arable land"]] * len(rows)),
        "split": [official_split(x, y) for _, x, y in rows],
        "country": ["Austria"] * len(rows),
        "s1_name": [f"S1A_IW_GRDH_1SDV_20170613T165043_{t[-5:]}_{x}_{y}" for t, x, y in rows],
        "s2v1_name": [f"{t[:20]}T101031_{x}_{y}" for t, x, y in rows],
        "contains_seasonal_snow": [False] * len(rows),
        "contains_cloud_or_shadow": [False] * len(rows),
    }
    pq.write_table(pa.table(columns), folder / "metadata.parquet")
    return folder


_TILES = (("33", "UUP"), ("29", "SNC"), ("34", "WFU"))


def check_plan(archive: Path, table: Path, rows: int) -> None:
    """Plans by the step's own function and checks what would travel through Kubeflow."""
    with pytest.MonkeyPatch.context() as patched:  # a plan reads no pixels, and half a million folders take an hour
        patched.setattr(DirectoryArchive, "has_files", lambda self, meta: True)
        ingest_id, ranges = plan_ingest.python_func(str(archive), str(table), SHARD_ROWS, False)
    assert len(ranges) <= MAX_ITERATIONS
    assert len(str(ranges).encode()) <= MAX_PARAMETER_BYTES
    assert max(len(text.encode()) for text in [ingest_id, *ranges]) <= MAX_PARAMETER_BYTES
    parsed = [ShardRange.parse(text) for text in ranges]
    assert {r.job_id for r in parsed} == {ingest_id}
    assert sum(r.count for r in parsed) == -(-rows // SHARD_ROWS)


def test_whole_of_reben_is_planned_from_its_official_metadata(shared_data: Path, tmp_path: Path) -> None:
    archive = metadata_only_archive(tmp_path / "reben", shared_data / "reben-metadata")
    rows = sum(pq.read_metadata(f).num_rows for f in archive.glob("*.parquet"))
    assert rows == REBEN_ROWS
    check_plan(archive, tmp_path / "patches.lance", rows)


def test_an_archive_of_the_same_size_is_planned_from_synthetic_metadata(tmp_path: Path) -> None:
    archive = metadata_only_archive(tmp_path / "reben", None)
    check_plan(archive, tmp_path / "patches.lance", REBEN_ROWS)
