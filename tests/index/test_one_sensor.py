"""Patches of one sensor and without labels: indexed and found by what they have, refused where more is needed."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import lance
import numpy as np
import pyarrow as pa
import pytest

from eoforge.codec.raster import from_pair
from eoforge.data.labels import CLASSES
from eoforge.data.loading.batch import read_rows, require
from eoforge.data.loading.loader import PatchFilter, PatchLoader
from eoforge.data.loading.plot import plot
from eoforge.data.loading.read_pair import read_pair
from eoforge.data.records import PatchPair, digest, record_batch
from eoforge.data.search_filter import SearchFilter
from eoforge.data.tables.commit import create_table
from eoforge.data.tables.schema import PATCHES
from eoforge.data.tables.statistics import band_statistics
from eoforge.errors import DataRefused, NotFound, UsageError
from eoforge.federated.training.data import Images
from eoforge.geo.footprint import Footprint
from eoforge.index.build import build_index, plan_index
from eoforge.index.catalog import IndexSnapshot
from eoforge.storage.addresses import TableRef
from tests.index.conftest import PixelEncoder, expected_code, make_bundle

OPTICAL, RADAR, UNLABELLED = 3, 7, 10


def without_radar(pair: PatchPair) -> PatchPair:
    return replace(pair, meta=replace(pair.meta, s1_name=None), s1=None)


def without_optical(pair: PatchPair) -> PatchPair:
    return replace(pair, s2_10m=None, s2_20m=None, s2_60m=None)


@pytest.fixture(scope="module")
def mixed(pairs: list[PatchPair]) -> list[PatchPair]:
    """Twenty patches: one without radar, one without optical image, one without labels and country, off the grid."""
    chosen = list(pairs[:20])
    chosen[OPTICAL] = without_radar(chosen[OPTICAL])
    chosen[RADAR] = without_optical(chosen[RADAR])
    meta = chosen[UNLABELLED].meta
    place = meta.names.footprint
    corner = Footprint(place.epsg, place.ulx + 431, place.uly - 77)
    chosen[UNLABELLED] = replace(
        chosen[UNLABELLED],
        meta=replace(meta, labels=None, country=None, s2v1_name=None, corner=corner),
        reference_map=None,
    )
    return chosen


@pytest.fixture(scope="module")
def table(mixed: list[PatchPair], tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("mixed") / "patches.lance")
    create_table(uri, PATCHES).insert(record_batch(mixed))
    return uri


def test_rows_come_back_as_they_were(table: str, mixed: list[PatchPair]) -> None:
    for number in (OPTICAL, RADAR, UNLABELLED):
        found = read_pair(table, mixed[number].meta.patch_id)
        assert found.meta == mixed[number].meta
        assert digest(found) == digest(mixed[number])
        assert plot(found) is not None
    digests = {digest(pair) for pair in mixed} | {digest(without_radar(mixed[0])), digest(without_optical(mixed[0]))}
    assert len(digests) == len(mixed) + 2
    assert {"VV", "B02"} <= set(band_statistics(table).bands)


def test_each_patch_is_indexed_and_found_by_the_sensors_that_it_has(
    table: str, mixed: list[PatchPair], tmp_path: pytest.TempPathFactory
) -> None:
    codes = f"{tmp_path}/codes.lance"
    version = lance.dataset(table).version
    bundle = make_bundle(f"{tmp_path}/runs", table, version)
    summary = build_index(bundle.uri, TableRef(table), codes, PixelEncoder(), shard_rows=8)
    assert (summary.patches, summary.added) == (20, 38)
    assert plan_index(bundle.uri, TableRef(table, version), f"{tmp_path}/codes.lance", 9).rows == 0

    snapshot = IndexSnapshot.open(TableRef(codes))
    assert len(snapshot) == 20
    optical, radar = mixed[OPTICAL].meta.patch_id, mixed[RADAR].meta.patch_id
    for pair in mixed:
        for modality in ("s1", "s2"):
            if (pair.meta.patch_id, modality) in ((optical, "s1"), (radar, "s2")):
                with pytest.raises(NotFound, match=f"has no {modality}"):
                    snapshot.code_of(pair.meta.patch_id, modality)
            else:
                np.testing.assert_array_equal(
                    snapshot.code_of(pair.meta.patch_id, modality), expected_code(pair, modality)
                )
    ids = snapshot.metadata()["patch_id"].to_pylist()
    for modality, absent in (("s1", optical), ("s2", radar)):
        _, rows, candidates, *_ = snapshot.search(modality, np.zeros((1, 2), np.uint8), 20)
        assert candidates == 19
        assert {ids[row] for row in rows[0]} == set(ids) - {absent}

    some = snapshot.allow(SearchFilter(labels_any=CLASSES))
    assert set(np.array(ids)[~some]) == {mixed[UNLABELLED].meta.patch_id}
    countries = tuple({pair.meta.country for pair in mixed if pair.meta.country})
    assert snapshot.allow(SearchFilter(countries=countries)).sum() == 19
    dated = snapshot.allow(SearchFilter(acquired_from=datetime(1970, 1, 1, tzinfo=UTC)))
    assert set(np.array(ids)[~dated]) == {radar}


def test_a_code_of_a_sensor_that_a_patch_lost_is_not_found(pairs: list[PatchPair], tmp_path: object) -> None:
    table, codes = f"{tmp_path}/patches.lance", f"{tmp_path}/codes.lance"
    create_table(table, PATCHES).insert(record_batch(pairs[:4]))
    bundle = make_bundle(f"{tmp_path}/runs", table, 2)
    build_index(bundle.uri, TableRef(table), codes, PixelEncoder())
    patches = lance.dataset(table)
    patches.delete(f"patch_id = '{pairs[0].meta.patch_id}'")
    patches.insert(record_batch([without_radar(pairs[0])]))
    build_index(bundle.uri, TableRef(table), codes, PixelEncoder())
    snapshot = IndexSnapshot.open(TableRef(codes))
    with pytest.raises(NotFound, match="has no s1"):
        snapshot.row_of(pairs[0].meta.patch_id, "s1")
    assert snapshot.row_of(pairs[0].meta.patch_id, "s2") >= 0


def test_a_loader_refuses_patches_that_lack_what_it_reads(table: str, mixed: list[PatchPair]) -> None:
    split = mixed[OPTICAL].meta.split
    of_split = PatchFilter(splits=(split,))
    with pytest.raises(DataRefused, match=r"1 of 20 chosen patches have no Sentinel-1 \(s1\)"):
        PatchLoader(table, batch_size=4)
    with pytest.raises(DataRefused, match=r"1 of \d+ chosen patches have no Sentinel-1 \(s1\)"):
        PatchLoader(table, batch_size=4, modalities=("s1",), filter=of_split)
    with pytest.raises(DataRefused, match=r"1 of 20 chosen patches have no Sentinel-2 \(s2\)"):
        PatchLoader(table, batch_size=4, modalities=("s2",))
    names = [p.meta.patch_id for p in mixed]
    rows = np.array([n for n in range(20) if n not in (OPTICAL, RADAR)])
    dataset = lance.dataset(table)
    batch = read_rows(dataset, rows, ("s1", "s2"), reference_map=True)
    assert batch.label_mask[batch.patch_id.index(names[UNLABELLED])] == 0
    with pytest.raises(DataRefused, match=re.escape(f"patch {names[OPTICAL]} has no s1")):
        read_rows(dataset, np.array([0, OPTICAL]), ("s1",), reference_map=False)


def test_what_needs_labels_refuses_patches_without(table: str, mixed: list[PatchPair]) -> None:
    dataset = lance.dataset(table)
    with pytest.raises(DataRefused, match="1 of 20 chosen patches have no labels"):
        require(dataset, None, (), labels=True)
    require(dataset, f"patch_id != '{mixed[UNLABELLED].meta.patch_id}'", (), labels=True)
    with pytest.raises(DataRefused, match="1 of 20 chosen patches have no labels"):
        Images(TableRef(table), {})
    split = mixed[UNLABELLED].meta.split

    with pytest.raises(DataRefused, match="chosen patches have no labels"):
        PatchLoader(table, batch_size=4, filter=PatchFilter(splits=(split,)), labelled=True)


def test_a_codec_gets_the_bands_that_a_patch_has(mixed: list[PatchPair]) -> None:
    assert from_pair(mixed[OPTICAL]).modalities == ("s2",)
    assert from_pair(mixed[RADAR]).modalities == ("s1",)
    with pytest.raises(UsageError):
        from_pair(mixed[OPTICAL], ("s1",))
    corner = mixed[UNLABELLED].meta.corner
    assert corner is not None
    place = from_pair(mixed[UNLABELLED]).georeference
    assert place is not None
    assert (place.transform[2], place.transform[5]) == (corner.ulx, corner.uly)


def test_a_table_of_an_older_version_takes_nulls(pairs: list[PatchPair], tmp_path: object) -> None:
    uri = f"{tmp_path}/old.lance"
    strict = pa.schema([f.with_nullable(f.name == "reference_map") for f in PATCHES])
    batch = record_batch(pairs[:3])
    create_table(uri, strict).insert(pa.RecordBatch.from_arrays(batch.columns, schema=strict))
    table = create_table(uri, PATCHES)
    assert table.schema.equals(PATCHES, check_metadata=True)
    table.insert(record_batch([without_radar(pairs[3])]))
    rows = lance.dataset(uri).to_table()
    assert rows["s1"].null_count == 1
    assert rows["digest"].to_pylist() == [digest(pair) for pair in [*pairs[:3], without_radar(pairs[3])]]
    assert create_table(uri, PATCHES).version == table.version
