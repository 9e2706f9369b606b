"""What silos read and settings say: batches, images, figures, backbones, ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from eoforge.errors import UsageError
from eoforge.federated.training.data import Images, TableData, images_of, normalisation_of, order_of
from eoforge.federated.training.specs import specs_of
from eoforge.methods import get_method
from eoforge.metrics.multilabel import multilabel_figures
from eoforge.nn.backbones import BACKBONES
from eoforge.nn.classifier import Classifier

METHOD = get_method("fl_rs")
SMALL = {"rounds": "2", "local_epochs": "1", "width": "8", "size": "20", "bits": "16", "batch_size": "16"}


def config(**overrides: str) -> Any:
    return METHOD.config("tiny", {**SMALL, **overrides})


def test_batches_hold_every_patch_once_and_none_alone() -> None:
    rows = np.arange(0, 34, 2)
    batches = list(order_of(rows, 8, 0, "silo", 0, 0))
    assert [len(b) for b in batches] == [8, 8]  # the seventeenth would be a batch of one
    assert [len(b) for b in order_of(rows, 6, 0)] == [6, 6, 5]
    assert len(list(order_of(rows[:1], 8, 0))) == 1
    again, other = list(order_of(rows, 8, 0, "silo", 0, 0)), list(order_of(rows, 8, 0, "silo", 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(batches, other, strict=True))


def test_images_from_memory_are_those_from_the_table(table) -> None:
    settings = config()
    normalisation = normalisation_of(table, settings.bands_read)
    kept = images_of(table, settings, normalisation)
    read = Images(table, kept.prepare, memory_patches=0)
    rows = np.array([17, 3, 60, 4])
    for _ in range(2):
        first, second = kept.take(rows), read.take(rows)
        assert torch.equal(first.images["s2"], second.images["s2"])
        assert torch.equal(first.labels, second.labels)
    data = TableData(kept, rows, rows, "silo", ("s2",), batch_size=2, seed=0)
    assert data.examples == 4


def test_multilabel_figures_in_closed_form() -> None:
    probabilities = torch.tensor([[0.9, 0.2, 0.8], [0.6, 0.7, 0.1], [0.4, 0.1, 0.9]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    # Label 0: TP 1, FP 1, FN 1; label 1: TP 1; label 2 is in no patch but predicted twice.
    figures = multilabel_figures(probabilities, labels)
    assert figures["f1_micro"] == pytest.approx(2 * 2 / (2 * 2 + 3 + 1))
    assert figures["f1_macro"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert figures["f1_weighted"] == pytest.approx((2 * 0.5 + 1 * 1) / 3)
    # Label 0 ranks its patches 1 (hit), 2 (miss), 3 (hit): (1 + 2/3) / 2; label 2 has no patch and does not count.
    assert figures["map_macro"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    with pytest.raises(UsageError, match="one shape"):
        multilabel_figures(probabilities, labels[:2])
    with pytest.raises(UsageError, match="no patch has a label"):
        multilabel_figures(probabilities, torch.zeros(3, 3))


def test_every_backbone_of_the_study_takes_ten_bands() -> None:
    millions = {"resnet50": 23.6, "mlp_mixer": 20.65, "convmixer": 20.62, "poolformer": 11.24}
    for name in BACKBONES:
        with torch.device("meta"):
            network = Classifier(name, 10, 120, 32, 0, 16, 19)
        count = sum(p.numel() for p in network.parameters()) / 1e6
        if name in millions:
            assert count == pytest.approx(millions[name], rel=0.02), name
        assert specs_of(network)["head.weight"].role == "weight"


def test_settings_are_checked() -> None:
    for overrides, says in (
        ({"algorithm": "fedsgd"}, "algorithm must be one of"),
        ({"scenario": "ds9"}, "scenario must be one of"),
        ({"mu": "1.0"}, "fedavg has the options weighting; got mu"),
        ({"fraction": "0"}, "0 < fraction"),
        ({"months": "13"}, "months must be"),
        ({"bits": "12"}, "multiple of 8"),
        ({"bands": "B02,VV"}, "bands of s1"),
        ({"learning_rate": "-1"}, "learning_rate must be greater"),
    ):
        with pytest.raises(UsageError, match=says):
            config(**overrides)
    assert config(bands="VV,VH").modality == "s1"
    assert METHOD.config("paper", {}).backbone == "resnet50"
