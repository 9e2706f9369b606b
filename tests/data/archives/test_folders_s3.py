"""Archives below an object store's prefix: the same pairs and the same findings as from a folder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from eoforge.data.archives.base import FileArchive
from eoforge.data.archives.folders import S3Archive
from eoforge.data.archives.layout import MAIN_FILE
from eoforge.data.archives.open import open_archive
from eoforge.data.records import Reason
from eoforge.errors import DataRefused, NotFound
from eoforge.storage.objects import ObjectStore
from tests.data.archives.archive_files import digests, make_pairs, upload, write_archive, write_metadata


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive", make_pairs())


@pytest.mark.s3
def test_an_s3_prefix_gives_the_same(archive: Path, s3: str) -> None:
    assert isinstance(open_archive(upload(archive, s3)), S3Archive)
    assert digests(s3) == digests(archive)


@pytest.mark.s3
def test_an_s3_prefix_without_folders_or_both_tars_is_no_archive(archive: Path, s3: str) -> None:
    """Otherwise half a million patches would go to quarantine as missing."""
    store = ObjectStore(s3)
    store.put(MAIN_FILE, (archive / MAIN_FILE).read_bytes())
    with pytest.raises(NotFound, match="nothing is there"):
        open_archive(s3 + "-empty")
    with pytest.raises(DataRefused, match=r"found 1 files: 1 \.parquet; expected the prefixes"):
        open_archive(s3)
    store.put("BigEarthNet-S2.tar", b"")
    with pytest.raises(NotFound, match=r"expected BigEarthNet-S1\.tar"):
        open_archive(s3)


@pytest.mark.s3
def test_an_s3_prefix_reports_like_a_folder(archive: Path, s3: str) -> None:
    pairs = make_pairs()
    next(archive.rglob(f"{pairs[0].meta.patch_id}_B02.tif")).write_bytes(b"II*\0")
    shutil.rmtree(next(archive.rglob(pairs[1].meta.s1_name)))
    next(archive.rglob(f"{pairs[2].meta.patch_id}_B8A.tif")).write_bytes(bytes(5_000))
    next(archive.rglob(f"{pairs[3].meta.s1_name}_VV.tif")).rename(archive / "VV.tif")
    upload(archive, s3)

    def found(uri: str) -> list[list[tuple[str, Reason]]]:
        opened = open_archive(uri)
        return [[(d.patch_id, d.reason) for d in r.defects] for r in opened.read(opened.metadata())]

    assert found(s3) == found(str(archive))
    assert [r for defects in found(s3) for _, r in defects] == [
        Reason.UNREADABLE,
        Reason.S1_MISSING,
        Reason.UNREADABLE,
        Reason.MISSING_BAND,
    ]


@pytest.mark.s3
def test_bad_names_ask_an_object_store_for_nothing(archive: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metas = [p.meta for p in make_pairs()]
    bad = [replace(metas[0], patch_id="../x_26_57"), replace(metas[1], s1_name="//..//"), metas[2], metas[2]]
    write_metadata(archive, bad)
    opened = open_archive(upload(archive, s3))
    assert isinstance(opened, S3Archive)
    asked: list[str] = []
    fetch = opened.fetch

    def spy(path: str, *limit: int) -> bytes | None:
        asked.append(path)
        return fetch(path, *limit)

    monkeypatch.setattr(opened, "fetch", spy)
    results = list(opened.read(opened.metadata()))
    assert [[d.reason for d in r.defects] for r in results] == [
        [Reason.BAD_NAME],
        [Reason.BAD_NAME],
        [],
        [Reason.DUPLICATE_ID],
    ]
    names = (metas[2].patch_id, metas[2].s1_name)
    assert all(any(n in path for n in names) for path in asked if "/" in path)


@pytest.mark.s3
def test_files_beyond_the_limit_are_refused_before_they_are_read(archive: Path, s3: str) -> None:
    (archive / "big.tif").write_bytes(bytes(200_000))
    upload(archive, s3)
    for uri in (str(archive), s3):
        opened = open_archive(uri)
        assert isinstance(opened, FileArchive)
        assert opened.fetch("big.tif") == bytes(200_000)
        with pytest.raises(DataRefused, match="200000 bytes; at most 199999"):
            opened.fetch("big.tif", 199_999)
