"""Tar archives: read from front to back without unpacking, equal to the folder, and safe against hostile members."""

from __future__ import annotations

import os
import tarfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from eoforge.data.archives import tars as archive_tar
from eoforge.data.archives.layout import MAIN_FILE
from eoforge.data.archives.open import open_archive
from eoforge.data.ingest.run import ingest
from eoforge.data.records import Reason, digest
from eoforge.errors import DataRefused, NotFound, StoreError
from eoforge.storage.addresses import join
from eoforge.storage.objects import ObjectStore
from tests.data.archives.archive_files import digests, make_pairs, upload, write_archive
from tests.data.archives.tar_support import pack
from tests.data.ingest.ingest_support import content


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "source", make_pairs())


@pytest.fixture
def expected() -> list[str]:
    return [digest(p) for p in make_pairs()]


@pytest.mark.parametrize("compressed", [False, True], ids=["tar", "zst"])
@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
@pytest.mark.parametrize("shuffle", [False, True], ids=["sorted", "shuffled"])
def test_tars_give_what_the_folder_gives(
    source: Path, tmp_path: Path, expected: list[str], compressed: bool, fmt: int, shuffle: bool
) -> None:
    packed = pack(source, tmp_path / "packed", compressed, fmt, shuffle)
    assert digests(str(packed), str(tmp_path / "scratch")) == expected


@pytest.mark.parametrize("compressed", [False, True], ids=["tar", "zst"])
def test_tars_on_an_object_store_give_the_same(
    source: Path, tmp_path: Path, expected: list[str], s3: str, compressed: bool
) -> None:
    uri = upload(pack(source, tmp_path / "packed", compressed, shuffle=True), join(s3, "archive"))
    assert digests(uri, str(tmp_path / "scratch")) == expected
    kept = {p.name for p in (tmp_path / "scratch").rglob("*") if p.is_file()}
    assert kept == {"index.sqlite", "lock", *(["payload.tar"] if compressed else [])}


