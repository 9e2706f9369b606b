"""Pixel maps of the reBEN baselines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lance
import pyarrow as pa
import pytest
import torch

from eoforge.bundle import Bundle
from eoforge.data.loading.loader import PatchLoader
from eoforge.data.loading.prepare import flipped
from eoforge.data.records import record_batch
from eoforge.errors import DataRefused, NotFound
from eoforge.methods import get_method
from eoforge.methods.evaluation.run import evaluate
from eoforge.methods.reben.counts import class_counts
from eoforge.methods.reben.learner import PixelLearner
from eoforge.methods.reben.model import PixelNetwork
from eoforge.nn.maps import class_map, map_presence, resized
from eoforge.storage.addresses import TableRef
from tests.methods.conftest import PIXELS

METHOD = get_method("reben")
CONFIG = METHOD.config("tiny", PIXELS)


def test_a_map_has_the_size_of_the_image_whatever_the_stride() -> None:
    for side in (32, 40, 120):
        network = PixelNetwork(dataclasses.replace(CONFIG, size=side)).eval()
        with torch.no_grad():
            assert network.predict({"s2": torch.randn(1, 10, side, side)}).shape == (1, 19, side, side)


def test_padding_is_cut_back_in_place() -> None:
    """A network that returns its input shows the pixels where they were."""
    network = PixelNetwork(CONFIG)
    for part in ("encoder", "decoder", "segmentation_head"):
        setattr(network.model, part, torch.nn.Identity())
    image = torch.randn(2, 10, 40, 40)
    assert torch.equal(network.predict({"s2": image}), image)


def test_a_map_is_mirrored_with_its_image(table) -> None:
    batch = next(iter(PatchLoader(table, batch_size=4, reference_map=True)))
    learner = PixelLearner(CONFIG, dict.fromkeys(CONFIG.s2_bands, (1500.0, 1000.0)), None)
    flip = torch.tensor([0, 1, 2, 3], dtype=torch.uint8)
    seen = {}

    def logits(_batch, given):
        seen["flip"] = given
        truth = flipped(resized(batch.reference_map, 40)[:, None], flip)[:, 0]
        known = truth.where(truth < 19, torch.zeros_like(truth))
        return 40.0 * torch.nn.functional.one_hot(known, 19).permute(0, 3, 1, 2).float()

    learner.flip = lambda *_: flip  # type: ignore[method-assign]
    learner.logits = logits  # type: ignore[method-assign]
    assert float(learner.losses(batch, 0)["loss"]) < 1e-6
    assert torch.equal(seen["flip"], flip)


def test_training_lowers_the_loss_and_evaluation_measures_maps(pixel_bundle: Bundle, table, tmp_path: Path) -> None:
    history = pixel_bundle.metrics["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert pixel_bundle.metrics["validation_score"] == pytest.approx(pixel_bundle.metrics["validation_iou_macro"])
    result = evaluate(pixel_bundle, table, out=str(tmp_path / "out"), device="cpu")
    assert 0 < result["pixel_iou_weighted"] <= result["pixel_accuracy"] <= 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Maps" in page
    assert "By season" in page


def test_a_table_without_maps_is_refused_by_name(pairs, tmp_path: Path, pixel_bundle: Bundle) -> None:
    bare = [dataclasses.replace(pair, reference_map=None) for pair in pairs[:32]]
    uri = str(tmp_path / "bare.lance")
    lance.write_dataset(pa.Table.from_batches([record_batch(bare)]), uri)
    with pytest.raises(DataRefused, match="Reference_Maps"):
        METHOD.train(TableRef(uri, 1), str(tmp_path / "runs"), CONFIG)
    with pytest.raises(NotFound, match="has a reference map"):
        evaluate(pixel_bundle, TableRef(uri, 1), device="cpu")


def test_counts_of_pixels_are_those_of_the_maps(table) -> None:
    maps = [b.reference_map for b in PatchLoader(table, batch_size=64, reference_map=True)]
    counted = class_counts(table, "pixels")
    assert 0 < counted.total <= sum(int((m != 255).sum()) for m in maps if m is not None)
    assert counted.total == int(counted.classes_L.sum())


def test_presence_is_that_of_the_surest_pixel() -> None:
    logits = torch.zeros(1, 3, 4, 4)
    logits[0, 2, 1, 3] = 6.0
    expected = logits[0, :, 1, 3].softmax(0)[2]
    assert float(map_presence(logits).sigmoid()[0, 2]) == pytest.approx(float(expected), rel=1e-4)


def test_class_maps_are_resampled_before_the_choice() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1] = 1.0
    assert class_map(logits, 4).tolist() == [[[1] * 4] * 4]
