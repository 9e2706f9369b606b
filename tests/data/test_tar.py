"""Tar archives: read from front to back without unpacking, equal to the folder, and immune to hostile members."""

from __future__ import annotations

import io
import os
import random
import tarfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import zstandard

from eoforge.data import archive_tar
from eoforge.data.ingest import ingest
from eoforge.data.metadata import MAIN_FILE
from eoforge.data.reben import MAX_FILE_BYTES, open_archive
from eoforge.data.records import Reason, digest
from eoforge.data.store import ObjectStore, join
from eoforge.errors import DataRefused, NotFound, StoreError
from tests.data.archives import make_pairs, write_archive
from tests.data.ingest_support import content

KINDS = ("BigEarthNet-S2", "BigEarthNet-S1", "Reference_Maps")


def pack(source: Path, target: Path, compressed: bool, fmt: int = tarfile.GNU_FORMAT, shuffle: bool = False) -> Path:
    """The folders of an archive as tar files, with the metadata beside them."""
    target.mkdir(parents=True)
    for path in source.glob("*.parquet"):
        (target / path.name).write_bytes(path.read_bytes())
    for kind in KINDS:
        paths = sorted(p for p in (source / kind).rglob("*") if p.is_file() or not shuffle)
        if shuffle:
            random.Random(3).shuffle(paths)
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", format=fmt) as tar:
            for path in paths:
                tar.add(path, path.relative_to(source).as_posix(), recursive=False)
        write_tar(target, kind, data.getvalue(), compressed)
    return target


def write_tar(target: Path, kind: str, data: bytes, compressed: bool) -> None:
    if compressed:
        (target / f"{kind}.tar.zst").write_bytes(zstandard.ZstdCompressor(level=6).compress(data))
    else:
        (target / f"{kind}.tar").write_bytes(data)


def digests(uri: str, scratch: str) -> list[str]:
    archive = open_archive(uri, scratch=scratch)
    results = list(archive.read(archive.metadata()))
    assert [r.defects for r in results if r.defects] == []
    return [digest(r.pair) for r in results if r.pair is not None]


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


def upload(folder: Path, uri: str) -> str:
    store = ObjectStore(uri)
    for path in folder.iterdir():
        store.put_file(path.name, path)
    return uri


@pytest.mark.parametrize("compressed", [False, True], ids=["tar", "zst"])
def test_tars_on_an_object_store_give_the_same(
    source: Path, tmp_path: Path, expected: list[str], s3: str, compressed: bool
) -> None:
    uri = upload(pack(source, tmp_path / "packed", compressed, shuffle=True), join(s3, "archive"))
    assert digests(uri, str(tmp_path / "scratch")) == expected
    kept = {p.name for p in (tmp_path / "scratch").rglob("*") if p.is_file()}
    assert kept == {"index.sqlite", "lock", *(["payload.tar"] if compressed else [])}


def test_a_truncated_tar_on_an_object_store_is_refused(source: Path, tmp_path: Path, s3: str) -> None:
    packed = pack(source, tmp_path / "packed", compressed=False)
    tar = packed / "BigEarthNet-S2.tar"
    tar.write_bytes(tar.read_bytes()[:100_000])
    with pytest.raises(DataRefused, match=r"BigEarthNet-S2\.tar"):
        digests(upload(packed, join(s3, "archive")), str(tmp_path / "scratch"))


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
    with pytest.raises(NotFound, match=MAIN_FILE):
        open_archive(str(packed), scratch=str(tmp_path)).metadata()


