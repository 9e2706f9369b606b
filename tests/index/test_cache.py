"""Local cache: shared segments, growth without a second copy, damage, bounds, and strangers' folders."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from structlog.testing import capture_logs

from eoforge.data.search_filter import SearchFilter
from eoforge.errors import DataRefused, StoreError
from eoforge.index import search
from eoforge.index.build import build_index
from eoforge.index.cache import columns, fill, folder
from eoforge.index.cache.columns import FilterColumns, columns_of, orders_of
from eoforge.index.cache.folder import IndexCache
from eoforge.index.catalog import IndexSnapshot
from eoforge.storage.addresses import TableRef, open_table
from tests.index.conftest import PixelEncoder, make_bundle, write_patches
from tests.index.test_search import brute_force


class Archive:
    """Archive that grows, and its cache."""

    def __init__(self, root: Path, pairs, first=20):
        self.patches, self.codes = str(root / "patches.lance"), str(root / "codes.lance")
        self.cache = IndexCache(root / "cache")
        self.bundle = make_bundle(str(root / "runs"), self.patches, write_patches(self.patches, pairs[:first]))
        build_index(self.bundle.uri, TableRef(self.patches), self.codes, PixelEncoder())

    def grow(self, pairs):
        write_patches(self.patches, pairs)
        build_index(self.bundle.uri, TableRef(self.patches), self.codes, PixelEncoder())

    def open(self, previous=None, cache=None):
        return IndexSnapshot.open(TableRef(self.codes), store=cache or self.cache, previous=previous)

    def segments(self):
        return sorted(path for path in self.cache.folder.iterdir() if path.is_dir())


@pytest.fixture
def archive(tmp_path, pairs):
    return Archive(tmp_path, pairs)


def content(snapshot):
    """All that a snapshot holds, by patch."""
    table = snapshot.metadata()
    codes = {m: np.concatenate([s.codes[m] for s in snapshot.segments]).tolist() for m in snapshot.modalities}
    places = [snapshot.place_of(row) for row in range(len(snapshot))]
    parts = zip(table.to_pylist(), *codes.values(), places, strict=True)
    return {row["patch_id"]: (row, *rest) for row, *rest in parts}


def test_a_second_process_maps_the_same_files(archive, monkeypatch):
    first = archive.open()
    written = {path: path.stat().st_mtime_ns for path in archive.cache.folder.rglob("*.bin")}
    assert written

    def no_fill(*_):
        raise AssertionError("the files were there")

    monkeypatch.setattr(folder, "fill", no_fill)
    assert content(archive.open()) == content(first)
    assert {path: path.stat().st_mtime_ns for path in archive.cache.folder.rglob("*.bin")} == written


def test_a_row_has_few_bytes_in_memory(archive):
    segment = archive.open().segments[0]
    resident = [*segment.codes.values(), segment.place]
    wide = 2 * 128 // 8 - 2 * PixelEncoder.bits // 8  # as if with codes of 128 bits
    assert sum(array.nbytes for array in resident) / len(segment) + wide <= 40
    for array in resident:
        assert isinstance(array.base, np.memmap), "an array was copied into memory"


def test_growth_shares_the_segment_and_equals_a_fresh_index(archive, pairs, tmp_path):
    before = archive.open()
    archive.grow(pairs[20:30])
    grown = archive.open(before)
    assert grown.segments[0] is before.segments[0]
    assert [len(segment) for segment in grown.segments] == [20, 10]
    assert len(archive.segments()) == 2
    fresh = archive.open(cache=IndexCache(tmp_path / "fresh"))
    assert len(fresh.segments) == 1
    assert content(grown) == content(fresh)
    assert archive.open().segments[1].id == grown.segments[1].id, "a later process finds both"
    assert (before.held_by(grown), grown.held_by(before), fresh.held_by(before)) == (20, 20, 20)

    patches = open_table(archive.patches)
    for row, patch_id in enumerate(grown.metadata().column("patch_id").to_pylist()):
        assert patches.take([grown.place_of(row)], columns=["patch_id"])["patch_id"].to_pylist() == [patch_id]

    rng = np.random.default_rng(0)
    some = fresh.metadata().to_pylist()[7]
    filters = [None, SearchFilter(countries=(some["country"],)), SearchFilter(splits=("train",), exclude_snow=True)]
    for wanted in filters:
        for k in (1, 5, 30):
            queries = rng.integers(0, 4, (3, 2), dtype=np.uint8)
            for modality in ("s1", "s2"):
                answers = []
                for snapshot in (grown, fresh):
                    distances, rows, candidates, *_ = snapshot.search(modality, queries, k, wanted)
                    ids = snapshot.metadata(rows.ravel()).column("patch_id").to_pylist()
                    answers.append((distances.tolist(), ids, candidates))
                assert answers[0] == answers[1], (wanted, k, modality)
    assert grown.allow(filters[1]).sum() == fresh.allow(filters[1]).sum() > 0


def test_equal_codes_of_two_segments_are_in_the_order_of_ids(archive, pairs):
    archive.open()
    archive.grow(pairs[20:40])
    grown = archive.open()
    assert len(grown.segments) == 2
    query = np.zeros((1, 2), np.uint8)
    everything = np.concatenate([s.codes["s2"] for s in grown.segments])
    ids = grown.metadata().column("patch_id").to_pylist()
    distances = np.bitwise_count(everything ^ query).sum(axis=1)
    expected = sorted(zip(distances.tolist(), ids, strict=True))
    assert len({d for d, _ in expected}) < len(expected), "no ties: the test says nothing"
    for k in range(1, 41):
        found, rows, *_ = grown.search("s2", query, k)
        assert list(zip(found[0].tolist(), [ids[r] for r in rows[0]], strict=True)) == expected[:k]


def test_other_changes_and_many_segments_are_written_anew(archive, pairs, monkeypatch):
    monkeypatch.setattr(folder, "MAX_SEGMENTS", 2)
    first = archive.open()
    archive.grow(pairs[20:25])
    archive.open(first)
    archive.grow(pairs[25:30])
    assert [len(segment) for segment in archive.open().segments] == [30]
    lost = pairs[3].meta.patch_id
    open_table(archive.codes).delete(f"patch_id = '{lost}'")
    after = archive.open()
    assert [len(segment) for segment in after.segments] == [29]
    assert lost not in content(after)
    archive.grow(pairs[30:35])  # codes of the lost patch come back in a fragment of its own
    assert [len(segment) for segment in archive.open().segments] == [35]


def spoil_metadata(path):
    data = bytearray((path / "metadata.arrow").read_bytes())
    place = data.find(b"Portugal") if b"Portugal" in data else len(data) // 2
    data[place] ^= 1
    (path / "metadata.arrow").write_bytes(data)


def spoil_codes(path):
    data = bytearray((path / "codes-s2.bin").read_bytes())
    data[3] ^= 1
    (path / "codes-s2.bin").write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_codes,
        spoil_metadata,
        lambda path: (path / "place.bin").unlink(),
        lambda path: (path / "metadata.arrow").write_bytes((path / "metadata.arrow").read_bytes()[:-9]),
        lambda path: (path / "manifest.json").write_text("{"),
        lambda path: (path / "manifest.json").write_text(
            json.dumps({**json.loads((path / "manifest.json").read_text()), "format": 0})
        ),
    ],
    ids=["flipped bit", "flipped bit of the metadata", "missing file", "cut off", "no manifest", "older format"],
)
def test_a_damaged_copy_is_filled_again_and_named(archive, spoil):
    before = content(archive.open())
    spoil(archive.segments()[0])
    with capture_logs() as log:
        again = archive.open()
    assert content(again) == before
    assert "damaged local cache of the index is filled again" in [entry["event"] for entry in log]


def test_the_copy_of_another_version_is_not_taken(archive, pairs):
    archive.open()
    (old,) = archive.cache.folder.glob("*.index.json")
    archive.grow(pairs[20:25])
    assert len(archive.open()) == 25
    (new,) = set(archive.cache.folder.glob("*.index.json")) - {old}
    new.write_bytes(old.read_bytes())
    with capture_logs() as log:
        assert len(archive.open()) == 25
    assert "damaged description in the local cache of the index" in [entry["event"] for entry in log]


def test_a_large_index_is_sorted_in_parts(archive, pairs, tmp_path, monkeypatch):
    whole = archive.open()
    monkeypatch.setattr(fill, "PART_ROWS", 6)
    monkeypatch.setattr(fill, "_SCAN", 3)
    parts = archive.open(cache=IndexCache(tmp_path / "parts"))
    assert len(list(parts.segments[0].ids())) == 4
    assert content(parts) == content(whole)
    assert list(content(parts)) == sorted(content(parts))
    assert not [path for path in (tmp_path / "parts").iterdir() if "partial" in path.name]


def test_damaged_codes_are_refused_in_parts_too(archive, tmp_path, monkeypatch):
    from tests.index.conftest import flip_a_bit

    flip_a_bit(archive.codes)
    monkeypatch.setattr(fill, "PART_ROWS", 6)
    with pytest.raises(DataRefused, match="1 of 40 codes differ from their checksums"):
        archive.open()
    assert [path.name for path in archive.cache.folder.iterdir()] == ["lock"], "nothing half written stays"


def test_the_least_recently_used_index_makes_room(tmp_path, pairs):
    archives = [Archive(tmp_path / name, pairs, 10) for name in ("a", "b", "c")]
    each = folder.BYTES_PER_SEGMENT + 10 * (folder.BYTES_PER_PATCH + 4)
    cache = IndexCache(tmp_path / "cache", limit=3 * each // 2)
    names = []
    for archive in archives:
        names.append(archive.open(cache=cache).segments[0].id)
    assert names[0] not in {path.name for path in cache.folder.iterdir()}
    held = {path.name for path in cache.folder.iterdir() if path.is_dir()}
    assert held == set(names[1:])
    archives[1].open(cache=cache)
    archives[0].open(cache=cache)
    assert {path.name for path in cache.folder.iterdir() if path.is_dir()} == {names[0], names[1]}, "used last"
    assert sum(file.stat().st_size for file in cache.folder.glob("*/*")) <= 3 * each // 2


def test_too_small_a_bound_and_a_full_disk_are_named(archive, tmp_path, monkeypatch):
    with pytest.raises(StoreError, match=r"about 2105232 bytes .* EOFORGE_CACHE_BYTES allows 1000\. .*--engine ivf"):
        archive.open(cache=IndexCache(tmp_path / "small", limit=1000))
    with monkeypatch.context() as patch:
        usage = folder.shutil.disk_usage(tmp_path)._replace(free=5)
        patch.setattr(folder.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(StoreError, match="5 are free on its disk"):
            archive.open()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folder.SegmentWriter, "add", full)
        with pytest.raises(StoreError, match="the disk is full"):
            archive.open()
    assert not archive.segments()
    assert len(archive.open()) == 20


def test_a_folder_that_others_can_write_is_refused(archive, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(StoreError, match="no one else can write"):
        archive.open(cache=IndexCache(shared))
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="must be a folder of this user"):
        archive.open(cache=IndexCache(tmp_path / "link"))
    assert os.stat(archive.open() and archive.cache.folder).st_mode & 0o077 == 0


def metadata_of(rng, rows):
    """Metadata of random patches: some cross the 180th meridian, some lack a sensor, a date or labels."""
    west = rng.uniform(-180, 180, rows)
    south = rng.uniform(-90, 89.9, rows)
    east, north = west + rng.choice([0.01, 0.4, 3.0], rows, p=[0.6, 0.37, 0.03]), south + 0.01
    across = east > 180
    west[across], east[across] = -180.0, 180.0
    some = rng.random(rows) < 0.9
    dates = pa.array(rng.integers(0, 1000, rows) * 1_000_000, mask=~some).cast(pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            "split": rng.choice(["train", "validation", "test"], rows),
            "country": pa.array(rng.choice(["Finland", "Austria", "Kosovo"], rows), mask=rng.random(rows) < 0.1),
            "label_mask": pa.array(rng.integers(0, 1 << 19, rows), pa.uint32(), mask=rng.random(rows) < 0.1),
            "contains_seasonal_snow": rng.random(rows) < 0.2,
            "contains_cloud_or_shadow": rng.random(rows) < 0.2,
            "acquired_s2": dates,
            "acquired_s1": pa.array(np.zeros(rows, np.int64), mask=rng.random(rows) < 0.1).cast(
                pa.timestamp("us", "UTC")
            ),
            "lon_min": west,
            "lat_min": south,
            "lon_max": east,
            "lat_max": north,
        }
    )


def test_narrow_conditions_equal_a_look_at_all_rows(monkeypatch):
    rng = np.random.default_rng(5)
    metadata = metadata_of(rng, 3_000)
    names = {"country": {}, "split": {}}
    arrays = columns_of(metadata, names)
    made = FilterColumns({**arrays, **orders_of(arrays)}, {k: list(v) for k, v in names.items()}, ("s1", "s2"))
    start = metadata.column("acquired_s2").drop_null()[0].as_py().replace(year=1970, month=1, day=1, hour=0, minute=0)
    start = start.replace(second=0)
    narrow = 0
    for number in range(120):
        west, east = rng.uniform(-180, 180, 2).tolist()
        south = float(rng.uniform(-90, 89))
        box = (west, south, west + 1 if number % 2 and west < 179 else east, south + 1)
        moment = start + timedelta(seconds=int(rng.integers(0, 1000)))
        until = moment + timedelta(seconds=20)
        wanted = [
            SearchFilter(bbox=box, splits=("train",)),
            SearchFilter(acquired_from=moment, acquired_until=until, exclude_cloud=True),
            SearchFilter(bbox=box, acquired_from=moment, countries=("Finland",)),
        ][number % 3]
        sensor = (None, "s1", "s2")[number // 3 % 3]
        found = made.allowed(wanted, sensor)
        with monkeypatch.context() as patch:
            patch.setattr(columns, "_NARROW", 1 << 40)
            patch.setattr(columns, "_BLOCK", 700)
            every = made.allowed(wanted, sensor)
        assert every.dtype == np.bool_
        if found.dtype != np.bool_:
            narrow += 1
            assert found.tolist() == np.flatnonzero(every).tolist(), (wanted, sensor)
        else:
            assert found.tolist() == every.tolist()
    assert narrow > 60
    assert made.allowed(None, None) is None


def test_blocks_and_row_numbers_equal_a_stable_sort(monkeypatch):
    monkeypatch.setattr(search, "_BLOCK_ROWS", 64)
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 3, (1_000, 2), dtype=np.uint8)
    index = search.HammingIndex(codes)
    for share in (None, 0.0, 0.02, 0.6):
        mask = None if share is None else rng.random(1_000) < share
        for k in (1, 10, 300):
            expected = brute_force(codes, codes[:4], k, mask)
            for allow in (mask, None if mask is None else np.flatnonzero(mask)):
                found = index.search(codes[:4], k, allow)
                np.testing.assert_array_equal(found[0], expected[0].reshape(found[0].shape))
                np.testing.assert_array_equal(found[1], expected[1].reshape(found[1].shape))
    for wrong in ([3, 3], [5, 4], [-1], [1_000]):
        with pytest.raises(search.UsageError, match="must ascend from 0 to 999"):
            index.search(codes[:1], 1, np.array(wrong))


def test_what_a_killed_process_left_is_removed(archive):
    archive.cache.folder.mkdir(parents=True, mode=0o700)
    left = archive.cache.folder / "tmp1234.partial" / "segment"
    left.mkdir(parents=True)
    (left / "codes-s1.bin").write_bytes(b"half")
    assert len(archive.open()) == 20
    assert [path.name for path in archive.segments()] == [archive.open().segments[0].id]


def test_of_several_openings_at_once_one_fills(archive, monkeypatch):
    filled = []

    def counted(*given):
        filled.append(given)
        return fill.fill(*given)

    monkeypatch.setattr(folder, "fill", counted)
    with ThreadPoolExecutor(3) as threads:
        opened = list(threads.map(lambda _: archive.open(), range(3)))
    assert len(filled) == 1
    assert len({snapshot.segments[0].id for snapshot in opened}) == 1
