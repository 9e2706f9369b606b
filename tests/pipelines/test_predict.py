"""The pipelines that predict a table and measure a bundle that classifies, run for real by kfp.local."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import lance
import pytest

from benchmarks.services.prediction import untrained_bundle
from eoforge.bundle import Bundle
from eoforge.data.labels import CLASSES
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.methods.reben.config import Config
from eoforge.storage.addresses import TableRef, open_table
from pipelines.reports.classes import class_figures
from pipelines.run_local import run_local

COUNT = 16


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("patches") / "patches.lance")
    lance.write_dataset(record_batch(tuple(synthetic_pairs(COUNT, seed=2))), uri, schema=PATCHES)
    return uri


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    config = replace(Config.tiny(), width=8, size=40, backbone="tiny")
    return untrained_bundle(str(tmp_path_factory.mktemp("runs")), config)


def test_a_table_is_predicted_once(patches: str, bundle: Bundle, tmp_path: Path) -> None:
    params = {
        "bundle": bundle.uri,
        "table": patches,
        "predictions": str(tmp_path / "predictions-{bundle}.lance"),
        "shard_rows": 10,
    }
    made = run_local("predict", tmp_path / "kfp", params)
    table = open_table(TableRef(made.outputs["predictions_table"], int(made.outputs["predictions_version"])))
    assert bundle.short_id in made.outputs["predictions_table"]
    assert len(set(table.to_table(columns=["patch_id"])["patch_id"].to_pylist())) == table.count_rows() == COUNT
    counted = made.find("commit-predict", "metrics").metadata
    assert (counted["predictions"], counted["incomplete"]) == (COUNT, 0)


def test_a_regressor_is_trained_and_predicts_a_value_for_every_patch(patches: str, tmp_path: Path) -> None:
    """The same two pipelines: a bundle that regresses needs nothing of its own."""
    settings = ["target=forest_share", "epochs=1", "batch_size=4", "width=8", "hidden=8", "embedding=8", "folds=2"]
    training = {"table": patches, "runs": str(tmp_path / "runs"), "method": "dml_s2r", "preset": "tiny"}
    trained = run_local("train", tmp_path / "kfp", {**training, "overrides": settings}).outputs["bundle"]
    made = run_local(
        "predict",
        tmp_path / "kfp",
        {"bundle": trained, "table": patches, "predictions": str(tmp_path / "values.lance")},
    )
    rows = open_table(made.outputs["predictions_table"]).to_table(columns=["value", "lower", "upper"]).to_pylist()
    assert len(rows) == COUNT
    assert all(0 <= row["lower"] <= row["value"] <= row["upper"] <= 1 for row in rows)


def test_an_evaluation_shows_confusion_and_roc(patches: str, bundle: Bundle, tmp_path: Path) -> None:
    made = run_local("evaluate", tmp_path / "kfp", {"bundle": bundle.uri, "table": patches})
    shown = made.find("evaluate", "classes").metadata
    matrix = shown["confusionMatrix"]["struct"] if "struct" in shown["confusionMatrix"] else shown["confusionMatrix"]
    assert [one["displayName"] for one in matrix["annotationSpecs"]] == ["absent", "present"]
    assert len(matrix["rows"]) == 2
    assert "confidenceMetrics" in shown
    assert "label_map_macro_both" in made.find("evaluate", "metrics").metadata


def test_the_matrix_of_labels_counts_pairs_and_that_of_maps_pixels() -> None:
    cells = [[[5, 1], [2, 3]], [[4, 0], [1, 6]]]
    curves = {"roc": {"fpr": [0.0, 0.5, 1.0], "tpr": [0.0, 0.9, 1.0], "threshold": [float("inf"), 0.5, 0.0]}}
    labels = {"inputs": {"s1": {"confusion": [], "curves": {}}, "both": {"confusion": cells, "curves": curves}}}
    found = class_figures({"labels": labels})
    assert (found.categories, found.matrix) == (["absent", "present"], [[9, 1], [3, 9]])
    assert found.threshold == [1.0, 0.5, 0.0]
    json.dumps(found.threshold, allow_nan=False)
    pixels = {"classes": list(CLASSES), "confusion": [[0] * 19] * 19}
    assert class_figures({"pixels": pixels}).categories == list(CLASSES)
    assert class_figures({}).matrix == class_figures({}).fpr == []
