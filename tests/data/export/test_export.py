"""Exports: read back by other readers, bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import shapely
from rio_cogeo.cogeo import cog_validate

from eoforge.data.bands import GROUPS
from eoforge.data.export.run import export
from eoforge.data.ingest.run import ingest
from eoforge.data.loading.read_pair import read_pairs
from eoforge.data.records import PatchPair, digest, record_batch
from eoforge.data.synthetic.archive import generate_archive, synthetic_cell
from eoforge.data.tables.commit import create_table
from eoforge.data.tables.schema import PATCHES
from eoforge.errors import DataRefused, NotFound, UsageError
from eoforge.geo.footprint import Footprint
from eoforge.storage.addresses import TableRef, open_table

COUNT = 12


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "reben"
    generate_archive(str(folder), COUNT, seed=4)
    return folder


@pytest.fixture(scope="module")
def table(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("table") / "patches.lance")
    ingest(str(archive), uri)
    return uri


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[PatchPair]]:
    """Five patches of one tile as a construction makes them; the last without radar and labels, off the grid."""
    pairs = [synthetic_cell(0, 0, x, y) for x, y in ((3, 5), (4, 5), (4, 7), (3, 6), (10, 5))]
    pairs = [replace(pair, meta=replace(pair.meta, country=None, s2v1_name=None)) for pair in pairs]
    place = pairs[-1].meta.names.footprint
    corner = Footprint(place.epsg, place.ulx + 431, place.uly - 77)
    meta = replace(pairs[-1].meta, s1_name=None, labels=None, corner=corner)
    pairs[-1] = replace(pairs[-1], meta=meta, s1=None, reference_map=None)
    pairs.sort(key=lambda pair: pair.meta.patch_id)
    uri = str(tmp_path_factory.mktemp("built") / "patches.lance")
    create_table(uri, PATCHES).insert(record_batch(pairs))
    return uri, pairs


def files(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*.tif")):
        yield str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()


def digests(uri: str) -> dict[str, str]:
    rows = open_table(uri).to_table(columns=["patch_id", "digest"]).to_pylist()
    return {row["patch_id"]: row["digest"] for row in rows}


def test_the_official_layout_comes_back_byte_for_byte(table: str, archive: Path, tmp_path: Path) -> None:
    done = export(TableRef(table), str(tmp_path / "out"), "reben")
    assert (done.patches, done.without_radar, done.unlabelled) == (COUNT, 0, 0)
    assert dict(files(tmp_path / "out")) == dict(files(archive))
    for name in ("metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet"):
        assert pq.read_table(tmp_path / "out" / name).to_pylist() == pq.read_table(archive / name).to_pylist()
    ingest(str(tmp_path / "out"), str(tmp_path / "again.lance"))
    assert digests(str(tmp_path / "again.lance")) == digests(table)


def test_an_lmdb_comes_back_bit_for_bit(table: str, tmp_path: Path) -> None:
    import lmdb
    from safetensors.numpy import load

    export(TableRef(table), str(tmp_path / "out"), "lmdb")
    ingest(str(tmp_path / "out"), str(tmp_path / "again.lance"))
    assert digests(str(tmp_path / "again.lance")) == digests(table)
    pair = next(read_pairs(table))
    with lmdb.open(str(tmp_path / "out"), readonly=True, lock=False) as base, base.begin() as transaction:
        assert transaction.stat()["entries"] == 3 * COUNT
        optical = load(transaction.get(pair.meta.patch_id.encode()))
        radar = load(transaction.get(pair.meta.radar_name.encode()))
    assert set(optical) == {band for group in GROUPS[:3] for band in group.bands}
    np.testing.assert_array_equal(optical["B8A"], pair.s2_20m[3])  # type: ignore[index]
    np.testing.assert_array_equal(radar["VH"], pair.s1[1])  # type: ignore[index]


def test_new_patches_keep_their_nulls_in_the_official_layout(
    built: tuple[str, list[PatchPair]], tmp_path: Path
) -> None:
    uri, pairs = built
    done = export(TableRef(uri), str(tmp_path / "out"), "reben")
    assert (done.without_radar, done.unlabelled) == (1, 1)
    rows = {row["patch_id"]: row for row in pq.read_table(tmp_path / "out" / "metadata.parquet").to_pylist()}
    assert {row["country"] for row in rows.values()} == {None}
    with pytest.raises(DataRefused, match="empty cells in s1_name"):
        ingest(str(tmp_path / "out"), str(tmp_path / "again.lance"))

    complete = tmp_path / "complete.lance"
    create_table(str(complete), PATCHES).insert(record_batch(pairs[:-1]))
    export(TableRef(str(complete)), str(tmp_path / "pairs"), "reben")
    ingest(str(tmp_path / "pairs"), str(tmp_path / "again.lance"))
    assert digests(str(tmp_path / "again.lance")) == {p.meta.patch_id: digest(p) for p in pairs[:-1]}


@pytest.mark.parametrize("form", ["reben", "lmdb"])
@pytest.mark.parametrize("baseline", ["N0511", "N9999"])
def test_patches_of_products_with_an_offset_are_taken_again(
    built: tuple[str, list[PatchPair]], tmp_path: Path, form: str, baseline: str
) -> None:
    """Tables hold no offset; files of such a product that name none are refused."""
    pairs = []
    for pair in built[1][:2]:
        name = pair.meta.patch_id.replace("N9999", baseline).replace(pair.meta.patch_id[11:15], "2023")
        pairs.append(replace(pair, meta=replace(pair.meta, patch_id=name)))
    table, out, again = tmp_path / "new.lance", tmp_path / "out", tmp_path / "again.lance"
    create_table(str(table), PATCHES).insert(record_batch(pairs))
    export(TableRef(str(table)), str(out), form)
    done = ingest(str(out), str(again))
    assert (done.patches_in, done.quarantined) == (2, 0)
    assert digests(str(again)) == {p.meta.patch_id: digest(p) for p in pairs}
    for path in out.glob("BigEarthNet-S2/*/*/*.tif"):
        with rasterio.open(path) as source:
            assert source.tags()["BOA_ADD_OFFSET"] == "0"
            assert source.nodata == 0
    assert not any(b"BOA" in path.read_bytes() for path in out.glob("BigEarthNet-S1/*/*/*.tif"))


def test_every_cog_is_one_and_lies_where_its_patch_does(built: tuple[str, list[PatchPair]], tmp_path: Path) -> None:
    uri, pairs = built
    export(TableRef(uri), str(tmp_path / "out"), "cog")
    for pair in (pairs[0], pairs[-1]):
        place = pair.meta.names.footprint
        (folder,) = (tmp_path / "out").glob(f"*/{pair.meta.patch_id}")
        found = {path.stem.removeprefix(f"{pair.meta.patch_id}_"): path for path in folder.iterdir()}
        assert set(found) == {g.column for g in GROUPS[:3]} | (
            {"s1", "reference_map"} if pair.s1 is not None else set()
        )
        for column, path in found.items():
            valid, errors, _ = cog_validate(path, quiet=True)
            assert valid, errors
            with rasterio.open(path) as source:
                assert source.crs.to_epsg() == place.epsg
                assert (source.transform.c, source.transform.f) == (place.ulx, place.uly)
                wanted = getattr(pair, column)
                np.testing.assert_array_equal(source.read(), wanted if wanted.ndim == 3 else wanted[None])
                if column == "s2_20m":
                    assert source.descriptions == GROUPS[1].bands


def test_mosaics_hold_every_patch_at_its_place(built: tuple[str, list[PatchPair]], tmp_path: Path) -> None:
    uri, pairs = built
    export(TableRef(uri), str(tmp_path / "out"), "cog", mosaic=True)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    tile = pairs[0].meta.patch_id[:-6]
    assert names == sorted(
        [f"{tile}_{column}.tif" for column in ("s2_10m", "s2_20m", "s2_60m", "s1", "reference_map")]
        + [f"{tile}_1_{column}.tif" for column in ("s2_10m", "s2_20m", "s2_60m")]
    )
    with rasterio.open(tmp_path / "out" / f"{tile}_s1.tif") as source:
        assert source.shape == (360, 240)
        radar = source.read()
    with rasterio.open(tmp_path / "out" / f"{tile}_s2_20m.tif") as source:
        optical = source.read()
    covered = np.zeros((3, 2), dtype=bool)
    for pair in pairs[:-1]:
        x, y = pair.meta.names.patch.x - 3, pair.meta.names.patch.y - 5
        covered[y, x] = True
        np.testing.assert_array_equal(radar[:, y * 120 : (y + 1) * 120, x * 120 : (x + 1) * 120], pair.s1)
        np.testing.assert_array_equal(optical[:, y * 60 : (y + 1) * 60, x * 60 : (x + 1) * 60], pair.s2_20m)
    for y, x in np.argwhere(~covered):
        assert np.isnan(radar[:, y * 120 : (y + 1) * 120, x * 120 : (x + 1) * 120]).all()
        assert not optical[:, y * 60 : (y + 1) * 60, x * 60 : (x + 1) * 60].any()


def test_geoparquet_is_read_by_geopandas(built: tuple[str, list[PatchPair]], tmp_path: Path) -> None:
    import geopandas

    uri, pairs = built
    export(TableRef(uri), str(tmp_path / "patches.parquet"), "geoparquet")
    frame = geopandas.read_parquet(tmp_path / "patches.parquet")
    assert frame.crs.to_epsg() == 4326 or frame.crs.to_string() == "OGC:CRS84"
    assert frame["patch_id"].tolist() == [pair.meta.patch_id for pair in pairs]
    assert frame["labels"].iloc[-1] is None
    squares = frame.geometry.to_crs(pairs[0].meta.names.footprint.epsg)
    for pair, square in zip(pairs, squares, strict=True):
        place = pair.meta.names.footprint
        corners = shapely.box(place.ulx, place.uly - 1200, place.ulx + 1200, place.uly)
        assert square.symmetric_difference(corners).area < 1


def test_a_stac_collection_is_read_by_pystac_and_as_parquet(built: tuple[str, list[PatchPair]], tmp_path: Path) -> None:
    import stac_geoparquet

    uri, pairs = built
    export(TableRef(uri), str(tmp_path / "tiles"), "stac")
    collection = pystac.Collection.from_file(str(tmp_path / "tiles" / "collection.json"))
    items = {item.id: item for item in collection.get_items()}
    assert set(items) == {pair.meta.patch_id for pair in pairs}
    for pair in pairs:
        item = items[pair.meta.patch_id]
        assert item.datetime == pair.meta.names.patch.tile.acquired
        for name, asset in item.assets.items():
            with rasterio.open(str(asset.get_absolute_href())) as source:
                assert source.count == (1 if name == "reference_map" else len(getattr(pair, name)))
        assert ("s1" in item.assets) == (pair.s1 is not None)
    rows = pq.read_table(tmp_path / "tiles" / "items.parquet")
    found = list(stac_geoparquet.arrow.stac_table_to_items(rows))
    assert {item["id"] for item in found} == set(items)
    json.dumps(collection.to_dict())


def test_bad_calls_leave_nothing(table: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="format must be one of"):
        export(TableRef(table), str(tmp_path / "x"), "shapefile")
    with pytest.raises(UsageError, match="mosaics"):
        export(TableRef(table), str(tmp_path / "x"), "reben", mosaic=True)
    with pytest.raises(UsageError, match="local path"):
        export(TableRef(table), "s3://bucket/x", "reben")
    with pytest.raises(NotFound):
        export(TableRef(str(tmp_path / "absent.lance")), str(tmp_path / "x"), "reben")
    create_table(str(tmp_path / "empty.lance"), PATCHES)
    with pytest.raises(DataRefused, match="no patches"):
        export(TableRef(str(tmp_path / "empty.lance")), str(tmp_path / "x"), "reben")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UsageError, match="exists already"):
        export(TableRef(table), str(tmp_path / "file"), "geoparquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.lance", "file"]


def test_a_failed_export_leaves_nothing(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(uri: object) -> Iterator[PatchPair]:
        yield from list(read_pairs(table))[:2]
        raise DataRefused("a damaged table")

    monkeypatch.setattr("eoforge.data.export.run.read_pairs", broken)
    for form in ("reben", "lmdb", "cog", "stac"):
        with pytest.raises(DataRefused):
            export(TableRef(table), str(tmp_path / "out"), form)
        assert list(tmp_path.iterdir()) == []
