"""Ingestion end to end on small archives, into a local folder and a real S3 server."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyproj import Transformer

from eoforge.data.archives.layout import MAIN_FILE, path_of
from eoforge.data.bands import S1_10M, S2_20M
from eoforge.data.ingest.quarantine import quarantine_uri
from eoforge.data.ingest.run import (
    commit_ingest,
    finish_table,
    ingest,
    ingest_shards,
    plan_ingest,
    require_some_accepted,
)
from eoforge.data.tables.schema import tensor_column
from eoforge.data.tables.statistics import band_statistics
from eoforge.errors import DataRefused, NotFound, UsageError
from eoforge.storage.addresses import TableRef, is_s3, join, open_table, table_exists
from eoforge.storage.objects import ObjectStore
from tests.data.archives.archive_files import make_pair, write_archive
from tests.data.ingest.ingest_support import (
    PATCHES,
    SHARD_ROWS,
    archive_of,
    balanced,
    content,
    digests,
    ingest_small_shards,
    pairs_of,
    quarantine,
)


def test_every_pixel_and_word_of_the_archive_is_in_the_table(archive: str, table: str) -> None:
    summary = ingest_small_shards(archive, table)
    pairs = pairs_of(PATCHES)
    assert (summary.added, summary.quarantined, summary.patches_in) == (PATCHES, 0, PATCHES)
    assert balanced(summary)
    assert content(table) == digests(pairs)
    rows = open_table(TableRef(table, summary.version)).to_table()
    by_id = {name: i for i, name in enumerate(rows["patch_id"].to_pylist())}
    s1, s2 = tensor_column(rows["s1"])[0], tensor_column(rows["s2_20m"])[0]
    maps = tensor_column(rows["reference_map"])[0]
    for pair in pairs:
        at = by_id[pair.meta.patch_id]
        np.testing.assert_array_equal(s1[at], pair.s1)
        np.testing.assert_array_equal(s2[at], pair.s2_20m)
        np.testing.assert_array_equal(maps[at], pair.reference_map)
        assert rows["labels"][at].as_py() == list(pair.meta.labels)
        assert rows["s1_name"][at].as_py() == pair.meta.s1_name


def test_a_second_run_adds_nothing_and_makes_no_version(archive: str, table: str) -> None:
    first = ingest_small_shards(archive, table)
    second = ingest_small_shards(archive, table)
    assert (second.unchanged, second.added, second.changed) == (PATCHES, 0, 0)
    assert second.version == first.version == open_table(TableRef(table)).version
    assert second.ingest_id != first.ingest_id, "a complete run is not resumed: the archive is read again"
    assert open_table(TableRef(quarantine_uri(table))).version == 1


def test_a_grown_archive_adds_only_what_is_new(tmp_path: Path, table: str) -> None:
    ingest_small_shards(archive_of(tmp_path / "a", 8), table)
    before = open_table(TableRef(table))
    grown = ingest_small_shards(archive_of(tmp_path / "a", 13), table)
    assert (grown.added, grown.unchanged, grown.patches_in) == (5, 8, 13)
    assert content(table) == digests(pairs_of(13))
    old_files = {f.path for fragment in before.get_fragments() for f in fragment.metadata.files}
    new_files = {f.path for fragment in open_table(TableRef(table)).get_fragments() for f in fragment.metadata.files}
    assert old_files < new_files, "what was there is not written again"


def test_changed_pixels_make_a_new_version_that_says_what_changed(tmp_path: Path, table: str) -> None:
    pairs = pairs_of(10)
    folder = write_archive(tmp_path / "a", pairs)
    first = ingest_small_shards(str(folder), table)
    other = pairs[3].s1 + np.float32(1)
    changed = [*pairs[:3], replace(pairs[3], s1=other), *pairs[4:]]
    write_archive(folder, changed)
    second = ingest_small_shards(str(folder), table)
    name = pairs[3].meta.patch_id
    assert (second.changed, second.unchanged, second.added) == (1, 9, 0)
    assert second.changed_ids == (name,)
    assert second.version > first.version
    assert content(table) == digests(changed)
    old = open_table(TableRef(table, first.version)).to_table(filter=f"patch_id = '{name}'")
    np.testing.assert_array_equal(tensor_column(old["s1"])[0][0], pairs[3].s1)
    row = open_table(TableRef(table)).to_table(filter=f"patch_id = '{name}'")
    np.testing.assert_array_equal(tensor_column(row["s1"])[0][0], other)


def test_new_and_changed_together(tmp_path: Path, table: str) -> None:
    ingest_small_shards(archive_of(tmp_path / "a", 8), table)
    summary = ingest_small_shards(archive_of(tmp_path / "b", 12, seed=5), table)
    assert (summary.changed, summary.added, summary.unchanged) == (8, 4, 0)
    assert content(table) == digests(pairs_of(12, seed=5))


def test_bad_patches_are_named_and_the_rest_goes_on(tmp_path: Path, table: str) -> None:
    pairs = pairs_of(9)
    folder = write_archive(tmp_path / "a", pairs)
    (folder / (path_of(pairs[1].meta, "B05") + ".tif")).unlink()
    truncated = folder / (path_of(pairs[4].meta, "VV") + ".tif")
    truncated.write_bytes(truncated.read_bytes()[:100])
    (folder / (path_of(pairs[4].meta, "B01") + ".tif")).unlink()
    rows = pq.read_table(folder / MAIN_FILE)
    again = rows.slice(2, 1)
    wrong_split = rows.to_pylist()
    wrong_split[6]["split"] = "test" if wrong_split[6]["split"] != "test" else "train"
    rows = pa.concat_tables([pa.Table.from_pylist(wrong_split, schema=rows.schema), again])
    pq.write_table(rows, folder / MAIN_FILE)

    summary = ingest_small_shards(str(folder), table)
    assert balanced(summary)
    assert (summary.patches_in, summary.added, summary.quarantined) == (10, 7, 3)
    assert (summary.duplicates, summary.warnings) == (1, 1)
    found = quarantine(table)
    expected = {
        (pairs[1].meta.patch_id, "missing_band"),
        (pairs[4].meta.patch_id, "missing_band"),
        (pairs[4].meta.patch_id, "unreadable"),
        (again["patch_id"][0].as_py(), "duplicate_id"),
        (wrong_split[6]["patch_id"], "split_mismatch"),
    }
    assert set(found) == expected
    assert summary.reasons == {"missing_band": 2, "unreadable": 1, "duplicate_id": 1, "split_mismatch": 1}
    assert "B05" in found[(pairs[1].meta.patch_id, "missing_band")]["file"]
    assert {r["ingest_id"] for r in found.values()} == {summary.ingest_id}
    bad = {pairs[1].meta.patch_id, pairs[4].meta.patch_id}
    assert set(content(table)) == {p.meta.patch_id for p in pairs} - bad

    again_summary = ingest_small_shards(str(folder), table)
    assert (again_summary.unchanged, again_summary.quarantined) == (7, 3)
    assert quarantine(table) == found, "nothing twice, and the first ingestion stays named"


def test_strict_refuses_the_archive_and_writes_nothing(tmp_path: Path, store_uri: str, table: str) -> None:
    pairs = pairs_of(9)
    folder = write_archive(tmp_path / "a", pairs)
    assert ingest_small_shards(str(folder), join(store_uri, "whole", "patches.lance"), strict=True).added == 9
    (folder / (path_of(pairs[7].meta, "VH") + ".tif")).unlink()
    with pytest.raises(DataRefused, match=pairs[7].meta.patch_id) as refusal:
        ingest_small_shards(str(folder), table, strict=True, workers=1 if is_s3(table) else 2)
    assert "1 of 9 patches are bad" in str(refusal.value)
    assert not table_exists(table)
    assert [key for key in ObjectStore(store_uri).list() if not key.startswith("whole/")] == []


def test_strict_commits_nothing_if_a_file_goes_bad_after_validation(tmp_path: Path, table: str) -> None:
    pairs = pairs_of(9)
    folder = write_archive(tmp_path / "a", pairs)
    plan = plan_ingest(str(folder), table, shard_rows=SHARD_ROWS, strict=True)
    file = folder / (path_of(pairs[7].meta, "VH") + ".tif")
    kept = file.read_bytes()
    file.unlink()
    ingest_shards(table, plan.ingest_id, 0, plan.shards)
    for _ in range(2):
        with pytest.raises(DataRefused, match="1 of 9 patches are bad"):
            commit_ingest(table, plan.ingest_id)
    assert content(table) == {}
    file.write_bytes(kept)
    assert ingest_small_shards(str(folder), table, strict=True).added == 9, (
        "repaired, the refused attempt is not resumed"
    )


def test_indexes_cover_all_rows_and_serve_filters(tmp_path: Path, table: str) -> None:
    ingest_small_shards(archive_of(tmp_path / "a", 8), table)
    ingest_small_shards(archive_of(tmp_path / "a", 20), table)
    dataset = open_table(TableRef(table))
    indexes = {d.field_names[0]: d for d in dataset.describe_indices()}
    assert set(indexes) == {"patch_id", "split", "country", "labels"}
    assert {d.num_rows_indexed for d in indexes.values()} == {20}
    plan = dataset.scanner(filter="array_has_any(labels, ['Pastures']) AND country = 'Austria'").explain_plan()
    assert "ScalarIndexQuery" in plan
    wanted = {p.meta.patch_id for p in pairs_of(20) if "Pastures" in p.meta.labels}
    found = dataset.to_table(columns=["patch_id"], filter="array_has_any(labels, ['Pastures'])")
    assert set(found["patch_id"].to_pylist()) == wanted
    assert finish_table(table) == dataset.version, "nothing to do makes no version"


def test_the_same_result_for_every_number_of_workers_and_size_of_shards(archive: str, tmp_path: Path) -> None:
    tables = [str(tmp_path / str(i) / "patches.lance") for i in range(3)]
    ingest(archive, tables[0], shard_rows=1)
    ingest(archive, tables[1], shard_rows=7, workers=2)
    ingest(archive, tables[2])
    assert content(tables[0]) == content(tables[1]) == content(tables[2])
    orders = [open_table(TableRef(t)).to_table(columns=["patch_id"])["patch_id"].to_pylist() for t in tables]
    assert orders[0] == orders[1] == orders[2] == sorted(orders[0])


def test_an_archive_of_bad_patches_alone_leaves_an_empty_table_and_says_so(tmp_path: Path, table: str) -> None:
    folder = write_archive(tmp_path / "a", pairs_of(2))
    shutil.rmtree(folder / "BigEarthNet-S1")
    summary = ingest_small_shards(str(folder), table)
    assert (summary.added, summary.quarantined) == (0, 2)
    assert content(table) == {}
    assert {reason for _, reason in quarantine(table)} == {"s1_missing"}
    with pytest.raises(DataRefused, match=r"none of the 2 patches was accepted \(s1_missing 2\)"):
        require_some_accepted(summary)
    require_some_accepted(replace(summary, quarantined=1, unchanged=1))


def test_tables_of_one_folder_have_their_own_quarantine(tmp_path: Path, store_uri: str) -> None:
    folder = write_archive(tmp_path / "a", pairs_of(3))
    (folder / (path_of(pairs_of(3)[0].meta, "VV") + ".tif")).unlink()
    first, second = join(store_uri, "first.lance"), join(store_uri, "second.lance")
    summaries = [ingest_small_shards(str(folder), table) for table in (first, second)]
    assert [s.quarantined for s in summaries] == [1, 1]
    for table, summary in zip((first, second), summaries, strict=True):
        assert {r["ingest_id"] for r in quarantine(table).values()} == {summary.ingest_id}


def test_a_table_address_with_reserved_characters(archive: str, store_uri: str) -> None:
    """Indexes, statistics, quarantine and jobs lie beside the table, whatever its name."""
    folder = join(store_uri, "2018#1?v=%20")
    table = join(folder, "patches%2F.lance")
    assert ingest_small_shards(archive, table).added == len(content(table))
    assert ingest_small_shards(archive, table).unchanged == len(content(table))
    assert band_statistics(table).uri == table
    assert {key.split("/")[0] for key in ObjectStore(store_uri).list()} == {"2018#1?v=%20"}
    beside = {key.split("/")[0] for key in ObjectStore(folder).list()}
    assert beside == {f"patches%2F{end}" for end in (".lance", ".lance.jobs", ".lance.stats", ".quarantine.lance")}


def test_an_archive_of_the_southern_hemisphere(tmp_path: Path, table: str) -> None:
    summary = ingest_small_shards(
        str(write_archive(tmp_path / "a", [make_pair(3, 4, tile=2), make_pair(44, 45, tile=2)])), table
    )
    assert (summary.added, summary.quarantined, summary.warnings) == (2, 0, 0)
    row = open_table(table).to_table(columns=["epsg", "ulx", "uly", "lon_min", "lat_max"]).to_pylist()[0]
    assert (row["epsg"], row["ulx"], row["uly"]) == (32739, 603_600, 9_595_240)
    lon, lat = Transformer.from_crs(32739, 4326, always_xy=True).transform(603_600, 9_595_240)
    assert (row["lon_min"], row["lat_max"]) == pytest.approx((lon, lat), abs=1e-4)


def test_questions_that_make_no_sense(archive: str, tmp_path: Path) -> None:
    table = str(tmp_path / "patches.lance")
    with pytest.raises(NotFound):
        ingest(str(tmp_path / "nowhere"), table)
    with pytest.raises(UsageError, match="shard_rows"):
        ingest(archive, table, shard_rows=0)
    assert not table_exists(table)
    plan = plan_ingest(archive, table, shard_rows=SHARD_ROWS)
    with pytest.raises(UsageError, match=r"0\.\.3"):
        ingest_shards(table, plan.ingest_id, 3, 2)
    with pytest.raises(NotFound, match="plan_ingest"):
        commit_ingest(table, "ingest-unknown-001")
    with pytest.raises(UsageError, match="workers"):
        ingest(archive, table, shard_rows=SHARD_ROWS, workers=0)


@pytest.mark.parametrize("table", ["t.lance@3", "s3://bucket", "the archive itself"])
def test_places_that_no_table_can_have(
    archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """A table named t.lance@3 cannot be opened, and a whole bucket has no folder for the quarantine table."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        ingest(archive, archive if table == "the archive itself" else table)
    assert not list(tmp_path.glob("*@3*"))
    assert not (Path(archive) / "_versions").exists()


def test_native_grids_are_what_the_schema_says(archive: str, tmp_path: Path) -> None:
    table = str(tmp_path / "patches.lance")
    ingest_small_shards(archive, table)
    rows = open_table(TableRef(table)).to_table(columns=["s2_20m", "s1"])
    assert tensor_column(rows["s2_20m"])[0].shape == (PATCHES, *S2_20M.shape)
    assert tensor_column(rows["s1"])[0].dtype == S1_10M.dtype
