"""Snapshots: alignment of codes and metadata, filters against a slow loop, refusals."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import lance
import numpy as np
import pyarrow as pa
import pytest
from structlog.testing import capture_logs

from eoforge.data.labels import CLASSES
from eoforge.data.search_filter import COUNTRIES, SearchFilter
from eoforge.data.tables.schema import METADATA_COLUMNS
from eoforge.errors import DataRefused, NotFound, UsageError
from eoforge.hashing.checksum import code_checksums
from eoforge.index.build import build_index, commit_index, encode_shards, plan_index
from eoforge.index.cache.columns import require_countries
from eoforge.index.catalog import IndexSnapshot
from eoforge.storage.addresses import TableRef, open_table
from tests.index.conftest import PixelEncoder, expected_code, flip_a_bit, make_bundle, write_patches


@pytest.fixture(scope="module")
def built(tmp_path_factory, pairs):
    root = tmp_path_factory.mktemp("catalog")
    patches, codes = str(root / "patches.lance"), str(root / "codes.lance")
    bundle = make_bundle(str(root / "runs"), patches, write_patches(patches, pairs[::-1]))
    build_index(bundle.uri, TableRef(patches), codes, PixelEncoder(), shard_rows=16)
    return codes, patches, bundle


@pytest.fixture(scope="module")
def snapshot(built):
    return IndexSnapshot.open(TableRef(built[0]))


def test_codes_and_metadata_share_rows_in_the_order_of_ids(snapshot, built, pairs):
    assert len(snapshot) == len(pairs)
    assert snapshot.modalities == ("s1", "s2")
    assert snapshot.version == open_table(built[0]).version
    assert snapshot.info.bundle_id == built[2].id
    assert snapshot.metadata().column_names == list(METADATA_COLUMNS)
    assert snapshot.metadata().column("patch_id").to_pylist() == sorted(p.meta.patch_id for p in pairs)
    for pair in pairs:
        row = snapshot.row_of(pair.meta.patch_id, "s1")
        assert row == snapshot.row_of(pair.meta.patch_id, "s2")
        assert snapshot.metadata(np.array([row])).to_pylist()[0]["s1_name"] == pair.meta.s1_name
        for modality in ("s1", "s2"):
            np.testing.assert_array_equal(snapshot.code_of(pair.meta.patch_id, modality), expected_code(pair, modality))
            assert snapshot.code_of_row(row, modality).tobytes() == expected_code(pair, modality).tobytes()


def test_absent_things_are_named(snapshot, built):
    some = snapshot.metadata().column("patch_id")[0].as_py()
    for absent in ("", "A", "zzz", some + "0", some[:-1]):
        with pytest.raises(NotFound, match="is not in the index"):
            snapshot.row_of(absent, "s1")
    with pytest.raises(NotFound, match="its modalities: s1, s2"):
        snapshot.code_of(some, "s3")
    with pytest.raises(DataRefused, match="no table of codes"):
        IndexSnapshot.open(TableRef(built[1]))
    with pytest.raises(NotFound):
        IndexSnapshot.open(TableRef(built[0], 99))


def test_a_mistyped_country_is_refused_with_the_nearest(snapshot):
    present = snapshot.metadata().column("country")[0].as_py()
    for mistyped in (present + "d", present.lower()):
        with pytest.raises(UsageError, match=f"unknown country '{mistyped}'; did you mean {present}"):
            snapshot.allow(SearchFilter(countries=(present, mistyped)))
    with pytest.raises(UsageError, match=r"unknown country 'Q'; expected one of .*Austria.*Switzerland"):
        snapshot.allow(SearchFilter(countries=("Q",)))
    require_countries(("Kosovo", "Madagascar"), ("Madagascar",))  # reBEN's are known to every index
    with pytest.raises(UsageError, match="unknown country 'Madagascar'"):
        require_countries(("Madagascar",), COUNTRIES)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"splits": ("val",)}, r"unknown split 'val'; did you mean validation\?"),
        ({"splits": ("tests",)}, r"unknown split 'tests'; did you mean test\?"),
        ({"labels_any": ("mixed forests",)}, r"unknown label 'mixed forests'; did you mean Mixed forest.*\?"),
    ],
)
def test_unknown_names_of_a_filter_come_with_the_nearest(given, says):
    with pytest.raises(UsageError, match=says):
        SearchFilter(**given)


def slow_allow(row, wanted):
    west, south, east, north = wanted.bbox or (-180, -90, 180, 90)
    in_longitude = (
        row["lon_max"] >= west and row["lon_min"] <= east
        if west <= east
        else row["lon_max"] >= west or row["lon_min"] <= east
    )
    return all(
        [
            not wanted.countries or row["country"] in wanted.countries,
            not wanted.splits or row["split"] in wanted.splits,
            not wanted.labels_any or bool(set(row["labels"]) & set(wanted.labels_any)),
            set(row["labels"]) >= set(wanted.labels_all),
            in_longitude and row["lat_max"] >= south and row["lat_min"] <= north,
            wanted.acquired_from is None or row["acquired_s2"] >= wanted.acquired_from,
            wanted.acquired_until is None or row["acquired_s2"] < wanted.acquired_until,
            not (wanted.exclude_snow and row["contains_seasonal_snow"]),
            not (wanted.exclude_cloud and row["contains_cloud_or_shadow"]),
        ]
    )


def test_filters_equal_a_loop_over_rows(snapshot):
    rows = snapshot.metadata().to_pylist()
    one, two = rows[3], rows[-4]
    box = (one["lon_max"], one["lat_max"], one["lon_max"] + 1, one["lat_max"] + 1)  # touches in one corner only
    wanted = [
        SearchFilter(),
        SearchFilter(countries=(one["country"], "Kosovo")),
        SearchFilter(splits=("validation", "test")),
        SearchFilter(labels_all=CLASSES),
        SearchFilter(labels_any=(CLASSES[2], CLASSES[8])),
        SearchFilter(labels_all=tuple(one["labels"])),
        SearchFilter(bbox=box),
        SearchFilter(bbox=(two["lon_min"], -90, two["lon_min"] - 0.5, 90)),  # around the world
        SearchFilter(acquired_from=one["acquired_s2"], acquired_until=one["acquired_s2"] + timedelta(microseconds=1)),
        SearchFilter(acquired_until=one["acquired_s2"]),
        SearchFilter(exclude_snow=True, exclude_cloud=True),
        SearchFilter(splits=(one["split"],), labels_any=tuple(one["labels"]), exclude_snow=True),
    ]
    seen = set()
    for each in wanted:
        allow = snapshot.allow(each)
        assert allow.dtype == np.bool_
        assert allow.tolist() == [slow_allow(row, each) for row in rows], each
        seen.add(int(allow.sum()))
    assert {0, len(rows)} < seen  # the filters above do tell rows apart
    assert any(row["contains_seasonal_snow"] for row in rows) or any(row["contains_cloud_or_shadow"] for row in rows)


def test_malformed_filters_are_refused():
    with pytest.raises(UsageError, match="unknown label"):
        SearchFilter(labels_any=("Forest",))
    with pytest.raises(UsageError, match="train, validation, test"):
        SearchFilter(splits=("holdout",))
    with pytest.raises(UsageError, match="degrees"):
        SearchFilter(bbox=(0, 50, 10, 40))
    with pytest.raises(UsageError, match="time zone"):
        SearchFilter(acquired_from=datetime(2018, 1, 1))
    assert SearchFilter(acquired_from=datetime(2018, 1, 1, tzinfo=UTC)).acquired_from


def test_an_index_that_is_not_committed_shows_nothing_of_itself(tmp_path, pairs):
    patches, codes = str(tmp_path / "patches.lance"), str(tmp_path / "codes.lance")
    bundle = make_bundle(str(tmp_path / "runs"), patches, write_patches(patches, pairs[:10]))
    plan = plan_index(bundle.uri, TableRef(patches), codes)
    assert len(IndexSnapshot.open(TableRef(codes))) == 0
    assert IndexSnapshot.open(TableRef(codes)).modalities == ()
    encode_shards(codes, plan.job_id, 0, plan.shards, PixelEncoder())
    version = commit_index(codes, plan.job_id)
    before = IndexSnapshot.open(TableRef(codes, version))

    write_patches(patches, pairs[10:20])
    grown = plan_index(bundle.uri, TableRef(patches), codes)
    encode_shards(codes, grown.job_id, 0, grown.shards, PixelEncoder())
    later = commit_index(codes, grown.job_id)
    assert len(before) == 10
    # The version in between has the rows but belongs to the old version of the patches: the snapshot has those only.
    assert open_table(TableRef(codes, later - 1)).count_rows() == 40
    assert len(IndexSnapshot.open(TableRef(codes, later - 1))) == 10
    assert len(IndexSnapshot.open(TableRef(codes, later))) == 20


def test_a_patch_without_a_code_in_every_modality_is_left_out(tmp_path, pairs):
    patches, codes = str(tmp_path / "patches.lance"), str(tmp_path / "codes.lance")
    bundle = make_bundle(str(tmp_path / "runs"), patches, write_patches(patches, pairs[:10]))
    build_index(bundle.uri, TableRef(patches), codes, PixelEncoder())
    lost = pairs[4].meta.patch_id
    open_table(codes).delete(f"patch_id = '{lost}' AND modality = 's2'")
    snapshot = IndexSnapshot.open(TableRef(codes))
    assert len(snapshot) == 9
    with pytest.raises(NotFound, match=lost):
        snapshot.row_of(lost, "s1")
    for pair in (p for p in pairs[:10] if p.meta.patch_id != lost):
        np.testing.assert_array_equal(snapshot.code_of(pair.meta.patch_id, "s2"), expected_code(pair, "s2"))


def test_a_flipped_bit_of_a_code_is_refused(tmp_path, pairs, index_cache):
    patches, codes = str(tmp_path / "patches.lance"), str(tmp_path / "codes.lance")
    bundle = make_bundle(str(tmp_path / "runs"), patches, write_patches(patches, pairs[:10]))
    build_index(bundle.uri, TableRef(patches), codes, PixelEncoder())
    assert len(IndexSnapshot.open(TableRef(codes))) == 10
    flip_a_bit(codes)
    assert len(IndexSnapshot.open(TableRef(codes))) == 10, "the local copy was made of checked codes"
    shutil.rmtree(index_cache)
    with pytest.raises(DataRefused, match=r"codes\.lance@\d+ is damaged: 1 of 20 codes differ from their checksums"):
        IndexSnapshot.open(TableRef(codes))


def warnings_of(log):
    return [entry["event"] for entry in log if entry["log_level"] == "warning"]


def rewritten(codes, change):
    """The table of codes, with its rows changed and its schema's metadata kept."""
    table = open_table(codes)
    schema = table.schema
    lance.write_dataset(change(table.to_table()).replace_schema_metadata(schema.metadata), codes, mode="overwrite")


