"""Validation: every kind of damage to real files has its reason; the other patches are read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import rasterio

from eoforge.data.archives.geotiff import read_geotiff, write_geotiff
from eoforge.data.archives.layout import path_of
from eoforge.data.archives.metadata import MetadataRows
from eoforge.data.archives.offset import without_offset
from eoforge.data.archives.open import open_archive
from eoforge.data.bands import GROUPS
from eoforge.data.labels import UNLABELED_CLC
from eoforge.data.names import scene_of, tile_of
from eoforge.data.records import WARNINGS, Defect, PatchMeta, Reason
from tests.data.archives.archive_files import make_pair, make_pairs, write_archive, write_metadata

VICTIM = 2


def file_of(folder: Path, meta: PatchMeta, band: str) -> Path:
    return folder / (path_of(meta, band) + ".tif")


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray] | None = None, **header: float) -> None:
    """Writes a raster again with other pixels or another georeference."""
    raster = read_geotiff(path.read_bytes())
    pixels = raster.pixels.copy()
    fields = {
        "epsg": raster.epsg,
        "ulx": raster.transform[2],
        "uly": raster.transform[5],
        "resolution": raster.transform[0],
    }
    nodata = None if raster.nodata is None else int(raster.nodata)
    write_geotiff(path, pixels if change is None else change(pixels), **{**fields, **header}, nodata=nodata)  # type: ignore[arg-type]  # mixed numbers


def put(value: float, count: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    """Overwrites ``count`` pixels."""

    def change(pixels: np.ndarray) -> np.ndarray:
        pixels.flat[5 : 5 + count] = value
        return pixels

    return change


Damage = Callable[[Path, PatchMeta], None]
Change = Callable[[np.ndarray], np.ndarray]


def edit(band: str, change: Change | None = None, **header: float) -> tuple[str, Damage]:
    return band, lambda folder, meta: rewrite(file_of(folder, meta, band), change, **header)


def replace_bytes(band: str, change: Callable[[bytes], bytes]) -> tuple[str, Damage]:
    def damage(folder: Path, meta: PatchMeta) -> None:
        path = file_of(folder, meta, band)
        path.write_bytes(change(path.read_bytes()))

    return band, damage


def remove(band: str) -> tuple[str, Damage]:
    return band, lambda folder, meta: file_of(folder, meta, band).unlink()


def remove_folder(band: str) -> tuple[str, Damage]:
    return band, lambda folder, meta: shutil.rmtree(file_of(folder, meta, band).parent)


MAP = "reference_map"
DAMAGES: dict[str, tuple[Reason, str, Damage]] = {
    "band missing": (Reason.MISSING_BAND, *remove("B8A")),
    "VH missing": (Reason.MISSING_BAND, *remove("VH")),
    "wrong shape": (Reason.WRONG_SHAPE, *edit("B05", lambda a: np.repeat(np.repeat(a, 2, 0), 2, 1))),
    "60 m band at 30 x 30": (Reason.WRONG_SHAPE, *edit("B01", lambda a: np.full((30, 30), 7, np.uint16))),
    "S1 truncated to integers": (Reason.WRONG_DTYPE, *edit("VV", lambda a: np.abs(a).astype(np.uint16))),
    "S2 as float": (Reason.WRONG_DTYPE, *edit("B02", lambda a: a.astype(np.float32))),
    "truncated": (Reason.UNREADABLE, *replace_bytes("B03", lambda data: data[:-1])),
    "empty file": (Reason.UNREADABLE, *replace_bytes("VH", lambda data: b"")),
    "no TIFF": (Reason.UNREADABLE, *replace_bytes("B12", lambda data: b"<html>404</html>" * 99)),
    "map unreadable": (Reason.UNREADABLE, *replace_bytes(MAP, lambda data: data[:300])),
    "zero in S2": (Reason.NODATA_S2, *edit("B09", put(0, 3))),
    "NaN in S1": (Reason.NONFINITE_S1, *edit("VV", put(np.nan))),
    "infinity in S1": (Reason.NONFINITE_S1, *edit("VH", put(-np.inf, 2))),
    "other zone": (Reason.CRS_MISMATCH, *edit("B04", epsg=32634)),
    "shifted": (Reason.TRANSFORM_MISMATCH, *edit("B11", ulx=331_220)),
    "shifted map": (Reason.TRANSFORM_MISMATCH, *edit(MAP, uly=0)),
    "shifted S1": (Reason.TRANSFORM_MISMATCH, *edit("VH", uly=5_331_610)),
    "other resolution": (Reason.TRANSFORM_MISMATCH, *edit("B02", resolution=20)),
    "unknown CLC code": (Reason.UNKNOWN_CLC, *edit(MAP, put(113))),
    "nodata in the map": (Reason.UNKNOWN_CLC, *edit(MAP, put(0))),
    "one pixel of another class": (Reason.LABEL_MISMATCH, *edit(MAP, put(421))),
    "a label without a pixel": (Reason.LABEL_MISMATCH, *edit(MAP, put(999, 14_395))),
    "no S1": (Reason.S1_MISSING, *remove_folder("VV")),
    "no S2": (Reason.S2_MISSING, *remove_folder("B01")),
}
METADATA_DAMAGES: dict[str, tuple[Reason, dict[str, object]]] = {
    "unknown label": (Reason.UNKNOWN_LABEL, {"labels": ("Pastures", "Beaches")}),
    "no label": (Reason.UNKNOWN_LABEL, {"labels": ()}),
    "bad patch_id": (Reason.BAD_NAME, {"patch_id": "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_1_1"}),
    "no such tile": (Reason.BAD_NAME, {"patch_id": "S2A_MSIL2A_20170613T101031_N9999_R022_T33UAP_26_57"}),
    "bad s1_name": (Reason.BAD_NAME, {"s1_name": "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_026_57"}),
    "bad v1 name": (Reason.BAD_NAME, {"s2v1_name": "?"}),
    "another cell's S1": (Reason.BAD_NAME, {"s1_name": "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_0_4"}),
}


def findings(folder: Path) -> tuple[list[str], list[Defect]]:
    """Ids that were read, and all defects."""
    archive = open_archive(str(folder))
    results = list(archive.read(archive.metadata()))
    for result in results:
        assert (result.pair is None) == any(d.fatal for d in result.defects)
    return [r.meta.patch_id for r in results if r.pair], [d for r in results for d in r.defects]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive", make_pairs())


def test_a_sound_archive_has_no_findings(folder: Path) -> None:
    ids, defects = findings(folder)
    assert (len(ids), defects) == (6, [])


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files(folder: Path, name: str) -> None:
    reason, band, damage = DAMAGES[name]
    metas = [p.meta for p in make_pairs()]
    damage(folder, metas[VICTIM])
    ids, defects = findings(folder)
    assert ids == [m.patch_id for m in metas if m is not metas[VICTIM]]
    assert [(d.patch_id, d.reason) for d in defects] == [(metas[VICTIM].patch_id, reason)]
    assert defects[0].file == str(file_of(folder, metas[VICTIM], band))
    assert defects[0].detail


@pytest.mark.parametrize("name", METADATA_DAMAGES)
def test_damaged_metadata(folder: Path, name: str) -> None:
    reason, change = METADATA_DAMAGES[name]
    metas = [p.meta for p in make_pairs()]
    for path in folder.rglob(f"{metas[VICTIM].patch_id}_reference_map.tif"):
        path.unlink()
    damaged = replace(metas[VICTIM], **change)  # type: ignore[arg-type]  # fields of several types
    write_metadata(folder, [*metas[:VICTIM], damaged, *metas[VICTIM + 1 :]])
    ids, defects = findings(folder)
    assert sorted(ids) == sorted(m.patch_id for m in metas if m is not metas[VICTIM])
    reasons = {d.reason for d in defects if d.fatal}
    assert reason in reasons
    assert reasons <= {reason, Reason.S1_MISSING, Reason.TRANSFORM_MISMATCH}
    assert all(d.patch_id == damaged.patch_id for d in defects)


def test_a_wrong_split_is_a_warning(folder: Path) -> None:
    metas = [p.meta for p in make_pairs()]
    write_metadata(folder, [replace(metas[0], split="test"), *metas[1:]])
    ids, defects = findings(folder)
    assert len(ids) == 6
    assert [(d.reason, d.fatal) for d in defects] == [(Reason.SPLIT_MISMATCH, False)]
    assert "'train'" in defects[0].detail
    assert {Reason.SPLIT_MISMATCH, Reason.OFFSET_REMOVED} == WARNINGS


def test_a_repeated_id_is_read_once(folder: Path) -> None:
    metas = [p.meta for p in make_pairs()]
    write_metadata(folder, [*metas, replace(metas[1], country="Kosovo"), metas[1]])
    ids, defects = findings(folder)
    assert ids == [m.patch_id for m in metas]
    assert [(d.patch_id, d.reason) for d in defects] == [(metas[1].patch_id, Reason.DUPLICATE_ID)] * 2


def test_an_id_in_both_files_counts_as_repeated(folder: Path) -> None:
    metas = [p.meta for p in make_pairs()]
    write_metadata(folder, [*metas, replace(metas[1], contains_seasonal_snow=True)])
    archive = open_archive(str(folder))
    read = [r for r in archive.read(archive.metadata()) if r.meta.patch_id == metas[1].patch_id]
    assert [r.pair is None for r in read] == [False, True]
    assert not read[0].meta.contains_seasonal_snow


def test_a_patch_is_judged_to_the_end_with_one_entry_per_reason(folder: Path) -> None:
    meta = make_pairs()[VICTIM].meta
    for name in ("band missing", "zero in S2", "truncated", "NaN in S1", "unknown CLC code", "other zone"):
        DAMAGES[name][2](folder, meta)
    rewrite(file_of(folder, meta, "B01"), put(0))
    _, defects = findings(folder)
    assert {d.reason for d in defects} == {
        Reason.MISSING_BAND,
        Reason.NODATA_S2,
        Reason.UNREADABLE,
        Reason.NONFINITE_S1,
        Reason.UNKNOWN_CLC,
        Reason.CRS_MISMATCH,
    }
    assert len(defects) == 6
    (nodata,) = (d for d in defects if d.reason is Reason.NODATA_S2)
    assert "B09: 3 pixels" in nodata.detail
    assert "B01: 1 pixels" in nodata.detail


def product(folder: Path, name: str, **says: Any) -> Path:
    """Archive with one patch whose tile has another name; optical files hold 1,000 more and say so or not."""
    pair = make_pair(3, 3)
    tile, rest = pair.meta.patch_id[:-6], pair.meta.patch_id[-6:]
    assert tile.endswith("N9999_R022_T33UUP")
    meta = replace(pair.meta, patch_id=tile.replace("20170613", name[:8]).replace("N9999", name[8:]) + rest)
    stacks = {g.column: getattr(pair, g.column) + 1000 for g in GROUPS if g.dtype == "uint16"}
    write_archive(folder, [replace(pair, meta=meta, **stacks)])
    for path in (folder / "BigEarthNet-S2").rglob("*.tif"):
        with rasterio.open(path, "r+") as file:
            if "tag" in says:
                file.update_tags(BOA_ADD_OFFSET=says["tag"])
            if "scaling" in says:
                file.scales, file.offsets = [(value,) for value in says["scaling"]]
    return folder


@pytest.mark.parametrize("says", [{"tag": "-1000"}, {"scaling": (1e-4, -0.1)}, {"scaling": (1.0, -1000.0)}], ids=str)
@pytest.mark.parametrize("name", ["20170613N0500", "20230613N9999", "20170613N9999"])
def test_an_offset_that_the_product_names_is_taken_out(name: str, says: dict[str, Any], tmp_path: Path) -> None:
    [result] = (archive := open_archive(str(product(tmp_path / "a", name, **says)))).read(archive.metadata())
    assert result.pair is not None
    original = make_pair(3, 3)
    for group in GROUPS:
        np.testing.assert_array_equal(getattr(result.pair, group.column), getattr(original, group.column))
    [finding] = result.defects
    assert (finding.reason, finding.fatal) == (Reason.OFFSET_REMOVED, False)
    assert finding.detail.startswith("B02: -1000 was applied; B03")


@pytest.mark.parametrize(
    "says", [{}, {"scaling": (2.75e-5, -0.2)}, {"tag": "-1000.5"}, {"tag": "1000"}, {"tag": "much"}], ids=str
)
def test_an_offset_that_is_not_known_is_refused(says: dict[str, Any], tmp_path: Path) -> None:
    ids, defects = findings(product(tmp_path / "a", "20170613N0400", **says))
    assert ids == []
    reason = Reason.UNREADABLE if says == {"tag": "much"} else Reason.OFFSET_UNKNOWN
    assert {d.reason for d in defects} == {reason}
    assert "B02" in defects[0].detail


@pytest.mark.parametrize(
    ("name", "says"), [("20220124N9999", {}), ("20170613N0399", {}), ("20170613N0511", {"tag": "0"})]
)
def test_products_without_an_offset_stay_as_they_are(name: str, says: dict[str, Any], tmp_path: Path) -> None:
    archive = open_archive(str(product(tmp_path / "a", name, **says)))
    [result] = archive.read(archive.metadata())
    assert result.pair is not None
    assert result.defects == []
    np.testing.assert_array_equal(result.pair.s2_10m, make_pair(3, 3).s2_10m + 1000)


def test_reflectance_below_zero_is_no_nodata() -> None:
    pixels = np.array([[0, 1, 999, 1000, 1001, 65_535]], dtype=np.uint16)
    np.testing.assert_array_equal(without_offset(pixels, -1000), [[0, 1, 1, 1, 1, 64_535]])
    np.testing.assert_array_equal(without_offset(pixels, 0), pixels)


def test_unlabelled_codes_are_no_contradiction(tmp_path: Path) -> None:
    pair = make_pair(3, 3)
    assert pair.reference_map is not None
    pair.reference_map.flat[: len(UNLABELED_CLC)] = UNLABELED_CLC
    ids, defects = findings(write_archive(tmp_path / "a", [pair]))
    assert (len(ids), defects) == (1, [])


def test_extreme_but_finite_backscatter_passes(tmp_path: Path) -> None:
    """Large finite values are valid; NaN and infinity are not."""
    pair = make_pair(3, 3)
    pair.s1[0, 0, :20] = 3e38
    ids, defects = findings(write_archive(tmp_path / "a", [pair]))
    assert (len(ids), defects) == (1, [])


def _copy_of_sample(shared_data: Path, target: Path) -> Path:
    shutil.copytree(shared_data / "reben-sample-24", target, ignore=shutil.ignore_patterns("rico-hdl-lmdb"))
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    target.chmod(0o755)
    return target


def test_the_real_sample_with_one_damage_of_each_kind(shared_data: Path, tmp_path: Path) -> None:
    folder = _copy_of_sample(shared_data, tmp_path / "sample")
    rows = list(open_archive(str(folder)).metadata())
    with_map = [r for r in rows if file_of(folder, r, "reference_map").exists()]
    others = [r for r in rows if r not in with_map]
    expected: dict[str, Reason] = {}
    file_damages = [n for n in DAMAGES if DAMAGES[n][1] != "reference_map" and n not in ("other zone", "shifted S1")]
    for meta, name in zip(others, file_damages, strict=False):
        DAMAGES[name][2](folder, meta)
        expected[meta.patch_id] = DAMAGES[name][0]
    spare = others[len(file_damages) :]
    rewrite(file_of(folder, spare[0], "B04"), epsg=32630)
    expected[spare[0].patch_id] = Reason.CRS_MISMATCH
    expected[with_map[0].patch_id] = Reason.LABEL_MISMATCH
    rewrite(file_of(folder, with_map[0], "reference_map"), put(523))
    changed = {spare[1].patch_id: replace(spare[1], labels=("Sea",)), spare[2].patch_id: replace(spare[2], split="val")}
    expected[spare[1].patch_id] = Reason.UNKNOWN_LABEL
    expected[spare[2].patch_id] = Reason.SPLIT_MISMATCH
    write_metadata(folder, [*(changed.get(r.patch_id, r) for r in rows), spare[3]])
    ids, defects = findings(folder)
    assert {d.patch_id: d.reason for d in defects} == {**expected, spare[3].patch_id: Reason.DUPLICATE_ID}
    fatal = {i for i, reason in expected.items() if reason not in WARNINGS}
    assert ids == [r.patch_id for r in rows if r.patch_id not in fatal]
    assert len(ids) >= 24 - len(fatal)


def test_every_reason_is_provoked_here() -> None:
    tested = {reason for reason, *_ in [*DAMAGES.values(), *METADATA_DAMAGES.values()]}
    # UNLABELLED is a rule of the construction: tests/data/tiles/test_rules.py
    elsewhere = {Reason.SPLIT_MISMATCH, Reason.DUPLICATE_ID, Reason.UNLABELLED}
    elsewhere |= {Reason.OFFSET_UNKNOWN, Reason.OFFSET_REMOVED}
    assert tested | elsewhere == set(Reason)


def test_the_official_metadata_is_sound(official: MetadataRows) -> None:
    """Splits and names are covered row by row elsewhere; here that no id repeats and folders follow from names."""
    assert not official.repeated.any()
    assert len(pc.unique(official.table["s1_name"])) == 549_488
    meta = official[0]
    assert path_of(meta, "B02") == f"BigEarthNet-S2/{tile_of(meta.patch_id)}/{meta.patch_id}/{meta.patch_id}_B02"
    assert path_of(meta, "VV") == f"BigEarthNet-S1/{scene_of(meta.s1_name)}/{meta.s1_name}/{meta.s1_name}_VV"
