"""Rows of patches.lance: derived columns, nulls, and a digest that changes with every value."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eoforge.data.bands import GROUPS
from eoforge.data.ingest.shards import Tally, _batches
from eoforge.data.labels import mask_of
from eoforge.data.records import PatchPair, ReadResult, digest, record_batch
from eoforge.data.tables import schema
from tests.data.archives.archive_files import make_pair, make_pairs


def test_a_batch_holds_the_pairs() -> None:
    pairs = make_pairs()
    pairs[1] = replace(pairs[1], reference_map=None)
    batch = record_batch(pairs)
    batch.validate(full=True)
    assert batch.schema.equals(schema.PATCHES, check_metadata=True)
    for group in GROUPS:
        values, valid = schema.tensor_column(batch[group.column])
        assert valid.all()
        np.testing.assert_array_equal(values, np.stack([getattr(p, group.column) for p in pairs]))
    maps, valid = schema.tensor_column(batch["reference_map"])
    assert valid.tolist() == [True, False, True, True, True, True]
    assert not maps[1].any()
    np.testing.assert_array_equal(maps[2], pairs[2].reference_map)
    for row, pair in zip(batch.select(list(schema.METADATA_COLUMNS)).to_pylist(), pairs, strict=True):
        for name in ("patch_id", "s1_name", "s2v1_name", "split", "country", "contains_seasonal_snow"):
            assert row[name] == getattr(pair.meta, name)
        assert tuple(row["labels"]) == pair.meta.labels
        assert row["label_mask"] == mask_of(pair.meta.labels)
    assert batch["digest"].to_pylist() == [digest(p) for p in pairs]


def test_derived_columns() -> None:
    row = record_batch([make_pair(26, 57)]).to_pylist()[0]
    assert row["acquired_s2"] == datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)
    assert row["acquired_s1"] == datetime(2017, 6, 12, 16, 58, 9, tzinfo=UTC)
    assert (row["mgrs_tile"], row["epsg"], row["ulx"], row["uly"]) == ("33UUP", 32633, 331_200, 5_331_600)
    assert row["lon_min"] == pytest.approx(12.732, abs=1e-3)
    assert row["lat_max"] == pytest.approx(48.1156, abs=1e-3)


def test_a_batch_of_nothing() -> None:
    batch = record_batch([])
    batch.validate(full=True)
    assert batch.num_rows == 0
    assert batch.schema == schema.PATCHES


def test_batches_do_not_share_memory() -> None:
    first = record_batch([make_pair(1, 1)])
    kept = schema.tensor_column(first["s1"])[0].copy()
    del first
    again = record_batch([make_pair(1, 1)])
    for x in range(5):
        record_batch([make_pair(x, 2)])
    np.testing.assert_array_equal(schema.tensor_column(again["s1"])[0], kept)


def _bump(pair: PatchPair, column: str) -> PatchPair:
    array = getattr(pair, column).copy()
    array.flat[-1] += 1
    return replace(pair, **{column: array})


@pytest.mark.parametrize("column", [*(g.column for g in GROUPS), "reference_map"])
def test_the_digest_sees_a_pixel(column: str) -> None:
    assert digest(_bump(make_pair(1, 1), column)) != digest(make_pair(1, 1))


@pytest.mark.parametrize(
    "change", [{"split": "test"}, {"country": "Kosovo"}, {"labels": ("Pastures",)}, {"contains_cloud_or_shadow": True}]
)
def test_the_digest_sees_the_metadata(change: dict[str, Any]) -> None:
    pair = make_pair(1, 1)
    assert digest(replace(pair, meta=replace(pair.meta, **change))) != digest(pair)


def test_the_digest_ignores_how_a_pair_is_held() -> None:
    pair = make_pair(1, 1)
    assert pair.reference_map is not None
    assert re.fullmatch("b3-[0-9a-f]{32}", digest(pair))
    assert digest(replace(pair, reference_map=None)) != digest(pair)
    assert digest(replace(pair, reference_map=np.zeros((120, 120), np.uint16))) != digest(
        replace(pair, reference_map=None)
    )
    other = replace(
        pair,
        meta=replace(pair.meta, labels=pair.meta.labels[::-1]),
        s1=np.asfortranarray(pair.s1),
        s2_10m=pair.s2_10m.astype(">u2"),
    )
    assert digest(other) == digest(pair)


def test_digests_of_older_versions_are_recognised() -> None:
    """Rows with SHA-256 stay as they are when the same archive comes again."""
    pair, old = make_pair(1, 1), "e797fcd8eacad8525e84514ce174abca"
    assert digest(pair, like=old) == old
    assert digest(_bump(pair, "s1"), like=old) != old
    tally = Tally()
    results = [ReadResult(p.meta, p) for p in (pair, _bump(pair, "s1"))]
    known = {pair.meta.patch_id: old}
    assert sum(len(batch) for batch in _batches(results, known, tally)) == 1
    assert (tally.unchanged, tally.written) == (1, 1)


def test_null_rows_do_not_shift_the_others() -> None:
    pairs = [replace(make_pair(x, 3), reference_map=None) if x % 2 else make_pair(x, 3) for x in range(6)]
    table = pa.Table.from_batches([record_batch(pairs).slice(1, 4)])
    maps, valid = schema.tensor_column(table["reference_map"])
    assert valid.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(maps[3], pairs[4].reference_map)
