"""IVF index: exact search as in memory, filters, measured recall and its choice, growth, and refusals."""

from __future__ import annotations

import json
from datetime import timedelta

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from eoforge.data.labels import CLASSES
from eoforge.data.search_filter import SearchFilter
from eoforge.data.tables.schema import METADATA_COLUMNS
from eoforge.errors import DataRefused, NotFound, StoreError, UsageError
from eoforge.hashing.checksum import row_checksums
from eoforge.index.build import build_index, plan_index
from eoforge.index.catalog import IndexSnapshot
from eoforge.index.ivf import build, recall
from eoforge.index.ivf.build import build_ivf, commit_ivf, index_shards, plan_ivf
from eoforge.index.ivf.search import IvfSnapshot
from eoforge.index.ivf.table import ENGINE_KEY, IVF, IvfInfo, indexed_fragments
from eoforge.index.snapshot import Opening, open_snapshot
from eoforge.storage.addresses import TableRef, open_table
from tests.index.conftest import PixelEncoder, make_bundle, write_patches


class Archive:
    def __init__(self, root, pairs):
        self.patches, self.codes = str(root / "patches.lance"), str(root / "codes.lance")
        self.bundle = make_bundle(str(root / "runs"), self.patches, write_patches(self.patches, pairs))
        self.index()

    def index(self):
        build_index(self.bundle.uri, TableRef(self.patches), self.codes, PixelEncoder(), shard_rows=8, engine=IVF)
        return build_ivf(self.codes)


@pytest.fixture(scope="module")
def small_partitions():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "ROWS_PER_PARTITION", 30)
        patch.setattr(build, "SHARD_FRAGMENTS", 2)
        yield


@pytest.fixture(scope="module")
def archive(tmp_path_factory, pairs, small_partitions):
    return Archive(tmp_path_factory.mktemp("ivf"), pairs)


@pytest.fixture(scope="module")
def opened(archive):
    found = open_snapshot(TableRef(archive.codes), Opening())
    assert isinstance(found, IvfSnapshot)
    return found


@pytest.fixture(scope="module")
def memory(archive):
    return IndexSnapshot.open(TableRef(archive.codes))


def hits(snapshot, found):
    ids = snapshot.metadata(found.rows.ravel()).column("patch_id").to_pylist()
    return found.distances.tolist(), ids, found.candidates


def test_an_exact_search_is_that_of_the_other_engine(opened, memory):
    assert (len(opened), opened.modalities, opened.count("s1")) == (len(memory), memory.modalities, memory.count("s1"))
    rows = memory.metadata().to_pylist()
    one, two = rows[3], rows[-4]
    moment = one["acquired_s2"]
    filters = [
        None,
        SearchFilter(countries=(one["country"], "Kosovo")),
        SearchFilter(splits=("validation", "test"), exclude_snow=True, exclude_cloud=True),
        SearchFilter(labels_any=tuple(one["labels"][:1])),
        SearchFilter(labels_all=tuple(one["labels"])),
        SearchFilter(bbox=(one["lon_max"], one["lat_max"], one["lon_max"] + 1, one["lat_max"] + 1)),
        SearchFilter(bbox=(two["lon_min"], -90, two["lon_min"] - 0.5, 90)),
        SearchFilter(acquired_from=moment, acquired_until=moment + timedelta(microseconds=1)),
        SearchFilter(acquired_until=moment),
    ]
    queries = np.stack([memory.code_of(one["patch_id"], "s1"), np.zeros(2, np.uint8)])
    sizes = set()
    for wanted in filters:
        for modality, k in (("s1", 3), ("s2", 1), ("s2", 40)):
            found = opened.search(modality, queries, k, wanted)
            assert (found.exact, found.recall) == (True, 1.0)
            assert hits(opened, found) == hits(memory, memory.search(modality, queries, k, wanted)), wanted
            sizes.add(found.candidates)
    assert {1, 40} <= sizes
    assert len(sizes) > 4, "the filters tell nothing apart"


def test_rows_have_their_code_and_metadata(opened, memory):
    for patch_id in memory.metadata().column("patch_id").to_pylist()[::9]:
        for modality in ("s1", "s2"):
            row = opened.row_of(patch_id, modality)
            np.testing.assert_array_equal(opened.code_of_row(row, modality), memory.code_of(patch_id, modality))
            (found,) = opened.metadata(np.array([row])).to_pylist()
            assert found == memory.metadata(np.array([memory.row_of(patch_id, modality)])).to_pylist()[0]
    assert opened.metadata(np.empty(0, np.int64)).column_names == list(METADATA_COLUMNS)
    for absent in ("", "x' OR true --"):
        with pytest.raises(NotFound, match="is not in the index"):
            opened.row_of(absent, "s1")
    with pytest.raises(NotFound, match="its modalities: s1, s2"):
        opened.search("s3", np.zeros((1, 2), np.uint8), 1)


