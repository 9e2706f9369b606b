"""Training on images: what is read, kill and resume, tables of values, evaluation, the command line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from eoforge.bundle import load_bundle, write_bundle
from eoforge.cli import main
from eoforge.data.loading.loader import PatchFilter, PatchLoader
from eoforge.data.targets import patches_of
from eoforge.errors import BundleError, DataRefused, UsageError
from eoforge.index.predictions import TARGET_KEY, predict_table
from eoforge.methods import Task, get_method, tasks_of
from eoforge.methods.dml_s2r.config import SYSTEMS
from eoforge.methods.dml_s2r.labels import MixedLoader, labelled_patches
from eoforge.methods.prediction import open_class_predictor, open_predictor
from eoforge.storage.addresses import open_table
from tests.methods.dml_s2r.conftest import SMALL, with_column
from tests.methods.train_worker import killed_after

METHOD = get_method("dml_s2r")
ROOT = Path(__file__).resolve().parents[3]
COLUMN = {**SMALL, "target": "brightness"}


def same_weights(first, second) -> bool:
    a, b = first.weights(), second.weights()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(measured, tmp_path_factory):
    return METHOD.train(measured, str(tmp_path_factory.mktemp("whole")), METHOD.config("tiny", COLUMN))


def test_no_label_of_another_patch_is_read(measured, pairs, brightness, whole, tmp_path) -> None:
    """Neither of the validation and test splits, nor of an unlabelled patch: they are NaN here, the weights equal."""
    chosen = set(labelled_patches(measured, METHOD.config("tiny", COLUMN)).patches)
    assert 0 < len(chosen) < len(patches_of(measured, "train"))
    poisoned = [v if p.meta.patch_id in chosen else np.nan for p, v in zip(pairs, brightness, strict=True)]
    table = with_column(str(tmp_path / "patches.lance"), pairs, np.array(poisoned))
    found = METHOD.train(table, str(tmp_path / "runs"), METHOD.config("tiny", COLUMN))
    assert same_weights(found, whole)
    assert found.config["values"] == whole.config["values"]
    assert found.config["labels"]["missing"] == 0


def test_a_held_out_part_trains_nothing(measured, pairs, brightness, tmp_path) -> None:
    config = METHOD.config("tiny", {**COLUMN, "folds": "0"})
    labelled = labelled_patches(measured, config)
    held = {name for name, fold in zip(labelled.patches, labelled.folds, strict=True) if fold == 0}
    first = METHOD.train(measured, str(tmp_path / "first"), config)
    assert len(held) == first.config["labels"]["scored"] == 4
    changed = [v + 100 * (p.meta.patch_id in held) for p, v in zip(pairs, brightness, strict=True)]
    table = with_column(str(tmp_path / "patches.lance"), pairs, np.array(changed))
    found = METHOD.train(table, str(tmp_path / "runs"), config)
    ours, theirs = found.weights(), first.weights()
    # Held-out labels are neighbours of predictions, and nothing else.
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == ["values"]
    assert int((ours["values"] != theirs["values"]).sum()) == len(held)
    rules = [one.config["values"]["intervals"] for one in (found, first)]
    widths = [rule["factor"] for rule in rules]
    assert widths[0] > 10 * widths[1]
    assert [rule["kind"] for rule in rules] == ["student", "student"]
    assert "4 held-out patches calibrate them, too few: 9 would need no assumption" in first.read("README.md").decode()


def test_folds_lose_no_label_and_score_every_one(measured, whole) -> None:
    """The kept network learns from all of them; each has an error of a network that did not see it."""
    labelled = labelled_patches(measured, METHOD.config("tiny", COLUMN))
    assert len(labelled.trained()) == len(labelled.patches) == whole.config["labels"]["scored"]
    rule = whole.config["values"]["intervals"]
    assert (rule["kind"], rule["held"]) == ("conformal", len(labelled.patches))
    assert whole.metrics["validation_rmse"] > 0


def test_killed_between_the_two_steps_it_resumes_bit_for_bit(measured, whole, runs) -> None:
    # Four batches an epoch: the first step has ended, the second has not begun.
    worker = [sys.executable, "-m", "tests.methods.train_worker", str(measured), runs, "--method", "dml_s2r"]
    command = [*worker, "--die-after", "4", *(f"{key}={value}" for key, value in COLUMN.items())]
    killed = subprocess.run(command, capture_output=True, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    resumed = METHOD.train(measured, runs, METHOD.config("tiny", COLUMN))
    assert same_weights(resumed, whole)
    assert resumed.read("curve.csv") == whole.read("curve.csv")
    assert resumed.config == whole.config


def test_two_ranks_train_as_one(measured, runs, tmp_path) -> None:
    """Pairs and triplets are of the patches of both ranks. Noise is drawn by each rank, so there is none here."""
    settings = {**COLUMN, "jitter": "0", "epochs": "3"}
    alone = METHOD.train(measured, str(tmp_path), METHOD.config("tiny", settings))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]  # it finds a port
    worker = ["-m", "tests.methods.train_worker", str(measured), runs, "--method", "dml_s2r"]
    command = [*launcher, *worker, *(f"{key}={value}" for key, value in settings.items())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    uris = re.findall(r"bundle: (\S+)", done.stdout)
    assert len(uris) == 2
    assert uris[0] == uris[1]
    together = load_bundle(uris[0])
    assert together.metrics["ranks"] == 2
    losses = [[row["loss"] for row in bundle.metrics["history"]] for bundle in (together, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    weights = alone.weights()
    for name, tensor in together.weights().items():
        assert torch.allclose(tensor, weights[name], atol=5e-3), name


@pytest.mark.parametrize("system", ["dml_s2r", "mean_teacher", "self_training"])
def test_interrupted_within_a_phase_it_resumes_bit_for_bit(system, measured, tmp_path, monkeypatch) -> None:
    """Frozen copies and averages of networks are part of the checkpoint."""
    config = METHOD.config("tiny", {**COLUMN, "system": system, "checkpoint_steps": "1", "alternate": "2"})
    uninterrupted = METHOD.train(measured, str(tmp_path / "whole"), config)
    killed_after(11, lambda: METHOD.train(measured, str(tmp_path / "halves"), config), monkeypatch)
    assert same_weights(METHOD.train(measured, str(tmp_path / "halves"), config), uninterrupted)


def test_the_seed_decides(measured, whole, tmp_path) -> None:
    again = METHOD.train(measured, str(tmp_path / "same"), METHOD.config("tiny", COLUMN))
    other = METHOD.train(measured, str(tmp_path / "other"), METHOD.config("tiny", {**COLUMN, "seed": "1"}))
    assert same_weights(again, whole)
    assert not same_weights(other, whole)
    assert other.config["labels"]["labelled"] == whole.config["labels"]["labelled"]


def test_batches_of_the_first_step_are_labelled_and_of_the_second_mixed(measured) -> None:
    config = METHOD.config("tiny", COLUMN)
    known = labelled_patches(measured, config).trained()
    loader = MixedLoader(
        measured, batch_size=8, modalities=("s2",), filter=PatchFilter(splits=("train",)), chosen=known, config=config
    )
    seen = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        seen.append([batch.patch_id for batch in loader])
    assert all(set(batch) <= set(known) and len(batch) == 8 for batch in seen[0])
    train = set(patches_of(measured, "train"))
    for batch in seen[1]:
        assert len(set(batch)) == 8
        assert set(batch) <= train
        assert sum(name in known for name in batch) >= 4
    assert {name for batch in seen[1] for name in batch} - set(known)
    loader.set_epoch(0)
    assert [batch.patch_id for batch in loader] == seen[0]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_trains_on_images_and_predicts(system, measured, tmp_path) -> None:
    options = {"system": system, "epochs": "2", "metric": "log_ratio", "difference": "single"}
    if system == "tnnr":
        options["difference"] = "pair"
    bundle = METHOD.train(measured, str(tmp_path), METHOD.config("tiny", {**COLUMN, **options}))
    assert tasks_of(bundle) == (Task.REGRESS,)
    batch = next(iter(PatchLoader(measured, batch_size=64, modalities=("s2",))))
    found = open_predictor(load_bundle(bundle.uri), "cpu").predict(batch)
    assert found.value.shape == (64,)
    assert np.isfinite([found.value, found.lower, found.upper]).all()
    assert (found.lower < found.upper).all()
    assert found.value.std() > 0


def test_a_table_of_values_names_its_target(value_bundle, measured, pairs, tmp_path) -> None:
    uri = str(tmp_path / "predictions.lance")
    predictor = open_predictor(value_bundle, "cpu")
    summary = predict_table(value_bundle.uri, measured, uri, predictor)
    table = open_table(uri)
    rows = {row["patch_id"]: row for row in table.to_table().to_pylist()}
    assert summary.added == len(rows) == len(pairs)
    batch = next(iter(PatchLoader(measured, batch_size=64, modalities=("s2",))))
    found = predictor.predict(batch)
    for i, name in enumerate(batch.patch_id):
        assert rows[name]["value"] == pytest.approx(found.value[i], abs=1e-5)
        assert rows[name]["lower"] <= rows[name]["value"] <= rows[name]["upper"]
    about = json.loads(table.schema.metadata[TARGET_KEY.encode()])
    assert about == {"name": "brightness", "unit": "1", "low": 0.0, "high": 30.0, "level": 0.9}
    assert predict_table(value_bundle.uri, measured, uri, predictor) == summary


def test_predictions_are_within_the_range_and_say_so(measured, tmp_path) -> None:
    options = {"low": "0.9", "high": "0.95", "out_of_range": "clip"}
    bundle = METHOD.train(measured, str(tmp_path), METHOD.config("tiny", {**COLUMN, **options}))
    found = open_predictor(bundle, "cpu").predict(next(iter(PatchLoader(measured, batch_size=64, modalities=("s2",)))))
    assert bundle.config["labels"]["clipped"] > 0
    for values in (found.value, found.lower, found.upper):
        assert values.min() >= np.float32(0.9)
        assert values.max() <= np.float32(0.95)
    assert set(found.value[found.clipped].tolist()) <= {float(np.float32(0.9)), float(np.float32(0.95))}
    with pytest.raises(DataRefused, match=r"values of brightness .* outside 0.9 to 0.95"):
        METHOD.train(measured, str(tmp_path), METHOD.config("tiny", {**COLUMN, **options, "out_of_range": "refuse"}))


def test_the_commands(measured, tmp_path, capsys) -> None:
    def run(*words: str) -> dict:
        assert main([*words, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out.strip().splitlines()[-1])

    settings = [f"{key}={value}" for key, value in SMALL.items() if key != "labels"]
    runs = str(tmp_path / "runs")
    named = ["--target", "forest_share", "--labels", "0.5", "--data", str(measured), "--out", runs]
    trained = run("train", "dml_s2r", *named, *settings)
    config = load_bundle(trained["bundle"]).config
    assert (config["config"]["target"], config["config"]["labels"]) == ("forest_share", 0.5)
    report = str(tmp_path / "report")
    figures = run("eval", trained["bundle"], "--data", str(measured), "--out", report)
    assert 0 <= figures["value_coverage"] <= 1
    written = json.loads(Path(report, "metrics.json").read_text())["values"]
    assert written["figures"]["rmse"] == figures["value_rmse"]
    assert sum(one["patches"] for one in written["countries"].values()) == written["patches"]
    by_patch = written["by_patch"]
    errors = np.array(by_patch["value"]) - np.array(by_patch["truth"])
    assert np.sqrt((errors**2).mean()) == pytest.approx(figures["value_rmse"])
    within = (np.array(by_patch["lower"]) <= by_patch["truth"]) & (by_patch["truth"] <= np.array(by_patch["upper"]))
    assert within.mean() == pytest.approx(figures["value_coverage"])
    page = Path(report, "report.html").read_text()
    assert "Values: forest_share" in page
    assert "By country" in page
    table = str(tmp_path / "predictions.lance")
    assert run("predict", trained["bundle"], str(measured), table)["patches"] == 64
    exported = run("export", table, str(tmp_path / "maps"), "--format", "cog")
    assert exported["patches"] == 64
    found = []
    for path in sorted(Path(tmp_path, "maps").glob("*_value.tif")):
        with rasterio.open(path) as raster:
            assert raster.descriptions == ("value", "lower", "upper")
            assert raster.res == (1200, 1200)
            found += raster.read(1)[~np.isnan(raster.read(1))].tolist()
    rows = open_table(table).to_table(columns=["value"]).column("value").to_pylist()
    assert sorted(found) == pytest.approx(sorted(rows))


def test_labels_of_a_file(measured, pairs, brightness, tmp_path) -> None:
    """Evaluation takes the truth of the test split from the same file."""
    lines = [f"{pair.meta.patch_id},{value}" for pair, value in zip(pairs, brightness, strict=True)]
    file = tmp_path / "field.csv"
    file.write_text("patch_id,agb\n" + "\n".join(lines) + "\n")
    config = METHOD.config("tiny", {**SMALL, "target": "agb", "labels": "1", "labels_file": str(file), "epochs": "2"})
    bundle = METHOD.train(measured, str(tmp_path / "runs"), config)
    train, test = patches_of(measured, "train"), patches_of(measured, "test")
    assert bundle.config["labels"]["labelled"] == len(train)
    assert bundle.config["labels"]["file"]["other_splits"] == 64 - len(train)
    assert set(METHOD.truth(bundle, measured, "test")) == set(test)
    file.write_text("patch_id,agb\n")
    with pytest.raises(DataRefused, match="another file"):
        METHOD.truth(bundle, measured, "test")


def test_what_cannot_train_is_refused(measured, runs, value_bundle) -> None:
    for options, says in (
        ({"labels": "0"}, "above 0 and at most 1; got 0"),
        ({"holdout": "1"}, "holdout must be greater than 0 and less than 1"),
        ({"folds": "1"}, "folds must be at least 2, or 0 for a held-out part; got 1"),
        ({"system": "magic"}, "system must be one of dml_s2r, supervised"),
        ({"low": "2", "high": "1"}, "low < high"),
    ):
        with pytest.raises(UsageError, match=says):
            METHOD.config("tiny", {**COLUMN, **options})
    with pytest.raises(UsageError, match="target must be a share"):
        METHOD.train(measured, runs, METHOD.config("tiny", {**SMALL, "target": "nothing"}))
    with pytest.raises(UsageError, match=r"backbone must be one of .* got 'resnet5'"):
        METHOD.train(measured, runs, METHOD.config("tiny", {**COLUMN, "backbone": "resnet5"}))
    with pytest.raises(UsageError, match="reads s2; got s1"):
        open_predictor(value_bundle, "cpu").predict(None, ("s1",))


def test_what_needs_classes_refuses_a_regressor(value_bundle) -> None:
    with pytest.raises(UsageError, match="can regress; this needs one that can classify or segment"):
        open_class_predictor(value_bundle)


def test_a_bundle_without_its_rule_is_refused(value_bundle, tmp_path) -> None:
    for change in ({"values": None}, {"values": {**value_bundle.config["values"], "deviation": 0.0}}):
        config = {**value_bundle.config, **change}
        other = write_bundle(
            str(tmp_path), weights=value_bundle.weights(), config=config, metrics={}, readme="without a rule"
        )
        with pytest.raises(BundleError, match="values must hold a target"):
            open_predictor(other)


def test_any_network_of_timm_is_a_backbone(measured, tmp_path) -> None:
    config = METHOD.config("tiny", {**COLUMN, "backbone": "test_resnet", "size": "32", "epochs": "1"})
    bundle = METHOD.train(measured, str(tmp_path), config)
    assert open_predictor(bundle, "cpu").bands == {"s2": config.s2_bands}
