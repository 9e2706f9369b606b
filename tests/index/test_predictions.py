"""Tables of predictions: complete, exactly once, resumable, incremental; locally and on S3."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from eoforge.data.labels import CLASSES, mask_of
from eoforge.errors import DataRefused, NotFound, StoreError, UsageError
from eoforge.index.build import build_index
from eoforge.index.prediction_maps import placed_maps
from eoforge.index.predictions import (
    CALIBRATION_KEY,
    CLASSES_KEY,
    commit_predictions,
    plan_predictions,
    predict_shards,
    predict_table,
)
from eoforge.index.predictor import Predicted
from eoforge.storage.addresses import TableRef, join, open_table
from tests.index.conftest import changed, make_bundle, write_patches


class PixelPredictor:
    """Predictor whose probabilities and maps are functions of the first radar pixels, without a model."""

    sensors, temperature, thresholds = ("s1",), 2.0, (0.4,) * len(CLASSES)

    def __init__(self, maps: bool = False) -> None:
        self.maps = maps
        self.seen: list[str] = []

    def predict(self, batch, sensors=None) -> Predicted:
        self.seen += batch.patch_id
        assert batch.s2_10m is None
        pixels = batch.s1.numpy()
        probabilities = expected(pixels)
        maps = (np.abs(pixels[:, 0]) % len(CLASSES)).astype(np.uint8) if self.maps else None
        return Predicted(probabilities, probabilities >= 0.4, maps)


def expected(pixels: np.ndarray) -> np.ndarray:
    return (np.abs(pixels.reshape(len(pixels), -1)[:, : len(CLASSES)]) % 1).astype(np.float32)


@pytest.mark.parametrize("maps", [False, True])
def test_every_patch_gets_a_prediction_once(archive, pairs, store_uri, maps: bool) -> None:
    patches, bundle = archive
    uri = join(store_uri, "predictions.lance")
    summary = predict_table(bundle.uri, TableRef(patches), uri, PixelPredictor(maps), shard_rows=16)
    assert (summary.patches, summary.added, summary.changed) == (len(pairs), len(pairs), 0)
    table = open_table(uri)
    rows = {row["patch_id"]: row for row in table.to_table().to_pylist()}
    assert len(rows) == table.count_rows() == len(pairs)
    for pair in pairs:
        row, probabilities = rows[pair.meta.patch_id], expected(pair.s1[None])[0]
        np.testing.assert_array_equal(np.float32(row["probabilities"]), probabilities)
        assert row["labels"] == sorted(CLASSES[i] for i in np.flatnonzero(probabilities >= 0.4))
        assert row["label_mask"] == mask_of(row["labels"])
    metadata = table.schema.metadata
    assert json.loads(metadata[CLASSES_KEY.encode()]) == list(CLASSES)
    assert json.loads(metadata[CALIBRATION_KEY.encode()])["temperature"] == 2.0
    assert predict_table(bundle.uri, TableRef(patches), uri, PixelPredictor(maps), shard_rows=16) == summary
    if maps:
        placed = {one.patch_id: one for one in placed_maps(TableRef(uri))}
        assert len(placed) == len(pairs)
        for pair in pairs:
            one, place = placed[pair.meta.patch_id], pair.meta.names.footprint
            assert (one.epsg, one.ulx, one.uly) == (place.epsg, place.ulx, place.uly)
            np.testing.assert_array_equal(one.classes, (np.abs(pair.s1[0]) % len(CLASSES)).astype(np.uint8))
    else:
        with pytest.raises(UsageError, match="holds no maps"):
            list(placed_maps(TableRef(uri)))


def test_killed_between_shards_it_goes_on_and_predicts_nothing_twice(archive, pairs, store_uri) -> None:
    patches, bundle = archive
    uri = join(store_uri, "predictions.lance")
    first, later = PixelPredictor(), PixelPredictor()
    plan = plan_predictions(bundle.uri, TableRef(patches), uri, first, shard_rows=16)
    assert (plan.shards, plan.rows) == (3, len(pairs))
    predict_shards(uri, plan.job_id, 2, 1, first)
    with pytest.raises(StoreError, match="shard 0"):
        commit_predictions(uri, plan.job_id)
    assert plan_predictions(bundle.uri, TableRef(patches), uri, later, shard_rows=16) == plan
    assert predict_shards(uri, plan.job_id, 0, 99, later) == {"shards": 2, "patches": 32, "skipped_shards": 1}
    assert not set(first.seen) & set(later.seen)
    assert {commit_predictions(uri, plan.job_id).version for _ in range(3)} == {open_table(uri).version}
    assert open_table(uri).count_rows() == len(pairs)


def test_a_newer_version_predicts_only_what_is_missing_or_changed(tmp_path, pairs) -> None:
    import lance

    patches, uri = str(tmp_path / "patches.lance"), str(tmp_path / "predictions.lance")
    bundle = make_bundle(str(tmp_path / "runs"), patches, write_patches(patches, pairs[:20]))
    predict_table(bundle.uri, TableRef(patches), uri, PixelPredictor())
    lance.dataset(patches).delete(f"patch_id = '{pairs[4].meta.patch_id}'")
    write_patches(patches, [changed(pairs[4]), *pairs[20:23]])
    later = PixelPredictor()
    summary = predict_table(bundle.uri, TableRef(patches), uri, later)
    assert (summary.patches, summary.added, summary.changed) == (4, 3, 1)
    assert set(later.seen) == {pair.meta.patch_id for pair in (pairs[4], *pairs[20:23])}


def test_patches_without_a_sensor_of_the_bundle_have_no_row_and_are_counted(tmp_path, pairs) -> None:
    patches, uri = str(tmp_path / "patches.lance"), str(tmp_path / "predictions.lance")
    bare = [replace(pair, s1=None, meta=replace(pair.meta, s1_name=None)) for pair in pairs[:3]]
    bundle = make_bundle(str(tmp_path / "runs"), patches, write_patches(patches, bare))
    with pytest.raises(DataRefused, match="none of the 3 patches has s1, which the bundle reads"):
        predict_table(bundle.uri, TableRef(patches), uri, PixelPredictor())
    write_patches(patches, pairs[3:10])
    summary = predict_table(bundle.uri, TableRef(patches), uri, PixelPredictor(), shard_rows=4)
    assert (summary.patches, summary.added, summary.incomplete) == (7, 7, 3)
    assert set(open_table(uri).to_table()["patch_id"].to_pylist()) == {pair.meta.patch_id for pair in pairs[3:10]}
    again = predict_table(bundle.uri, TableRef(patches), uri, PixelPredictor(), shard_rows=4)
    assert again == summary


def test_what_does_not_belong_together_is_refused(tmp_path, pairs, encoder) -> None:
    patches, uri = str(tmp_path / "patches.lance"), str(tmp_path / "predictions.lance")
    codes = str(tmp_path / "codes.lance")
    version = write_patches(patches, pairs[:2])
    bundle = make_bundle(str(tmp_path / "runs"), patches, version)
    other = make_bundle(str(tmp_path / "runs"), patches, version, seed=1)
    plan_predictions(bundle.uri, TableRef(patches), uri, PixelPredictor())
    with pytest.raises(DataRefused, match="another table of predictions"):
        plan_predictions(other.uri, TableRef(patches), uri, PixelPredictor())
    with pytest.raises(DataRefused, match="no table of predictions"):
        plan_predictions(bundle.uri, TableRef(patches), patches, PixelPredictor())
    build_index(bundle.uri, TableRef(patches), codes, encoder)
    with pytest.raises(DataRefused, match="no table of predictions"):
        plan_predictions(bundle.uri, TableRef(patches), codes, PixelPredictor())
    with pytest.raises(DataRefused, match="no table of codes"):
        build_index(bundle.uri, TableRef(patches), uri, encoder)
    with pytest.raises(NotFound, match="no index job"):
        predict_shards(uri, "predict-0", 0, 1, PixelPredictor())
