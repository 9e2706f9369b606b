"""Scene labels of the reBEN baselines: settings, networks, training, loading."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from eoforge.bundle import Bundle, load_bundle, write_bundle
from eoforge.data.labels import CLASSES
from eoforge.errors import BundleError, UsageError
from eoforge.methods import Task, get_method, require_task, tasks_of
from eoforge.methods.reben.config import PAPER_BACKBONES, Config
from eoforge.methods.reben.learner import SceneLearner
from eoforge.methods.reben.model import SceneNetwork, build
from tests.methods.conftest import SCENES
from tests.methods.test_ss_cm_rsir import drawn_batch
from tests.methods.train_worker import killed_after

METHOD = get_method("reben")
CONFIG = METHOD.config("tiny", SCENES)
GOLDEN = (0.7006, 0.6714, 0.6512, 0.6313, 0.6193, 0.6066, 0.5922, 0.5832, 0.5721, 0.5596)


def learner_of(config: Config, counts=None) -> SceneLearner:
    bands = [band for names in config.sensor_bands.values() for band in names]
    return SceneLearner(config, {b: (-15.0, 5.0) if b.startswith("V") else (1500.0, 1000.0) for b in bands}, counts)


def test_golden_loss_curve_of_ten_steps() -> None:
    """Written by this code; the tolerance covers threads and instruction sets over ten steps."""
    masks = torch.arange(16) * 4321 % 2**19
    batch = dataclasses.replace(drawn_batch(), label_mask=masks)
    learner = learner_of(dataclasses.replace(CONFIG, dropout=0.0))
    optimizer = torch.optim.AdamW(learner.parameters(), lr=5e-3)
    curve = []
    for step in range(10):
        loss = learner.losses(batch, step)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(float(loss.detach()))
    assert curve == pytest.approx(GOLDEN, rel=5e-3)


def test_the_published_recipe() -> None:
    paper = Config.paper()
    assert (paper.batch_size, paper.learning_rate, paper.weight_decay, paper.patience) == (512, 1e-3, 0.01, 5)
    assert (paper.dropout, paper.drop_path, paper.size, paper.interpolation) == (0.15, 0.15, 120, "nearest")
    assert paper.warmup_epochs * (237_871 // 512) == pytest.approx(1000)
    assert paper.channels == 12
    assert next(iter(paper.sensor_bands)) == "s1"


@pytest.mark.parametrize("backbone", ["tiny", "test_resnet", "test_convnext"])
@pytest.mark.parametrize("sensors", ["s1", "s2", "s1s2"])
def test_any_backbone_takes_any_sensors(backbone: str, sensors: str) -> None:
    config = dataclasses.replace(CONFIG, backbone=backbone, sensors=sensors, size=64)
    network = build(config).eval()
    images = {s: torch.randn(2, len(bands), 64, 64) for s, bands in config.sensor_bands.items()}
    logits = network.predict(images)
    assert logits.shape == (2, 19)
    assert torch.equal(logits, network.classify(network.represent(images)))
    assert isinstance(network, SceneNetwork)
    assert network.alone is (sensors != "s1s2")


def test_paper_backbones_are_known_to_timm() -> None:
    import timm

    assert all(timm.is_model(name) for name in PAPER_BACKBONES)


def test_dropout_and_drop_path_reach_the_network() -> None:
    network = SceneNetwork(dataclasses.replace(CONFIG, backbone="test_convnext", size=64, drop_path=0.4, dropout=0.3))
    kinds = {type(module).__name__: module for module in network.modules()}
    assert kinds["DropPath"].drop_prob == pytest.approx(0.4)
    assert kinds["Dropout"].p == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"backbone": "resnet5000"}, "a network of timm"),
        ({"backbone": "test_vit", "size": "40"}, "no images of 40 x 40"),
        ({"dropout": "1.0"}, "dropout must be"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"sensors": "s3"}, "sensors must be one of"),
        ({"s2_bands": "B02,B02"}, "distinct"),
        ({"task": "pixels"}, "need an encoder of timm"),
        ({"task": "pixels", "backbone": "resnet18", "decoder": "x"}, "decoder must be one of"),
        ({"task": "pixels", "backbone": "resnet18", "loss": "asymmetric"}, "one of labels"),
    ],
)
def test_settings_that_cannot_be_are_named(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(METHOD.config("tiny", {**SCENES, **overrides}))


def test_a_network_of_two_sensors_refuses_one() -> None:
    with pytest.raises(UsageError, match="missing: s1"):
        build(CONFIG).predict({"s2": torch.zeros(1, 10, 40, 40)})


def test_training_scores_macro_precision_and_stores_a_calibration(scene_bundle: Bundle) -> None:
    metrics, config = scene_bundle.metrics, scene_bundle.config
    assert metrics["validation_score"] == metrics["validation_map_macro"]
    losses = [row["loss"] for row in metrics["history"]]
    assert losses[-1] < losses[0]
    calibration = config["calibration"]
    assert 0.05 <= calibration["temperature"] <= 20
    assert len(calibration["thresholds"]) == len(CLASSES)
    assert config["tasks"] == ["classify"]
    assert tasks_of(scene_bundle) == (Task.CLASSIFY,)


def test_a_killed_run_ends_as_the_uninterrupted_one(table, runs: str, tmp_path, monkeypatch) -> None:
    config = METHOD.config("tiny", {**SCENES, "epochs": "2", "checkpoint_steps": "1", "positive_weight": "5"})
    whole = METHOD.train(table, str(tmp_path / "whole"), config)
    killed_after(3, lambda: METHOD.train(table, runs, config), monkeypatch)
    resumed = METHOD.train(table, runs, config)
    assert resumed.metrics["history"] == whole.metrics["history"]
    assert all(torch.equal(resumed.weights()[name], tensor) for name, tensor in whole.weights().items())
    assert resumed.config["calibration"] == whole.config["calibration"]


def test_a_bundle_predicts_what_its_learner_did(scene_bundle: Bundle, table) -> None:
    network = METHOD.classifier(load_bundle(scene_bundle.uri), "cpu")
    again = METHOD.classifier(scene_bundle, "cpu")
    images = {"s1": torch.randn(3, 2, 40, 40), "s2": torch.randn(3, 10, 40, 40)}
    assert torch.equal(network.predict(images), again.predict(images))
    assert not network.training


def test_a_single_sensor_reads_its_own_columns_only(table, runs: str) -> None:
    bundle = METHOD.train(table, runs, METHOD.config("tiny", {**SCENES, "epochs": "1", "sensors": "s1"}))
    assert bundle.config["bands"] == {"s1": ["VV", "VH"]}
    assert set(bundle.config["normalisation"]) == {"VV", "VH"}


def test_a_bundle_with_another_band_order_is_refused(scene_bundle: Bundle, tmp_path) -> None:
    config = json.loads(json.dumps(scene_bundle.config))
    config["bands"]["s2"] = config["bands"]["s2"][::-1]
    wrong = write_bundle(str(tmp_path), weights=scene_bundle.weights(), config=config, metrics={}, readme="")
    with pytest.raises(BundleError, match="its network reads bands"):
        METHOD.classifier(wrong, "cpu")


def test_a_bundle_of_scenes_is_no_bundle_of_pixels_and_has_no_codes(scene_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="task 'scene'"):
        METHOD.segmenter(scene_bundle, "cpu")
    with pytest.raises(UsageError, match="which can classify; this needs one that can encode"):
        require_task(scene_bundle, Task.ENCODE)
    assert get_method("reben").name == "reben"