def test_codes_of_two_patches_that_changed_places_are_refused(tmp_path, pairs):
    patches, codes = str(tmp_path / "patches.lance"), str(tmp_path / "codes.lance")
    bundle = make_bundle(str(tmp_path / "runs"), patches, write_patches(patches, pairs[:10]))
    build_index(bundle.uri, TableRef(patches), codes, PixelEncoder())
    ids = open_table(codes).to_table(columns=["patch_id"])["patch_id"].to_pylist()
    ids[0], ids[1] = ids[1], ids[0]
    rewritten(codes, lambda rows: rows.set_column(0, rows.schema.field("patch_id"), pa.array(ids, pa.string())))
    with pytest.raises(DataRefused, match="2 of 20 codes differ from their checksums"):
        IndexSnapshot.open(TableRef(codes))


def test_a_table_with_checksums_of_codes_alone_is_checked_grows_and_says_so_once(tmp_path, pairs, index_cache):
    patches, codes = str(tmp_path / "patches.lance"), str(tmp_path / "codes.lance")
    bundle = make_bundle(str(tmp_path / "runs"), patches, write_patches(patches, pairs[:10]))
    build_index(bundle.uri, TableRef(patches), codes, PixelEncoder())

    def older(rows):
        packed = rows["code"].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)
        field = pa.field("code_crc", pa.uint32(), nullable=False)
        return rows.drop_columns(["row_crc"]).append_column(field, pa.array(code_checksums(packed)))

    rewritten(codes, older)
    with capture_logs() as log:
        IndexSnapshot.open(TableRef(codes))
        assert len(IndexSnapshot.open(TableRef(codes))) == 10
    assert warnings_of(log) == ["codes whose checksums do not cover the patch id"]
    write_patches(patches, pairs[10:20])
    build_index(bundle.uri, TableRef(patches), codes, PixelEncoder())
    assert len(IndexSnapshot.open(TableRef(codes))) == 20
    flip_a_bit(codes)
    shutil.rmtree(index_cache)
    with pytest.raises(DataRefused, match="1 of 40 codes differ from their checksums"):
        IndexSnapshot.open(TableRef(codes))


def test_a_table_without_checksums_is_read_and_named_in_the_log(tmp_path, pairs):
    patches, codes = str(tmp_path / "patches.lance"), str(tmp_path / "codes.lance")
    bundle = make_bundle(str(tmp_path / "runs"), patches, write_patches(patches, pairs[:10]))
    build_index(bundle.uri, TableRef(patches), codes, PixelEncoder())
    with capture_logs() as log:
        whole = IndexSnapshot.open(TableRef(codes))
    assert warnings_of(log) == []
    open_table(codes).drop_columns(["row_crc"])
    with capture_logs() as log:
        read = IndexSnapshot.open(TableRef(codes))
        IndexSnapshot.open(TableRef(codes))
    assert warnings_of(log) == ["codes without checksums"], "once, not at every load"
    np.testing.assert_array_equal(read.segments[0].codes["s2"], whole.segments[0].codes["s2"])
    # Such a table grows as before.
    write_patches(patches, pairs[10:20])
    build_index(bundle.uri, TableRef(patches), codes, PixelEncoder())
    assert len(IndexSnapshot.open(TableRef(codes))) == 20
