"""Construction of patches from tiles that were put together from the same patches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eoforge.data.ingest.run import IngestSummary, ingest, ingest_shards, plan_ingest
from eoforge.data.split import SPLITS
from eoforge.data.synthetic.tile import SyntheticTile, write_tile
from eoforge.data.tables.statistics import band_statistics
from eoforge.data.tiles.options import TileOptions
from eoforge.storage.addresses import TableRef, open_table
from tests.data.tiles.support import CELLS, assert_equal, cells, held


def construct(tile: SyntheticTile, table: Path | str, **options: object) -> IngestSummary:
    """Construction with radar and land cover, unless other options are given."""
    known = {"radar": str(tile.radar), "radar_scale": "db", "land_cover": str(tile.land_cover)}
    return ingest(str(tile.product), str(table), tiles=TileOptions(**{**known, **options}))  # type: ignore[arg-type]


def test_patches_of_a_safe_folder_come_back_bit_for_bit(safe: SyntheticTile, tmp_path: Path) -> None:
    summary = construct(safe, tmp_path / "p.lance")
    wanted = cells()
    assert (summary.patches_in, summary.added, summary.quarantined, summary.edges) == (6, 6, 0, 6)
    assert_equal(held(tmp_path / "p.lance"), wanted)
    assert {pair.meta.split for pair in wanted} == set(SPLITS) - {"test"} | {"train"}
    assert construct(safe, tmp_path / "p.lance").unchanged == 6


def test_patches_of_a_folder_of_cogs_come_back_bit_for_bit(cogs: SyntheticTile, tmp_path: Path) -> None:
    construct(cogs, tmp_path / "p.lance", boa_offset=0, country="Austria")
    wanted = [replace(pair, meta=replace(pair.meta, country="Austria")) for pair in cells()]
    assert_equal(held(tmp_path / "p.lance"), wanted)


@pytest.mark.parametrize("listed", [True, False])
def test_an_offset_is_taken_out(listed: bool, tmp_path: Path) -> None:
    tile = write_tile(tmp_path, columns=1, rows=1, first=(12, 22), offset=-1000, baseline=511, listed=listed, fast=True)
    summary = construct(tile, tmp_path / "p.lance", boa_offset=None if listed else -1000)
    assert summary.added == 1
    (found,), (wanted,) = held(tmp_path / "p.lance"), cells(CELLS[:1])
    name = wanted.meta.patch_id.replace("N9999", "N0511")
    assert_equal([found], [replace(wanted, meta=replace(wanted.meta, patch_id=name))])


def test_patches_without_radar_and_labels_have_nulls(safe: SyntheticTile, tmp_path: Path) -> None:
    construct(safe, tmp_path / "p.lance", radar=None, radar_scale=None, land_cover=None)
    wanted = [
        replace(pair, meta=replace(pair.meta, s1_name=None, labels=None), s1=None, reference_map=None)
        for pair in cells()
    ]
    assert_equal(held(tmp_path / "p.lance"), wanted)
    rows = open_table(TableRef(str(tmp_path / "p.lance"))).to_table()
    for column in ("s1_name", "labels", "label_mask", "acquired_s1", "s1", "reference_map"):
        assert rows[column].null_count == len(rows)
    assert "VV" not in band_statistics(str(tmp_path / "p.lance")).bands


def test_shards_give_what_one_gives(safe: SyntheticTile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eoforge.data.tiles.archive.TileArchive.min_shard_rows", 1)
    options = TileOptions(land_cover=str(safe.land_cover))
    plan = plan_ingest(str(safe.product), str(tmp_path / "p.lance"), shard_rows=2, tiles=options)
    assert plan.shards == 6
    assert ingest_shards(plan.table, plan.ingest_id, 3, 1)["rows"] == 1
    done = ingest(str(safe.product), str(tmp_path / "p.lance"), shard_rows=2, tiles=options)
    assert done.ingest_id == plan.ingest_id
    wanted = [replace(p, meta=replace(p.meta, s1_name=None), s1=None) for p in cells()]
    assert_equal(held(tmp_path / "p.lance"), wanted)


def test_tiles_of_the_south_and_of_the_far_north(tmp_path: Path) -> None:
    for mgrs, epsg in (("33KXP", 32733), ("35XMA", 32635)):
        tile = write_tile(tmp_path / mgrs, columns=1, rows=1, first=(12, 22), mgrs=mgrs, fast=True)
        construct(tile, tmp_path / "p.lance")
        rows = open_table(TableRef(str(tmp_path / "p.lance"))).to_table(filter=f"mgrs_tile = '{mgrs}'")
        assert rows["epsg"].to_pylist() == [epsg]
        assert rows["labels"].to_pylist() == [list(cells(CELLS[:1])[0].meta.labels or ())]
        assert rows["s1_name"].to_pylist() == [f"S1B_IW_GRDH_1SDV_20170612T165809_{mgrs}_12_22"]


@pytest.mark.s3
def test_tiles_on_an_object_store(
    safe: SyntheticTile, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eoforge.storage.objects import ObjectStore

    monkeypatch.setenv("EOFORGE_SCRATCH", str(tmp_path))
    store = ObjectStore(f"{s3}/lake")
    for path in safe.product.parent.rglob("*"):
        if path.is_file():
            store.put_file(str(path.relative_to(safe.product.parent)), path)
    root = f"{s3}/lake"
    options = TileOptions(radar=f"{root}/radar", radar_scale="db", land_cover=f"{root}/land_cover.gpkg")
    ingest(f"{root}/{safe.product.name}", str(tmp_path / "p.lance"), tiles=options)
    assert_equal(held(tmp_path / "p.lance"), cells())
    assert not list(tmp_path.glob("eoforge-tiles-*/*/*"))  # the copies are gone after the commit