def test_the_measured_recall_chooses_the_partitions(opened, memory):
    info = opened.ivf
    assert info.partitions == 2
    assert list(info.recall) == recall.probe_settings(2)[: len(info.recall)]
    assert list(info.recall.values()) == sorted(info.recall.values())
    assert info.recall[max(info.recall)] == 1.0, "all partitions hold all codes"
    assert info.recall[1] < 1, "one partition holds all: the test says nothing"
    low = opened.search("s2", memory.code_of(memory.metadata()["patch_id"][0].as_py(), "s1")[None], 10, None, 0.01)
    assert (low.exact, low.recall) == (False, info.recall[1])
    for wanted in (None, SearchFilter(labels_any=CLASSES), SearchFilter(splits=("test",))):
        every = opened.search("s2", np.zeros((1, 2), np.uint8), 40, wanted, 0.01)
        assert every.distances.shape == (1, every.candidates), "partitions that hold too few rows are not all"
    # The recall that the table states is that of such searches, in the worse direction.
    seen = []
    for source, target in (("s1", "s2"), ("s2", "s1")):
        good = total = 0
        for patch_id in memory.metadata().column("patch_id").to_pylist():
            query = memory.code_of(patch_id, source)[None]
            last = memory.search(target, query, 10).distances[0, -1]
            good += int((opened.search(target, query, 10, None, 0.01).distances[0] <= last).sum())
            total += 10
        seen.append(good / total)
    assert min(seen) == pytest.approx(info.recall[1], abs=0.05)


@pytest.mark.parametrize("wrong", [0.0, -1.0, 1.1, float("nan")])
def test_a_recall_out_of_range_is_refused(opened, wrong):
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        opened.search("s2", np.zeros((1, 2), np.uint8), 1, None, wrong)


def test_a_recall_that_no_setting_reaches_is_named():
    info = IvfInfo(partitions=8, trained_rows=1, recall={1: 0.5, 8: 0.93})
    assert [info.probes_for(r) for r in (0.1, 0.5, 0.51, 0.93)] == [1, 1, 8, 8]
    measured = IvfInfo(partitions=8, trained_rows=1, queries=200, recall={1: 0.94, 2: 0.99, 4: 0.9985, 8: 1.0})
    assert [measured.probes_for(r) for r in (0.9, 0.95, 0.99, 0.999)] == [1, 2, 4, 8], "few queries measured them"
    with pytest.raises(UsageError, match=r"has recall 0\.95; the best has 0\.9300\. Ask for at most that, or for 1"):
        info.probes_for(0.95)


def test_a_default_that_no_setting_reaches_is_refused_at_the_start(archive, tmp_path):
    lance.write_dataset(open_table(archive.codes).to_table(), str(tmp_path / "codes.lance"))
    table = lance.dataset(str(tmp_path / "codes.lance"))
    facts = {
        **open_table(archive.codes).schema.metadata,
    }
    table.update_schema_metadata({k.decode(): v.decode() for k, v in facts.items()})
    table.update_schema_metadata(IvfInfo(partitions=1, trained_rows=1, recall={1: 0.5}).metadata())
    with pytest.raises(UsageError, match=r"EOFORGE_MIN_RECALL cannot be kept .* the best has 0\.5000"):
        open_snapshot(TableRef(str(tmp_path / "codes.lance")), Opening(min_recall=0.9))


def test_appended_patches_are_indexed_with_the_same_partitions(tmp_path, pairs, small_partitions, monkeypatch):
    archive = Archive(tmp_path, pairs[:20])
    before = IvfSnapshot.open(TableRef(archive.codes))
    write_patches(archive.patches, pairs[20:30])
    info = archive.index()
    assert (info.partitions, info.trained_rows, info.counts) == (before.ivf.partitions, 40, {"s1": 30, "s2": 30})
    table = open_table(archive.codes)
    assert indexed_fragments(table) == {f.fragment_id for f in table.get_fragments()}
    grown, fresh = IvfSnapshot.open(TableRef(archive.codes)), IndexSnapshot.open(TableRef(archive.codes))
    queries = np.zeros((1, 2), np.uint8)
    assert hits(grown, grown.search("s2", queries, 30)) == hits(fresh, fresh.search("s2", queries, 30))
    assert grown.search("s2", queries, 5, None, 0.01).distances.shape == (1, 5)
    assert len(before) == 20
    assert plan_ivf(archive.codes).shards == 0, "nothing is left to index"
    monkeypatch.setattr(build, "RETRAIN", 1)
    assert archive.index().trained_rows == 60


def test_codes_that_came_after_the_index_are_counted(tmp_path, pairs, small_partitions):
    archive = Archive(tmp_path, pairs[:20])
    assert IvfSnapshot.open(TableRef(archive.codes)).indexed == 1
    write_patches(archive.patches, pairs[20:30])
    build_index(archive.bundle.uri, TableRef(archive.patches), archive.codes, PixelEncoder(), engine=IVF)
    grown = IvfSnapshot.open(TableRef(archive.codes))
    assert (grown.ivf.counts, grown.count("s1"), len(grown)) == ({"s1": 20, "s2": 20}, 30, 30)
    assert grown.indexed == pytest.approx(2 / 3)
    assert grown.search("s2", np.zeros((1, 2), np.uint8), 40).candidates == 30


