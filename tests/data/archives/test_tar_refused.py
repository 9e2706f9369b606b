"""Tar archives that are truncated, damaged or hostile: refused as a whole."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from eoforge.data.archives import tar_source
from eoforge.data.archives.layout import MAX_FILE_BYTES
from eoforge.errors import DataRefused
from eoforge.storage.addresses import join
from tests.data.archives.archive_files import digests, make_pairs, upload, write_archive
from tests.data.archives.tar_support import pack, write_tar


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "source", make_pairs())


def test_a_truncated_tar_on_an_object_store_is_refused(source: Path, tmp_path: Path, s3: str) -> None:
    packed = pack(source, tmp_path / "packed", compressed=False)
    tar = packed / "BigEarthNet-S2.tar"
    tar.write_bytes(tar.read_bytes()[:100_000])
    with pytest.raises(DataRefused, match=r"BigEarthNet-S2\.tar"):
        digests(upload(packed, join(s3, "archive")), str(tmp_path / "scratch"))


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


def zstd_frame(window: int, data: bytes) -> bytes:
    """Zstandard frame of raw bytes with a window of a power of two, as of ``zstd --long``."""
    header = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(window.bit_length() - 11) << 3])
    return header + (len(data) << 3 | 1).to_bytes(3, "little") + data


def test_a_long_window_is_no_damage(source: Path, tmp_path: Path) -> None:
    packed = pack(source, tmp_path / "packed", compressed=True)
    head = (source / "metadata.parquet").read_bytes()[:1000]
    (packed / "BigEarthNet-S2.tar.zst").write_bytes(zstd_frame(1 << 31, head))
    with pytest.raises(DataRefused, match=r"beyond the limit of 128 MiB\..* --long") as refused:
        digests(str(packed), str(tmp_path / "scratch"))
    assert "damaged" not in str(refused.value)
    assert not list((tmp_path / "scratch").rglob("payload.tar"))


def test_a_tar_that_inflates_does_not_fill_the_disk(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack(source, tmp_path / "packed", compressed=True)
    limit = 1 << 24
    monkeypatch.setattr(tar_source, "_MIN_UNPACKED_BYTES", limit)
    members = b"".join(_member(f"BigEarthNet-S2/{i}_B02.tif", 1 << 22).tobuf() + bytes(1 << 22) for i in range(12))
    write_tar(packed, "BigEarthNet-S2", members + bytes(1024), compressed=True)
    with pytest.raises(DataRefused, match=f"unpacks to more than {limit} bytes, beyond the limit"):
        digests(str(packed), str(tmp_path / "scratch"))
    assert sum(p.stat().st_size for p in (tmp_path / "scratch").rglob("*") if p.is_file()) < 1 << 20


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


@pytest.mark.timeout(60)
@pytest.mark.parametrize("size", ["-512", "-1536", "-2048"])
def test_headers_that_lead_backwards_are_refused(source: Path, tmp_path: Path, size: str) -> None:
    """An extended header with a negative size made the reader meet one header for ever, or one member twice."""
    packed = pack(source, tmp_path / "packed", compressed=False)
    first = _member("BigEarthNet-S2/a_B02.tif", 0)
    second = _member("BigEarthNet-S2/b_B02.tif", 0, pax_headers={"size": size})
    data = first.tobuf() + second.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    write_tar(packed, "BigEarthNet-S2", data, compressed=False)
    with pytest.raises(DataRefused):
        digests(str(packed), str(tmp_path / "scratch"))


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
