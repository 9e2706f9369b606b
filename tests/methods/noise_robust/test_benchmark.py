"""The label-noise benchmark: cells, detection, summary, conclusions and the report."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.label_noise import __main__ as table
from benchmarks.label_noise import detection, peer
from benchmarks.label_noise.cell import Training, chi_square, run
from benchmarks.label_noise.claims import best_by, conclusions, not_worse
from benchmarks.label_noise.noise import corrupted, noise_of, one_hot
from benchmarks.label_noise.overhead import measure
from benchmarks.label_noise.report import report_page, table_text
from benchmarks.label_noise.samples import Samples, described, synthetic
from benchmarks.label_noise.variants import VARIANTS, Variant
from eoforge.data.noise.scene import Noise
from eoforge.methods.noise_robust.settings import NoiseSettings
from eoforge.nn.generative import GenerativeBranch

TRAINING = Training(epochs=2, batch_size=16, width=8)
PEER = os.environ.get("EOFORGE_PEER_PYTHON")


def drawn(target: str, classes: int = 4, count: int = 96) -> Samples:
    """Samples whose classes are numbers of their descriptions."""
    rng = np.random.default_rng(0)
    kinds = np.arange(count) % classes
    labels = np.eye(classes, dtype=bool)[kinds]
    if target == "multi":
        labels = labels | np.roll(labels, 1, axis=1)
    images = rng.normal(0, 0.1, (count, classes)).astype(np.float32)
    images += labels
    split = np.where(np.arange(count) % 3 == 0, 2, 0)
    return Samples(target, torch.from_numpy(images), labels, split, tuple("abcd"[:classes]))


def drawn_maps() -> Samples:
    """Maps of stripes whose class is a level of brightness of one band."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(4, size=(60, 3)).repeat(2, axis=1)
    maps = np.broadcast_to(kinds[:, :, None], (60, 6, 6)).astype(np.uint8)
    images = rng.normal(0, 0.1, (60, 4, 6, 6)).astype(np.float32)
    images += maps[:, None] == np.arange(4)[None, :, None, None]
    maps = maps.copy()
    maps[:, 0, 0] = 255
    labels = np.stack([np.isin(np.arange(4), one) for one in maps])
    split = np.where(np.arange(60) % 3 == 0, 2, 0)
    return Samples("pixels", torch.from_numpy(images), labels, split, tuple("abcd"), maps)


def row(name: str, rate: float, value: float, deviation: float = 0.01, **more: float) -> dict:
    measures = {"map_macro": value, "f1_macro": value, "ndcg@20": value, **more}
    return {
        "data": "synthetic",
        "kind": "class_change",
        "rate": rate,
        "objective": name,
        "seeds": 3,
        "cpu_seconds": 2.0,
        "mean": measures,
        "deviation": dict.fromkeys(measures, deviation),
        "classes": {},
    }


@pytest.mark.parametrize("target", ["multi", "single"])
@pytest.mark.parametrize("name", ["plain", "grid", "co_teaching"])
def test_a_cell_measures_the_head_features_and_detection(target: str, name: str) -> None:
    samples = drawn(target)
    settings = Variant(name, by_label=True).settings(samples)
    found = run(samples, name, Noise("class_change", 0.3), 1, settings, TRAINING)
    again = run(samples, name, Noise("class_change", 0.3), 1, settings, TRAINING)
    assert found["test"] == again["test"]
    assert 0 < found["realised"]["removed"] <= 0.3
    assert set(found["classes"]) <= set("abcd")
    assert all(0 <= value <= 1 for value in found["test"].values())
    assert {"map_macro", "ndcg@20", "detection_auroc", "label_auroc"} <= set(found["test"])
    assert "detection_auroc" not in run(samples, name, Noise("class_change", 0.0), 1, settings, TRAINING)["test"]


@pytest.mark.parametrize("kind", ["class_change", "shifted"])
@pytest.mark.parametrize("name", ["plain", "grid", "rs_irl_svae"])
def test_a_cell_of_maps_measures_pixels(kind: str, name: str) -> None:
    samples = drawn_maps()
    rate = 1.0 if kind == "shifted" else 0.3
    settings = Variant(name, by_label=True).settings(samples)
    found = run(samples, name, noise_of(kind, rate, 1), 1, settings, TRAINING)
    assert 0 < found["realised"]["removed"] < 1
    assert {"iou_macro", "accuracy", "detection_auroc"} <= set(found["test"])
    assert all(0 <= value <= 1 for value in found["test"].values())


