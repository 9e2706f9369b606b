"""Archives: all kinds give equal pairs; on real data they equal an independent reading."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from safetensors.numpy import save

from eoforge.data.archives.folders import DirectoryArchive
from eoforge.data.archives.layout import MAIN_FILE, SNOW_CLOUD_FILE
from eoforge.data.archives.metadata import MetadataRows
from eoforge.data.archives.open import open_archive
from eoforge.data.bands import GROUPS, S1_BANDS, S2_BANDS
from eoforge.data.names import parse_patch_id
from eoforge.data.records import PatchPair, Reason, digest
from eoforge.errors import DataRefused, NotFound
from tests.data.archives.archive_files import digests, make_pairs, read_all, write_archive, write_metadata


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive", make_pairs())


def write_lmdb(folder: Path, pairs: list[PatchPair], maps: bool = True) -> Path:
    """LMDB in the format of rico-hdl."""
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for pair in pairs:
            bands = {b: a for g in GROUPS for b, a in zip(g.bands, getattr(pair, g.column), strict=True)}
            transaction.put(pair.meta.patch_id.encode(), save({b: bands[b].copy() for b in reversed(S2_BANDS)}))
            transaction.put(pair.meta.s1_name.encode(), save({b: bands[b].copy() for b in reversed(S1_BANDS)}))
            if maps and pair.reference_map is not None:
                key = f"{pair.meta.patch_id}_reference_map"
                transaction.put(key.encode(), save({"Data": pair.reference_map}))
    write_metadata(folder.parent, [p.meta for p in pairs])
    return folder


def test_a_folder_gives_back_what_was_written(archive: Path) -> None:
    assert digests(archive) == [digest(p) for p in make_pairs()]


def test_either_extension(tmp_path: Path, archive: Path) -> None:
    other = write_archive(tmp_path / "other", make_pairs(), extension=".tiff")
    assert digests(other) == digests(archive)


def test_extensions_may_be_mixed(archive: Path) -> None:
    expected = digests(archive)
    for path in list(archive.rglob("*_B0[1-4].tif")) + list(archive.rglob("*_VH.tif")):
        path.rename(path.with_suffix(".tiff"))
    assert digests(archive) == expected


def test_without_maps_and_without_the_snow_and_cloud_file(tmp_path: Path) -> None:
    plain = write_archive(tmp_path / "plain", make_pairs(), maps=False, snow_cloud=False)
    pairs = read_all(plain)
    assert len(pairs) == 4
    assert [p.reference_map for p in pairs] == [None] * 4


def test_lmdb_gives_the_same(tmp_path: Path, archive: Path) -> None:
    folder = write_lmdb(tmp_path / "converted" / "lmdb", make_pairs())
    expected = digests(archive)
    assert digests(folder) == expected
    assert digests(folder / "data.mdb") == expected
    assert digests(folder.parent) == expected
    for name in (MAIN_FILE, SNOW_CLOUD_FILE):
        (folder.parent / name).rename(folder / name)
    assert digests(folder) == expected


def test_a_pipe_or_folder_in_place_of_a_file_does_not_hang(archive: Path) -> None:
    pairs = make_pairs()
    for name, make in ((pairs[0].meta.patch_id, os.mkfifo), (pairs[1].meta.patch_id, os.mkdir)):
        path = next(archive.rglob(f"{name}_B02.tif"))
        path.unlink()
        make(path)
    opened = open_archive(str(archive))
    reasons = [[d.reason for d in r.defects] for r in opened.read(opened.metadata())]
    assert reasons == [[Reason.UNREADABLE], [Reason.UNREADABLE], [], [], [], []]


def test_results_come_in_the_order_asked_for(archive: Path) -> None:
    opened = open_archive(str(archive))
    rows = list(opened.metadata())
    order = [rows[i] for i in (5, 0, 3)]
    assert [r.meta for r in opened.read(order)] == order
    assert list(opened.read([])) == []


def test_metadata_is_sorted_sliced_and_marks_repetitions(archive: Path) -> None:
    rows = open_archive(str(archive)).metadata()
    assert [r.patch_id for r in rows] == sorted(p.meta.patch_id for p in make_pairs())
    assert list(rows[1:3]) == list(rows)[1:3]
    assert list(rows[::-2]) == list(rows)[::-2]
    assert rows[-1] == list(rows)[-1]
    assert list(rows[9:]) == []
    with pytest.raises(IndexError):
        rows[6]
    doubled = MetadataRows.sort(pa.concat_tables([rows.table, rows.table.slice(2, 1)]))
    assert [r.repeated for r in doubled] == [False, False, False, True, False, False, False]
    assert [r.repeated for r in doubled[3:5]] == [True, False]


def test_metadata_problems_say_what_was_expected(archive: Path) -> None:
    path = archive / MAIN_FILE
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["s1_name"]), path)
    with pytest.raises(DataRefused, match="lacks s1_name"):
        open_archive(str(archive)).metadata()
    pq.write_table(table.set_column(3, "split", pa.nulls(len(table), pa.string())), path)
    with pytest.raises(DataRefused, match="empty cells in split"):
        open_archive(str(archive)).metadata()
    pq.write_table(table.set_column(6, "contains_seasonal_snow", pa.array([["x"]] * len(table))), path)
    with pytest.raises(DataRefused, match="types"):
        open_archive(str(archive)).metadata()
    path.write_bytes(b"PAR1")
    with pytest.raises(DataRefused, match="no parquet"):
        open_archive(str(archive)).metadata()
    path.unlink()
    with pytest.raises(DataRefused, match=MAIN_FILE):
        open_archive(str(archive)).metadata()


def test_what_is_no_archive_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        open_archive(str(tmp_path / "nowhere"))
    with pytest.raises(NotFound, match="BigEarthNet-S2"):
        open_archive(str(tmp_path))
    folder = write_lmdb(tmp_path / "converted" / "lmdb", make_pairs()[:1])
    (folder.parent / MAIN_FILE).unlink()
    with pytest.raises(DataRefused, match="labels"):
        open_archive(str(folder)).metadata()


def test_names_cannot_lead_out_of_the_archive(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_archive(str(archive))
    rows = opened.metadata()
    table = rows.table.set_column(0, "patch_id", pa.array(["../../etc/x_26_57"] * len(rows)))
    asked: list[str] = []
    assert isinstance(opened, DirectoryArchive)
    monkeypatch.setattr(opened, "fetch", asked.append)
    results = list(opened.read(MetadataRows.sort(table)[:1]))
    assert [d.reason for d in results[0].defects] == [Reason.BAD_NAME]
    assert asked == []


def _with_rasterio(folder: Path, name: str, bands: tuple[str, ...]) -> np.ndarray:
    stack = []
    for band in bands:
        (path,) = folder.rglob(f"{name}_{band}.tif*")
        with rasterio.open(path) as source:
            stack.append(source.read(1))
    return np.stack(stack)


def test_the_real_sample_equals_an_independent_reading(shared_data: Path) -> None:
    folder = shared_data / "reben-sample-24"
    published = {r["patch_id"]: r for f in (MAIN_FILE, SNOW_CLOUD_FILE) for r in pq.read_table(folder / f).to_pylist()}
    pairs = read_all(folder)
    assert len(pairs) == len(published) == 24
    assert sum(p.meta.contains_seasonal_snow for p in pairs) == 3
    assert sum(p.meta.contains_cloud_or_shadow for p in pairs) == 3
    assert [p.meta.patch_id for p in pairs if p.reference_map is not None] == [
        "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
    ]
    for pair in pairs:
        row = published[pair.meta.patch_id]
        assert pair.meta.labels == tuple(row["labels"])
        assert (pair.meta.split, pair.meta.s1_name, pair.meta.country) == (row["split"], row["s1_name"], row["country"])
        for group in GROUPS:
            name = pair.meta.s1_name if group.column == "s1" else pair.meta.patch_id
            np.testing.assert_array_equal(getattr(pair, group.column), _with_rasterio(folder, name, group.bands))
        place = parse_patch_id(pair.meta.patch_id).footprint
        for path in [*folder.rglob(f"{pair.meta.patch_id}_*.tif"), *folder.rglob(f"{pair.meta.s1_name}_*.tif")]:
            with rasterio.open(path) as source:
                assert source.crs.to_epsg() == place.epsg
                assert (source.transform.c, source.transform.f) == (place.ulx, place.uly)
                assert source.transform.a * source.width == 1200
        if pair.reference_map is not None:
            expected = _with_rasterio(folder / "Reference_Maps", pair.meta.patch_id, ("reference_map",))[0]
            np.testing.assert_array_equal(pair.reference_map, expected)


def test_the_real_lmdb_equals_the_real_folder(shared_data: Path) -> None:
    folder = shared_data / "reben-sample-24"
    from_files = read_all(folder)
    from_lmdb = read_all(folder / "rico-hdl-lmdb")
    for a, b in zip(from_files, from_lmdb, strict=True):
        assert a.meta == b.meta
        for group in GROUPS:
            np.testing.assert_array_equal(getattr(a, group.column), getattr(b, group.column))


def test_real_originals_without_partner_are_reported(shared_data: Path, tmp_path: Path, official: MetadataRows) -> None:
    folder = tmp_path / "originals"
    shutil.copytree(shared_data / "reben-original-files", folder)
    ids = {p.parent.name for p in folder.rglob("*_B02.tif*")}
    partners = {p.parent.name for p in folder.rglob("*_VV.tif*")}
    metas = [m for m in official if m.patch_id in ids or m.s1_name in partners]
    assert len(metas) == 4
    for meta in metas:
        (result,) = open_archive(str(folder)).read([meta])
        assert result.pair is None
        expected = Reason.S1_MISSING if meta.patch_id in ids else Reason.S2_MISSING
        assert [d.reason for d in result.defects] == [expected]
