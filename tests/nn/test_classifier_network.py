"""The classifier and its code head: shapes, predictions by sensor, codes that no training changes."""

from __future__ import annotations

import torch

from eoforge.nn.build import seeded
from eoforge.nn.classifier import Classifier, CodeHead


def test_codes_come_from_a_projection_that_never_changes() -> None:
    head = CodeHead(6, 16)
    assert "projection" not in head.state_dict()
    assert torch.equal(head.projection, CodeHead(6, 16).projection)
    # Written by this code: other bits would make every index built before useless.
    assert head.projection[0].tolist() == [-1, 1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1, -1, 1, -1, -1]
    head.train()
    head.observe(torch.randn(1, 6))  # the statistics of one patch are none
    assert int(head.norm.num_batches_tracked) == 0


def test_predictions_from_images_by_sensor() -> None:
    network = seeded(lambda: Classifier("tiny", 2, 20, 8, 0, 16, 5), 0).eval()
    images = torch.randn(3, 2, 20, 20)
    logits = network.predict({"s1": images})
    assert logits.shape == (3, 5)
    assert torch.equal(logits, network(images))
    assert torch.equal(logits, network.classify(network.represent(images)))