def test_pixels_without_a_class_are_no_labels() -> None:
    samples = drawn_maps()
    rows = samples.rows("train")
    noisy = corrupted(samples, rows, noise_of("class_change", 0.5, 0))
    truth, given, known = one_hot(samples, samples.truth(rows), noisy)
    assert len(truth) == len(given) == known.sum() == (samples.truth(rows) != 255).sum()
    assert truth.any(axis=1).all()
    wrong = (truth != given).any(axis=1)
    np.testing.assert_array_equal(wrong, (samples.truth(rows) != noisy)[noisy != 255])
    assert wrong.any()


def test_a_longer_training_learns_what_can_be_learned() -> None:
    found = run(drawn("single"), "plain", Noise("class_change", 0.0), 0, NoiseSettings(), Training(25, 16, width=32))
    assert found["test"]["f1_macro"] > 0.9


def test_detection_of_a_perfect_and_of_a_turned_suspicion() -> None:
    samples = drawn("multi")
    rows = samples.rows("train")
    clean = samples.labels[rows]
    noisy = clean.copy()
    noisy[:10, 0] ^= True
    noisy[10:20, 1] ^= True
    truth = torch.from_numpy((clean != noisy).astype(np.float32))
    total, classes = detection.figures(samples, clean, noisy, truth + 0.01 * torch.rand(truth.shape), 0.2)
    assert total["detection_auroc"] == pytest.approx(1)
    assert total["detection_precision"] == pytest.approx(1)
    assert total["detection_chance"] == pytest.approx(20 / len(rows))
    assert total["label_auroc"] == pytest.approx(1)
    assert set(classes) == {"a", "b"}  # no given label of the others is wrong
    assert classes["a"]["chance"] == pytest.approx((noisy & ~clean)[:, 0].sum() / noisy[:, 0].sum())
    turned, _ = detection.figures(samples, clean, noisy, -truth, 0.2)
    assert turned["label_auroc"] < 0.1
    assert detection.figures(samples, clean, clean, truth, 0.2) == ({}, {})


def test_chi_square_against_a_loop() -> None:
    first, second = torch.rand(3, 5), torch.rand(4, 5) - 0.3
    found = chi_square(first, second)
    for q in range(3):
        for n in range(4):
            u, v = first[q], second[n].clamp(min=0)
            assert found[q, n] == pytest.approx(float(0.5 * ((u - v) ** 2 / (u + v + 1e-10)).sum()), rel=1e-5)


def test_finished_cells_are_read_and_others_have_other_names(tmp_path: Path, monkeypatch) -> None:
    samples, noise = drawn("single"), Noise("class_change", 0.3)
    first = table.cell_of(tmp_path, samples, "drawn", "plain", noise, 0, TRAINING, None)
    assert first["data"] == "drawn"
    monkeypatch.setattr(table, "run", lambda *args: pytest.fail("trained again"))
    assert table.cell_of(tmp_path, samples, "drawn", "plain", noise, 0, TRAINING, None) == first
    for changed in (
        {"noise": Noise("class_change", 0.4)},
        {"seed": 1},
        {"name": "focal"},
        {"training": Training(3, 16, width=8)},
    ):
        given = {"name": "plain", "noise": noise, "seed": 0, "training": TRAINING, **changed}
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            table.cell_of(
                tmp_path, samples, "drawn", given["name"], given["noise"], given["seed"], given["training"], None
            )


def test_a_summary_has_means_and_deviations() -> None:
    cells = [
        {
            "data": "d",
            "name": "plain",
            "noise": {"kind": "additive", "rate": 0.2},
            "cpu_seconds": seconds,
            "test": {"map_macro": value},
            "classes": classes,
        }
        for seconds, value, classes in ((1.0, 0.4, {"a": {"auroc": 0.5}}), (3.0, 0.6, {"a": {"auroc": 0.7}}))
    ]
    (found,) = table.summary(cells)
    assert found["mean"]["map_macro"] == pytest.approx(0.5)
    assert found["deviation"]["map_macro"] == pytest.approx(0.1414, abs=1e-4)
    assert (found["seeds"], found["cpu_seconds"]) == (2, 2.0)
    assert found["classes"] == {"a": {"auroc": pytest.approx(0.6)}}


