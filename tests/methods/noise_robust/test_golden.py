"""Golden loss curves of ten steps of GRID and RS-IRL-SVAE."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from eoforge.methods import get_method
from eoforge.methods.noise_robust.learner import learner_of
from tests.methods.test_ss_cm_rsir import drawn_batch

SMALL = {"size": "40", "width": "8", "latent": "8", "bits": "16", "batch_size": "16", "rate": "0.25"}
GOLDEN = {
    ("grid", "sample"): (2.9244, 2.5743, 2.5348, 2.358, 2.306, 2.3553, 2.3566, 2.3323, 2.2993, 2.1659),
    ("grid", "label"): (2.9244, 2.6339, 2.5673, 2.4448, 2.3723, 2.2574, 2.3651, 2.3087, 2.2714, 2.1587),
    ("rs_irl_svae", "sample"): (2.9144, 2.611, 2.4181, 2.3144, 2.3734, 2.4874, 2.4087, 2.3665, 2.4204, 2.2929),
    ("rs_irl_svae", "label"): (2.8999, 2.601, 2.5273, 2.3654, 2.2855, 2.268, 2.2136, 2.1842, 2.2047, 2.1025),
}


@pytest.mark.parametrize(("name", "unit"), GOLDEN)
def test_golden_loss_curve_of_ten_steps(name: str, unit: str) -> None:
    """Written by this code; the tolerance covers threads and instruction sets over ten steps."""
    batch = drawn_batch()
    batch = dataclasses.replace(batch, label_mask=torch.arange(len(batch.patch_id)) * 4321 % 2**19)
    config = get_method(name).config("tiny", {**SMALL, "unit": unit})
    learner = learner_of(name, config, batch.patch_id)(dict.fromkeys(config.s2_bands, (1500.0, 1000.0)))
    torch.manual_seed(3)  # eps
    optimizer = torch.optim.AdamW(learner.parameters(), lr=5e-3)
    curve = []
    for step in range(10):
        loss = learner.losses(batch, step)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(round(float(loss.detach()), 4))
    assert curve == pytest.approx(GOLDEN[name, unit], rel=5e-3)
