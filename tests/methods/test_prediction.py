"""Predictions of bundles: scenes, maps, federated classifiers, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eoforge.bundle import Bundle
from eoforge.cli import main
from eoforge.data.labels import CLASSES
from eoforge.data.loading.loader import PatchLoader
from eoforge.errors import DataRefused, UsageError
from eoforge.index.prediction_maps import placed_maps
from eoforge.methods import get_method
from eoforge.methods.calibration import Calibration
from eoforge.methods.prediction import open_predictor
from eoforge.storage.addresses import TableRef, open_table
from tests.methods.conftest import SMALL
from tests.methods.mm_fl.support import config as mm_fl_settings
from tests.methods.mm_fl.support import untrained_bundle


@pytest.fixture(scope="module")
def batch(table):
    return next(iter(PatchLoader(table, batch_size=8)))


def test_scenes_are_predicted_at_the_bundle_s_calibration(scene_bundle: Bundle, batch) -> None:
    predictor = open_predictor(scene_bundle, "cpu")
    predicted = predictor.predict(batch)
    network, calibration = get_method("reben").classifier(scene_bundle, "cpu"), Calibration.of(scene_bundle)
    assert calibration.fitted
    images = {s: predictor._prepare[s](batch) for s in ("s1", "s2")}
    with torch.no_grad():
        expected = torch.sigmoid(network.predict(images) / scene_bundle.config["calibration"]["temperature"]).numpy()
    np.testing.assert_allclose(predicted.probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(predicted.labels, expected >= np.array(calibration.thresholds))
    assert predicted.pixel_map is None
    with pytest.raises(UsageError, match="reads s1 and s2; got s2"):
        predictor.predict(batch, ("s2",))


def test_a_batch_without_the_bands_is_refused(scene_bundle: Bundle, table) -> None:
    bare = next(iter(PatchLoader(table, batch_size=4, modalities=("s2",))))
    with pytest.raises(DataRefused, match="VV, VH"):
        open_predictor(scene_bundle, "cpu").predict(bare)


def test_maps_have_classes_on_the_10_m_grid(pixel_bundle: Bundle, batch) -> None:
    predicted = open_predictor(pixel_bundle, "cpu").predict(batch)
    assert predicted.pixel_map is not None
    assert predicted.pixel_map.shape == (8, 120, 120)
    assert predicted.pixel_map.max() < len(CLASSES)
    assert predicted.probabilities.shape == (8, len(CLASSES))


def test_a_federated_bundle_predicts_from_each_sensor_and_both(table, batch, tmp_path: Path) -> None:
    bundle = untrained_bundle(mm_fl_settings(), table, str(tmp_path))
    predictor = open_predictor(bundle, "cpu")
    assert (predictor.temperature, set(predictor.thresholds)) == (1.0, {0.5})
    one, both = predictor.predict(batch, ("s1",)), predictor.predict(batch)
    assert one.probabilities.shape == both.probabilities.shape
    assert not np.array_equal(one.probabilities, both.probabilities)


def test_a_bundle_that_only_encodes_is_refused(table, runs: str) -> None:
    method = get_method("ss_cm_rsir")
    bundle = method.train(table, runs, method.config("tiny", {**SMALL, "epochs": "1"}))
    with pytest.raises(UsageError, match="which can encode; this needs one that can classify or segment"):
        open_predictor(bundle)


def test_the_command_writes_maps_of_every_patch(pixel_bundle: Bundle, table, tmp_path: Path, capsys) -> None:
    target = str(tmp_path / "predictions.lance")
    assert main(["predict", pixel_bundle.uri, str(table), target, "--shard-rows", "24", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (summary["predictions"], summary["patches"], summary["added"]) == (target, 64, 64)
    assert open_table(target).count_rows() == len(list(placed_maps(TableRef(target)))) == 64


def test_the_index_refuses_a_bundle_without_codes(scene_bundle: Bundle, table, tmp_path: Path, capsys) -> None:
    assert main(["index", scene_bundle.uri, str(table), str(tmp_path / "codes.lance"), "--json"]) == 2
    assert (
        "needs one that can encode" in json.loads(capsys.readouterr().err.strip().splitlines()[-1])["error"]["message"]
    )
