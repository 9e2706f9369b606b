"""What the benchmark claims, counted on curves by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.anneal.archive import archive_of
from benchmarks.anneal.cell import ALL, CLASS_LABELS, STRATEGIES, run
from benchmarks.anneal.report import MEASURES, area, claims, report_page, summary
from benchmarks.label_noise.samples import Samples
from eoforge.config import build_config
from eoforge.methods.anneal.config import Config


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Three classes of 20 samples, which lie around three points."""
    number = np.arange(60)
    labels = number[:, None] % 3 == np.arange(3)
    noise = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    features = torch.from_numpy(labels.astype(np.float32)).repeat(1, 3)[:, :8] + 0.3 * noise
    return Samples("single", features, labels, np.where(number < 40, 0, 2), ("a", "b", "c"))


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_cell_of_every_strategy_has_a_curve_by_cost(name: str, samples: Samples) -> None:
    settings = {"bits": "16", "hidden": "8", "bootstrap": "12", "batch": "6", "rounds": "1", "epochs": "2"}
    found = run(archive_of(samples), name, build_config(Config, "tiny", settings))
    decisions = [point["decisions"] for point in found["points"]]
    assert decisions == {ALL: [40], CLASS_LABELS: [12, 18]}.get(name, [12, 18])
    for point in found["points"]:
        assert {"map@20", "ndcg@20", "r_precision", "bits", "seconds"} <= point.keys()
        assert 1 / 3 < point["map@20"] <= 1


def cell(name: str, seed: int, heights: list[float]) -> dict:
    points = [
        {"decisions": 10.0 * (1 + n), "bits": 1.0, "seconds": 1.0, "map@20": h, "ndcg@20": h, "r_precision": h}
        for n, h in enumerate(heights)
    ]
    return {"data": "d", "name": name, "seed": seed, "cpu_seconds": 1.0, "points": points}


def test_the_area_is_the_mean_height() -> None:
    assert area(cell("x", 0, [0.0, 1.0, 1.0])["points"]) == pytest.approx(0.75)
    assert area(cell("x", 0, [0.3])["points"]) == 0.3


def test_claims_count_points_of_the_mean_and_areas_of_every_seed() -> None:
    cells = [
        cell("anneal bcgue", 0, [0.1, 0.3, 0.2]),
        cell("anneal bcgue", 1, [0.1, 0.3, 0.2]),
        cell("random", 0, [0.1, 0.1, 0.1]),
        cell("random", 1, [0.1, 0.4, 0.5]),
        cell("diversity alone", 0, [0.1, 0.2, 0.2]),
        cell("diversity alone", 1, [0.1, 0.2, 0.2]),
    ]
    (found,) = claims(cells)
    # The first point is common to all; the mean of random is 0.25 and 0.3.
    assert found["points_above"] == {"random": "1 of 2", "diversity alone": "1 of 2"}
    assert found["area_above_random"] == "1 of 2 seeds"
    row = next(r for r in summary(cells) if r["name"] == "random")
    assert row["points"][1]["map@20"] == pytest.approx((0.25, 0.2121), abs=1e-3)
    assert row["area"]["map@20"][0] == pytest.approx((0.1 + 0.35) / 2)


def test_the_page_has_a_picture_of_every_measure_and_the_settings_as_a_table() -> None:
    cells = [cell(name, seed, [0.1, 0.2, 0.3]) for name in ("anneal bcgue", "random", "all labels") for seed in (0, 1)]
    text = report_page({"rows": summary(cells), "seeds": [0, 1], "config": {"bits": 128, "start": ""}})
    assert text.count("<figure>") == len(MEASURES)
    assert ">128</td>" in text
    assert "{" not in text.partition("</style>")[2], "no dictionary as text"