@pytest.mark.parametrize("compressed", [False, True], ids=["tar", "zst"])
def test_pods_share_what_the_first_one_staged(
    source: Path, tmp_path: Path, expected: list[str], s3: str, compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = upload(pack(source, tmp_path / "packed", compressed), join(s3, "archive"))
    monkeypatch.setenv(archive_tar.SHARED_VARIABLE, join(s3, "shared"))
    open_archive(uri, scratch=str(tmp_path / "planner")).prepare()
    monkeypatch.setattr(archive_tar, "_build_index", None)  # nobody reads a whole tar again
    assert digests(uri, str(tmp_path / "pod")) == expected
    assert {p.name for p in (tmp_path / "pod").rglob("*") if p.is_file()} == {"index.sqlite", "lock"}
    shared = ObjectStore(join(s3, "shared"))
    assert len(list(shared.list())) == (6 if compressed else 3)
    open_archive(uri, scratch=str(tmp_path / "committer")).release()
    assert list(shared.list()) == []
    replaced = ObjectStore(uri)
    replaced.put("BigEarthNet-S1.tar.zst" if compressed else "BigEarthNet-S1.tar", b"another")
    with pytest.raises(TypeError):  # what was staged is of no use to another file
        digests(uri, str(tmp_path / "later"))


@pytest.mark.parametrize("compressed", [False, True], ids=["tar", "zst"])
def test_an_ingestion_leaves_nothing_unpacked(
    source: Path, tmp_path: Path, expected: list[str], compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, scratch, table = pack(source, tmp_path / "packed", compressed), tmp_path / "scratch", tmp_path / "t.lance"
    monkeypatch.setenv(archive_tar.SCRATCH_VARIABLE, str(scratch))
    assert ingest(str(packed), str(table)).added == len(expected)
    assert sorted(content(str(table)).values()) == sorted(expected)
    left = {p.name for p in scratch.rglob("*") if p.is_file()}
    assert left == ({"lock"} if compressed else {"lock", "index.sqlite"}), "an index of a few megabytes serves again"
    assert ingest(str(packed), str(table)).unchanged == len(expected)


def test_the_real_sample_packed(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "reben-sample-24"
    packed = pack(folder, tmp_path / "packed", compressed=True)
    assert digests(str(packed), str(tmp_path / "scratch")) == digests(str(folder), str(tmp_path))


def test_staging_happens_once_and_makes_few_files(source: Path, tmp_path: Path, expected: list[str]) -> None:
    packed, scratch = pack(source, tmp_path / "packed", compressed=True), tmp_path / "scratch"
    assert digests(str(packed), str(scratch)) == expected
    staged = {p: p.stat().st_mtime_ns for p in scratch.rglob("*") if p.is_file()}
    assert sorted(p.name for p in staged) == sorted(["index.sqlite", "lock", "payload.tar"] * 3)
    assert digests(str(packed), str(scratch)) == expected
    assert {p: t for p, t in staged.items() if p.name != "lock"} == {
        p: p.stat().st_mtime_ns for p in staged if p.name != "lock"
    }


def test_an_uncompressed_tar_is_not_copied(source: Path, tmp_path: Path, expected: list[str]) -> None:
    packed, scratch = pack(source, tmp_path / "packed", compressed=False), tmp_path / "scratch"
    assert digests(str(packed), str(scratch)) == expected
    size = sum(p.stat().st_size for p in scratch.rglob("*") if p.is_file())
    assert size < 0.1 * sum(p.stat().st_size for p in packed.glob("*.tar"))


def test_a_replaced_tar_is_staged_anew(source: Path, tmp_path: Path, expected: list[str]) -> None:
    packed, scratch = pack(source, tmp_path / "packed", compressed=False), str(tmp_path / "scratch")
    assert digests(str(packed), scratch) == expected
    other = write_archive(tmp_path / "other", [*make_pairs()[:-1], make_pairs()[-1]])
    tar = packed / "BigEarthNet-S2.tar"
    repacked = pack(other, tmp_path / "repacked", compressed=False, shuffle=True)
    tar.write_bytes((repacked / tar.name).read_bytes())
    os.utime(tar, ns=(1, 1))
    assert digests(str(packed), scratch) == expected


def test_racing_processes_stage_once(source: Path, tmp_path: Path, expected: list[str]) -> None:
    packed, scratch = pack(source, tmp_path / "packed", compressed=True), str(tmp_path / "scratch")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(digests, [str(packed)] * 2, [scratch] * 2))
    assert found == [expected] * 2


def test_an_interrupted_staging_is_done_again(
    source: Path, tmp_path: Path, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, scratch = pack(source, tmp_path / "packed", compressed=True), str(tmp_path / "scratch")

    def die(path: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            digests(str(packed), scratch)
    assert digests(str(packed), scratch) == expected


def test_missing_members_are_defects_of_their_patch(source: Path, tmp_path: Path) -> None:
    pairs = make_pairs()
    next(source.rglob(f"{pairs[0].meta.patch_id}_B11.tif")).unlink()
    for path in source.rglob(f"{pairs[1].meta.s1_name}_*.tif"):
        path.unlink()
    archive = open_archive(str(pack(source, tmp_path / "packed", compressed=False)), scratch=str(tmp_path / "scratch"))
    reasons = [[d.reason for d in r.defects] for r in archive.read(archive.metadata())]
    assert reasons == [[Reason.MISSING_BAND], [Reason.S1_MISSING], [], [], [], []]


def test_the_maps_may_be_absent_but_not_a_sensor(source: Path, tmp_path: Path) -> None:
    packed = pack(source, tmp_path / "packed", compressed=False)
    (packed / "Reference_Maps.tar").unlink()
    archive = open_archive(str(packed), scratch=str(tmp_path / "scratch"))
    assert all(r.pair is not None and r.pair.reference_map is None for r in archive.read(archive.metadata()))
    (packed / "BigEarthNet-S1.tar").unlink()
    with pytest.raises(NotFound, match=r"BigEarthNet-S1\.tar"):
        open_archive(str(packed))


def test_the_metadata_belongs_beside_the_tars(source: Path, tmp_path: Path) -> None:
    packed = pack(source, tmp_path / "packed", compressed=False)
    (packed / MAIN_FILE).unlink()
    with pytest.raises(DataRefused, match=MAIN_FILE):
        open_archive(str(packed), scratch=str(tmp_path)).metadata()


def test_a_full_scratch_disk_is_said_beforehand(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(source, tmp_path / "packed", compressed=True)
    monkeypatch.setattr(archive_tar.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(StoreError, match=archive_tar.SCRATCH_VARIABLE):
        digests(str(packed), str(tmp_path / "scratch"))


def test_scratch_comes_from_the_environment(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(source, tmp_path / "packed", compressed=False)
    monkeypatch.setenv(archive_tar.SCRATCH_VARIABLE, str(tmp_path / "named"))
    archive = open_archive(str(packed))
    assert len(list(archive.read(archive.metadata()[:1]))) == 1
    assert len(list((tmp_path / "named").iterdir())) == 3
