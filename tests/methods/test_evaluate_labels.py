"""Evaluation of a classifier on a table, with a network whose logits follow from the stored pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eoforge.bundle import Bundle, write_bundle
from eoforge.data.labels import CLASSES
from eoforge.data.loading.batch import PatchFilter
from eoforge.data.loading.loader import PatchLoader
from eoforge.errors import BundleError, EoforgeError, UsageError
from eoforge.methods import METHODS, MethodEntry, Task, federated_methods, get_method
from eoforge.methods.evaluation.run import evaluate
from eoforge.metrics.multilabel import labels_of_masks, multilabel_measures
from eoforge.nn.classifier import Network
from eoforge.storage.addresses import TableRef
from tests.methods.fakes import RegisteredMethod
from tests.methods.mm_fl.support import config as settings
from tests.methods.mm_fl.support import untrained_bundle

BANDS = {"s1": ("VV", "VH"), "s2": ("B02", "B03", "B04", "B08")}
NORMALISATION = {band: [-12.0, 4.0] if band.startswith("V") else [1500.0, 900.0] for b in BANDS.values() for band in b}


def weights(sensor: str) -> Tensor:
    return torch.randn(len(BANDS[sensor]), len(CLASSES), generator=torch.Generator().manual_seed(len(sensor + sensor)))


class BandMeans(Network):
    """Logits as fixed combinations of the means of bands, summed over sensors."""

    def represent(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        return {sensor: image.mean(dim=(2, 3)) for sensor, image in images.items()}

    def classify(self, representation: dict[str, Tensor]) -> Tensor:
        return torch.stack([means @ weights(sensor) for sensor, means in representation.items()]).sum(dim=0)


class BandMeansMethod(RegisteredMethod):
    """A method that classifies and does nothing else."""

    name = "band_means"

    def classifier(self, bundle: Bundle, device: str | None = None) -> Network:
        return BandMeans()


METHOD = BandMeansMethod()


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    entry = MethodEntry((Task.CLASSIFY,), "tests.methods.test_evaluate_labels:METHOD")
    monkeypatch.setitem(METHODS, "band_means", entry)
    config: dict[str, Any] = {
        "method": "band_means",
        "config": {"size": 120},
        "bands": {sensor: list(names) for sensor, names in BANDS.items()},
        "normalisation": NORMALISATION,
        "interpolation": "nearest",
    }
    return write_bundle(str(tmp_path / "runs"), weights={"w": torch.zeros(1)}, config=config, metrics={}, readme="")


def test_labels_are_measured_by_sensor_and_together(bundle: Bundle, table: TableRef, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    result = evaluate(bundle, table, out=str(out), device="cpu")
    (batch,) = PatchLoader(table, batch_size=1000, filter=PatchFilter(splits=("test",)))
    assert batch.s1 is not None
    assert batch.s2_10m is not None
    labels = labels_of_masks(batch.label_mask, len(CLASSES))
    logits = {}
    for sensor, pixels in (("s1", batch.s1), ("s2", batch.s2_10m)):
        scale = np.array([NORMALISATION[band] for band in BANDS[sensor]])
        means = (pixels.numpy().astype(np.float64).mean(axis=(2, 3)) - scale[:, 0]) / scale[:, 1]
        logits[sensor] = torch.from_numpy(means).float() @ weights(sensor)
    logits["both"] = logits["s1"] + logits["s2"]
    written = json.loads((out / "metrics.json").read_text())["labels"]
    assert written["patches"] == len(batch)
    for source, expected in logits.items():
        measures = multilabel_measures(expected.sigmoid(), labels)
        for name, value in measures.averages.items():
            assert result[f"label_{name}_{source}"] == pytest.approx(value, abs=1e-5)
        classes = written["inputs"][source]["classes"]
        assert [row["label"] for row in classes] == list(CLASSES)
        assert [row["patches"] for row in classes] == labels.sum(dim=0).tolist()
    assert result["label_map_macro_s1"] != result["label_map_macro_s2"] != result["label_map_macro_both"]
    page = (out / "report.html").read_text()
    for words in ("Every class, radar", "Every class, optical", "Every class, both sensors", "AUROC weighted"):
        assert words in page


def test_a_bundle_of_two_sensors_that_encodes_and_classifies(table: TableRef, tmp_path: Path) -> None:
    """An untrained network of MM-FL: its classifier takes one sensor or both."""
    bundle = untrained_bundle(settings(), table, str(tmp_path / "runs"))
    result = evaluate(bundle, table, out=str(tmp_path / "out"), device="cpu")
    measured = {name.rpartition("_")[2] for name in result if name.startswith("label_map_macro")}
    assert measured == {"s1", "s2", "both"}
    assert "partner_recall@10_s1_to_s2_trained" in result
    assert all(isinstance(value, str | int | float) for value in result.values())
    page = (tmp_path / "out" / "report.html").read_text()
    assert (
        page.index("Retrieval across sensors")
        < page.index("Further measures of the trained codes")
        < page.index("<h2>Labels</h2>")
    )


def test_tasks_without_an_evaluation_are_refused(
    bundle: Bundle, table: TableRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "band_means", MethodEntry((), METHODS["band_means"].path))
    with pytest.raises(UsageError, match=r"bundles of band_means can .*; evaluated are encode"):
        evaluate(bundle, table)


def test_a_method_object_that_lacks_a_function_of_its_tasks_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = (Task.CLASSIFY, Task.ENCODE, Task.COMPRESS)
    monkeypatch.setitem(METHODS, "band_means", MethodEntry(tasks, METHODS["band_means"].path))
    with pytest.raises(EoforgeError, match=r"encode needs load.*encode needs untrained.*compress needs evaluate_codec"):
        get_method("band_means")


def test_the_federated_methods() -> None:
    assert federated_methods() == ("fl_rs", "mm_fl")


def test_details_add_up_to_the_whole(bundle: Bundle, table: TableRef, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    result = evaluate(bundle, table, out=str(out), device="cpu")
    one = json.loads((out / "metrics.json").read_text())["labels"]["inputs"]["both"]
    written = json.loads((out / "metrics.json").read_text())["labels"]
    for key in ("country", "season"):
        assert sum(group["patches"] for group in one["groups"][key].values()) == written["patches"]
    for counts, row in zip(one["confusion"], one["classes"], strict=True):
        (absent, false), (missed, found) = counts
        assert absent + false + missed + found == written["patches"]
        assert missed + found == row["patches"]
    assert one["calibration"]["fitted"] is False
    assert one["calibration"]["ece"] == one["calibration"]["ece_raw"] == result["label_ece_both"]
    assert one["calibration"]["f1_micro"] == pytest.approx(one["averages"]["f1_micro"])
    roc = one["curves"]["roc"]
    assert roc["fpr"] == sorted(roc["fpr"])
    assert (roc["fpr"][-1], roc["tpr"][-1]) == (1.0, 1.0)
    assert len(roc["fpr"]) == len(roc["threshold"])


def test_a_calibration_changes_probabilities_and_labels_but_no_ranking(
    bundle: Bundle, table: TableRef, tmp_path: Path
) -> None:
    config = {**bundle.config, "calibration": {"temperature": 3.0, "thresholds": [0.2] * len(CLASSES)}}
    warm = write_bundle(str(tmp_path / "warm"), weights={"w": torch.zeros(1)}, config=config, metrics={}, readme="")
    plain, scaled = (evaluate(b, table, out=str(tmp_path / b.id[:8]), device="cpu") for b in (bundle, warm))
    assert scaled["label_map_micro_both"] == pytest.approx(plain["label_map_micro_both"])
    assert scaled["label_ece_both"] != plain["label_ece_both"]
    found = json.loads((tmp_path / warm.id[:8] / "metrics.json").read_text())["labels"]["inputs"]["both"]["calibration"]
    assert found["ece_raw"] == plain["label_ece_both"]
    assert found["f1_micro"] != pytest.approx(scaled["label_f1_micro_both"])


@pytest.mark.parametrize(
    "calibration", [{"temperature": 0.0}, {"temperature": 1.0, "thresholds": [0.5]}, {"temperature": "1"}, []]
)
def test_a_calibration_that_is_none_is_refused(bundle: Bundle, table: TableRef, tmp_path: Path, calibration) -> None:
    config = {**bundle.config, "calibration": {"thresholds": [0.5] * 19} | calibration if calibration else calibration}
    wrong = write_bundle(str(tmp_path / "wrong"), weights={"w": torch.zeros(1)}, config=config, metrics={}, readme="")
    with pytest.raises(BundleError, match="calibration must hold"):
        evaluate(wrong, table, device="cpu")