@pytest.mark.parametrize("compressed", [False, True], ids=["tar", "zst"])
@pytest.mark.parametrize("kept", [0, 100, 512, 0.3, 0.7, -1100, -600])
def test_truncated_tars_are_refused(source: Path, tmp_path: Path, compressed: bool, kept: float) -> None:
    packed = pack(source, tmp_path / "packed", compressed)
    path = next(packed.glob("BigEarthNet-S2.tar*"))
    data = path.read_bytes()
    if not compressed:
        # Python pads a tar with zero blocks to 10 kB: cut from the true end.
        end = -(-len(data.rstrip(b"\0")) // 512) * 512
        data = data[:end] + bytes(1024)
    path.write_bytes(data[: int(len(data) * kept) if 0 < kept < 1 else int(kept)])
    with pytest.raises(DataRefused, match=r"BigEarthNet-S2\.tar"):
        digests(str(packed), str(tmp_path / "scratch"))
    assert not list((tmp_path / "scratch").rglob("index.sqlite"))


def test_damaged_headers_are_refused(source: Path, tmp_path: Path) -> None:
    packed = pack(source, tmp_path / "packed", compressed=False)
    tar = packed / "BigEarthNet-S1.tar"
    data = bytearray(tar.read_bytes())
    # 257 bytes into a header stands "ustar", 148 bytes into it the checksum.
    header = data.index(b"ustar", len(data) // 2) - 257
    data[header + 148 : header + 154] = b"777777"
    tar.write_bytes(data)
    with pytest.raises(DataRefused, match=r"BigEarthNet-S1\.tar"):
        digests(str(packed), str(tmp_path / "scratch"))


def test_what_is_no_zstandard_is_refused(source: Path, tmp_path: Path) -> None:
    packed = pack(source, tmp_path / "packed", compressed=True)
    (packed / "BigEarthNet-S2.tar.zst").write_bytes(b"not compressed at all" * 100)
    with pytest.raises(DataRefused, match="Zstandard"):
        digests(str(packed), str(tmp_path / "scratch"))


def _member(name: str, size: int = 4, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    "member",
    [
        _member("../../../tmp/evil_B02.tif"),
        _member("/etc/evil_B02.tif"),
        _member("BigEarthNet-S2/a/../../../b_B02.tif"),
        _member("BigEarthNet-S2/a_B02.tif", 0, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        _member("BigEarthNet-S2/a_B02.tif", 0, type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        _member("BigEarthNet-S2/a_B02.tif", 0, type=tarfile.FIFOTYPE),
        _member("BigEarthNet-S2/a_B02.tif", 0, type=tarfile.CHRTYPE),
    ],
    ids=["parent", "absolute", "inside-out", "symlink", "hardlink", "pipe", "device"],
)
@pytest.mark.parametrize("compressed", [False, True], ids=["tar", "zst"])
def test_hostile_members_are_refused(source: Path, tmp_path: Path, member: tarfile.TarInfo, compressed: bool) -> None:
    packed = pack(source, tmp_path / "packed", compressed)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(member, io.BytesIO(b"II*\0"[: member.size]))
    write_tar(packed, "BigEarthNet-S2", data.getvalue(), compressed)
    with pytest.raises(DataRefused, match="member"):
        digests(str(packed), str(tmp_path / "scratch"))
    assert {p.name for p in (tmp_path / "scratch").rglob("*") if p.is_file()} <= {"lock", "index.part", "payload.tar"}


@pytest.mark.parametrize("compressed", [False, True], ids=["tar", "zst"])
def test_claimed_sizes_are_refused_before_they_are_read(source: Path, tmp_path: Path, compressed: bool) -> None:
    packed = pack(source, tmp_path / "packed", compressed)
    bomb = _member("BigEarthNet-S2/a_B02.tif", 1 << 40).tobuf() + bytes(MAX_FILE_BYTES + 1024)
    write_tar(packed, "BigEarthNet-S2", bomb, compressed)
    with pytest.raises(DataRefused, match="claims"):
        digests(str(packed), str(tmp_path / "scratch"))
    header = _member("long", 1 << 40, type=tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT) + bytes(1 << 21)
    write_tar(packed, "BigEarthNet-S2", header, compressed)
    with pytest.raises(DataRefused, match="header claims"):
        digests(str(packed), str(tmp_path / "scratch2"))
    assert sum(p.stat().st_size for p in (tmp_path / "scratch2").rglob("*") if p.is_file()) < 1 << 20


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