def test_versions_are_compared_by_patch_and_code(archive, opened, tmp_path):
    rows = open_table(archive.codes).to_table().combine_chunks()

    def other(name, rows):
        codes = rows["code"].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
        names = (rows[column].combine_chunks() for column in ("modality", "patch_id"))
        place = rows.schema.get_field_index("row_crc")
        rows = rows.set_column(place, rows.schema.field("row_crc"), pa.array(row_checksums(codes, *names)))
        lance.write_dataset(rows, str(tmp_path / name))
        return IvfSnapshot.open(TableRef(str(tmp_path / name)))

    def replaced(column, values):
        field = rows.schema.field(column)
        return rows.set_column(rows.schema.get_field_index(column), field, pa.chunked_array([values.cast(field.type)]))

    ids = rows["patch_id"].combine_chunks()
    flipped = rows["code"].combine_chunks().flatten().to_numpy() ^ 1
    assert opened.held_by(opened) == len(opened)
    assert opened.held_by(other("half", rows.slice(0, len(rows) // 2))) == len(opened) // 2
    assert opened.held_by(other("ids", replaced("patch_id", pc.binary_join_element_wise(ids, "x", "-")))) == 0
    assert opened.held_by(other("codes", replaced("code", pa.FixedSizeListArray.from_arrays(flipped, 2)))) == 0


def test_a_run_goes_on_where_it_was_killed(tmp_path, pairs, small_partitions, monkeypatch):
    archive = Archive(tmp_path, pairs[:20])
    monkeypatch.setattr(build, "RETRAIN", 0)
    plan = plan_ivf(archive.codes)
    assert plan == plan_ivf(archive.codes)
    assert plan.shards > 1
    index_shards(archive.codes, plan.job_id, 1, 1)
    with pytest.raises(StoreError, match=r"shard 0 .* is not indexed yet"):
        commit_ivf(archive.codes, plan.job_id)
    assert index_shards(archive.codes, plan.job_id, 0, plan.shards) == plan.shards - 1
    first = commit_ivf(archive.codes, plan.job_id)
    assert commit_ivf(archive.codes, plan.job_id) == first
    covered = [
        int(f)
        for i in open_table(archive.codes).describe_indices()
        if i.name == build.VECTOR_INDEX
        for s in i.segments
        for f in s.fragment_ids
    ]
    assert len(covered) == len(set(covered)), "a fragment is indexed twice"


def test_engines_are_not_mixed(archive, tmp_path, pairs):
    with pytest.raises(DataRefused, match="made for the engine ivf, not exact"):
        plan_index(archive.bundle.uri, TableRef(archive.patches), archive.codes, engine="exact")
    with pytest.raises(UsageError, match="unknown engine 'fast'; expected one of exact, ivf"):
        plan_index(archive.bundle.uri, TableRef(archive.patches), archive.codes, engine="fast")
    exact = str(tmp_path / "exact.lance")
    build_index(archive.bundle.uri, TableRef(archive.patches), exact, PixelEncoder())
    with pytest.raises(DataRefused, match="was made for the exact engine"):
        plan_ivf(exact)
    assert plan_index(archive.bundle.uri, TableRef(archive.patches), archive.codes).rows == 0


def test_damaged_facts_and_codes_are_refused(archive, tmp_path, memory):
    good = {"partitions": 4, "trained_rows": 1, "recall": {"1": 0.5, "4": 1.0}, "counts": {"s1": 1, "s2": 0}}
    for damage in (
        '{"recall": 3}',
        "[" * 100_000,
        *(
            json.dumps(good | change)
            for change in (
                {"partitions": 10**30}, {"partitions": "4"}, {"partitions": 0}, {"recall": {"9": 1.0}},
                {"recall": {"1": float("nan")}}, {"recall": {"1": 2}}, {"counts": {"s1": -1}}, {"counts": {"s3": 1}},
                {"counts": {"s1": True}}, {"countries": [1]}, {"countries": 1},
            )
        ),
    ):  # fmt: skip
        schema = pa.schema([], metadata={ENGINE_KEY: IVF, "eoforge.ivf": damage})
        with pytest.raises(DataRefused, match="facts of the IVF index of here are malformed"):
            IvfInfo.of(schema, "here")
    table = open_table(archive.codes)
    rows = table.to_table()
    wrong = pa.array(np.zeros(rows.num_rows, np.uint32))
    damaged = rows.set_column(rows.schema.get_field_index("row_crc"), rows.schema.field("row_crc"), wrong)
    uri = str(tmp_path / "codes.lance")
    lance.write_dataset(damaged.replace_schema_metadata(table.schema.metadata), uri)
    snapshot = IvfSnapshot.open(TableRef(uri))
    with pytest.raises(DataRefused, match="codes differ from their checksums"):
        snapshot.metadata(snapshot.search("s2", np.zeros((1, 2), np.uint8), 3).rows[0])