def test_conclusions_can_say_no() -> None:
    rows = [row("plain", 0.0, 0.8), row("grid", 0.0, 0.795), row("rs_irl_svae", 0.0, 0.7)]
    rows += [row("plain", 0.4, 0.5), row("elr", 0.4, 0.6, label_auroc=0.7), row("co_teaching", 0.4, 0.9)]
    rows += [
        row("grid", 0.4, 0.65, label_auroc=0.6),
        row("rs_irl_svae", 0.4, 0.55, label_precision=0.6, label_chance=0.4),
    ]
    found = conclusions(rows)["synthetic, class_change"]
    assert all(found["grid"]["no_worse_without_noise"].values())
    assert not any(found["rs_irl_svae"]["no_worse_without_noise"].values())
    assert found["grid"]["best_at_40_by"] == ["map_macro", "f1_macro", "ndcg@20"]  # plain has no detection to compare
    assert found["grid"]["gain"]["0.4"]["map_macro"] == pytest.approx(0.15)
    assert found["rs_irl_svae"]["precision_over_chance"] == {"0.4": pytest.approx(1.5)}
    at = {(r["rate"], r["objective"]): r for r in rows}
    assert best_by("rs_irl_svae", at, 0.4) == []  # below ELR
    assert not_worse(row("grid", 0.4, 0.4), row("plain", 0.4, 0.5)) == dict.fromkeys(
        ("map_macro", "f1_macro", "ndcg@20"), False
    )


def test_the_report_shows_every_row_and_a_curve_per_measure() -> None:
    rows = [row(name, rate, 0.5) for rate in (0.0, 0.4) for name in ("plain", "grid")]
    rows[-1]["classes"] = {"Pastures": {"auroc": 0.81, "precision": 0.4, "chance": 0.2}}
    rows[-1]["cpu_seconds"] = 3.0
    text = report_page({"rows": rows, "seeds": 3, "training": {}})
    assert text.count("<figure") >= 3
    assert "0.81 / 0.40" in text
    assert "Pastures" in text
    lines = table_text(rows).splitlines()
    assert len(lines) == 5
    assert lines[-1].split()[-1] == "1.50"  # of the plain loss


def test_a_description_says_what_a_band_holds() -> None:
    flat, steps = torch.full((8, 8), 3.0), torch.arange(8.0).expand(8, 8)
    found = described(torch.stack([flat, steps])).reshape(13, 2)
    assert found[:, 0].tolist() == [3, 0, 3, 3, 3, 3, 3, *[0] * 6]
    assert found[[0, 4], 1].tolist() == [3.5, 3.5]
    assert found[7:, 1].tolist() == [0, 1, 0, 2, 0, 4]  # edges across, at scales of 1, 2 and 4 pixels


def test_the_synthetic_archive_is_kept(tmp_path: Path, monkeypatch) -> None:
    made = synthetic(24, tmp_path)
    monkeypatch.setattr("benchmarks.label_noise.samples.synthetic_pairs", lambda *args: pytest.fail("drawn again"))
    kept = synthetic(24, tmp_path)
    assert torch.equal(made.images, kept.images)
    assert (made.labels == kept.labels).all()
    assert (made.split == kept.split).all()
    assert len(made.rows("train")) > 4


def test_every_row_has_an_objective_that_takes_both_data_sets() -> None:
    for name, variant in VARIANTS.items():
        for target in ("multi", "single"):
            samples = drawn(target)
            run(
                samples,
                variant.objective,
                Noise("class_change", 0.2),
                0,
                variant.settings(samples),
                Training(1, 16, width=8),
            )
        assert name


def test_out_of_sample_probabilities_do_not_see_their_label() -> None:
    samples = drawn("single")
    rows = samples.rows("train")
    labels = samples.labels[rows]
    found = peer.out_of_sample(samples, rows, labels, 0, TRAINING)
    assert found.shape == labels.shape
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    order = np.random.default_rng(peer.derive_seed("folds", 0)).permutation(len(rows))
    held = order[0 :: peer.FOLDS]
    turned = labels.copy()
    turned[held] = np.roll(turned[held], 1, axis=1)
    other = peer.out_of_sample(samples, rows, turned, 0, TRAINING)
    np.testing.assert_array_equal(found[held], other[held])
    assert (found != other).any()


@pytest.mark.skipif(not PEER, reason="EOFORGE_PEER_PYTHON names no environment with cleanlab")
@pytest.mark.parametrize("target", ["multi", "single"])
def test_cleanlab_is_a_row(target: str) -> None:
    found = peer.run(drawn(target), Noise("class_change", 0.3), 0, Training(25, 16, width=32), Path(PEER or ""))
    assert found["test"]["label_auroc"] > 0.6
    assert found["cpu_seconds"] > 0


def test_the_overhead_counts_the_branch() -> None:
    rows = measure("tiny", 4, 1)["rows"]
    branch = GenerativeBranch(256, 19, 128)
    added = sum(p.numel() for p in branch.parameters())
    assert rows["grid"]["parameters"] - rows["plain"]["parameters"] == added
    assert rows["rs_irl_svae"]["more_parameters"] == rows["grid"]["more_parameters"] > 0
