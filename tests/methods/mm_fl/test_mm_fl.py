"""MM-FL: averages per tensor, fusion, and whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eoforge.bundle import Bundle, load_bundle
from eoforge.data.labels import NUM_CLASSES
from eoforge.data.loading.loader import PatchFilter, PatchLoader
from eoforge.errors import UsageError
from eoforge.federated import simulate
from eoforge.federated.strategies.mm_fl import MultiModal, sensor_of
from eoforge.federated.strategy import RoundInfo, SiloInfo, UpdateInfo
from eoforge.federated.training.specs import first_model
from eoforge.methods.calibration import Calibration
from eoforge.methods.mm_fl.ablation import GRID, ablate
from eoforge.methods.mm_fl.method import VIEWS
from eoforge.methods.mm_fl.model import MultiModalNetwork
from eoforge.methods.prediction import open_predictor
from eoforge.metrics.multilabel import labels_of_masks
from eoforge.storage.tensorfile import TensorSpec
from tests.methods.mm_fl.support import METHOD, SMALL, config

SPECS = {f"model/{n}": TensorSpec((2,), "float64") for n in ("encoders.s1.w", "encoders.s2.w", "heads.shared.w")}
SILOS = tuple(SiloInfo(f"silo-{i}", n, m) for i, (n, m) in enumerate(((10, "s1"), (30, "s1"), (20, "s2"))))


def reduced(updates: dict[str, dict[str, Any]], weighting: str = "examples") -> dict[str, np.ndarray]:
    """New tensors by name; deltas are given, old values are 1."""
    from eoforge.federated.reduce import Part, combine

    infos = tuple(UpdateInfo(s.id, s.examples, 1, frozenset(updates[s.id])) for s in SILOS if s.id in updates)
    source = simulate.MemorySource({n: np.ones(2) for n in SPECS}, updates)
    reduction = MultiModal(weighting).reduction(RoundInfo(0, SILOS, infos), SPECS, source)  # type: ignore[arg-type]
    return {o.name.removeprefix("model/"): combine([Part(o, 0, 2)], source)[0] for o in reduction.outputs}


def deltas(**values: float) -> dict[str, np.ndarray]:
    names = {"s1": "delta/encoders.s1.w", "s2": "delta/encoders.s2.w", "head": "delta/heads.shared.w"}
    return {names[k]: np.full(2, v) for k, v in values.items()}


def test_every_tensor_is_averaged_over_those_who_sent_it() -> None:
    updates = {
        "silo-0": deltas(s1=4.0, head=6.0),
        "silo-1": deltas(s1=8.0, head=12.0),
        "silo-2": deltas(s2=5.0, head=3.0),
    }
    new = reduced(updates)
    # theta_m over the silos of the sensor with weights that sum to one there; psi over all.
    assert np.allclose(new["encoders.s1.w"], 1 + (10 * 4 + 30 * 8) / 40)
    assert np.allclose(new["encoders.s2.w"], 1 + 5)
    assert np.allclose(new["heads.shared.w"], 1 + (10 * 6 + 30 * 12 + 20 * 3) / 60)
    assert np.allclose(reduced(updates, "uniform")["encoders.s1.w"], 1 + 6)


def test_a_tensor_that_nobody_sent_keeps_its_value() -> None:
    new = reduced({"silo-2": deltas(s2=5.0, head=3.0)})
    assert set(new) == {"encoders.s2.w", "heads.shared.w"}  # no output, so its bytes stay


def test_a_silo_receives_and_sends_its_sensor_and_what_is_shared() -> None:
    settings = config(mim="relay")
    strategy, (specs, _) = settings.strategy(), first_model(METHOD.build(settings))
    state = {f"model/{n}": s for n, s in specs.items()} | {n: s.spec for n, s in strategy.start(specs, SILOS).items()}
    radar = SILOS[0]
    down, up = strategy.download(radar, state), strategy.upload(radar, state)
    assert {sensor_of(n.partition("/")[2]) for n in down if n.startswith("model/")} == {"", "s1"}
    assert [n for n in down if n.startswith("relay/")] == ["relay/s2.sum", "relay/s2.count"]
    assert [n for n in up if n.startswith("relay/")] == ["relay/s1.sum", "relay/s1.count"]
    assert not any("running_covariance" in n for n in down)  # whitening statistics never come from others
    assert not any("running_covariance" in n for n in up if n.startswith("delta/"))
    assert any("running_covariance" in n for n in up if n.startswith("unseen/"))
    assert not any("num_batches_tracked" in n for n in (*down, *up))


def test_fusion_with_one_sensor_or_both() -> None:
    images = {"s1": torch.randn(3, 2, 20, 20), "s2": torch.randn(3, 10, 20, 20)}
    for fusion in ("mean", "concat"):
        network = MultiModalNetwork(config(fusion=fusion, mim="off")).eval()
        features = network.represent(images)
        head = network.heads["shared"]
        one = {"s1": features["s1"]}
        if fusion == "mean":
            assert torch.allclose(network.classify(features), head((features["s1"] + features["s2"]) / 2))
            assert torch.allclose(network.classify(one), head(features["s1"]))
        else:
            assert torch.allclose(network.classify(features), head(torch.cat([features["s1"], features["s2"]], 1)))
            absent = torch.cat([features["s1"], torch.zeros_like(features["s1"])], 1)
            assert torch.allclose(network.classify(one), head(absent))
    apart = MultiModalNetwork(config(mf="false", mim="off")).eval()
    assert set(apart.heads) == {"s1", "s2"}
    features = apart.represent(images)
    each = [apart.heads[s](features[s]) for s in ("s1", "s2")]
    assert torch.allclose(apart.classify(features), (each[0] + each[1]) / 2)


def test_paired_needs_both_sensors() -> None:
    settings = config(mim="paired")
    with pytest.raises(UsageError, match="needs both sensors at every silo; silo-0, silo-1, silo-2 hold one"):
        simulate.begin(settings.strategy(), *first_model(METHOD.build(settings)), SILOS)


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return METHOD.train(table, str(tmp_path_factory.mktemp("mm_fl")), config())


def test_two_silos_per_country_and_a_bundle_for_either_sensor(table, trained: Bundle) -> None:
    silos = trained.config["silos"]
    assert len(silos) % 2 == 0
    assert {name.rpartition("-")[2] for name in silos} == {"s1", "s2"}
    for view in VIEWS:
        assert 0 <= trained.metrics[f"test_{view}_f1_weighted"] <= 1
        assert 0 <= trained.metrics[f"validation_{view}_map_macro"] <= 1
    encoder = METHOD.load(load_bundle(trained.uri), "cpu")
    assert encoder.modalities == ("s1", "s2")
    batch = next(iter(PatchLoader(table, batch_size=8)))
    assert all(encoder.encode(batch, m)[0].shape == (8, 2) for m in encoder.modalities)


def test_a_bundle_is_calibrated_on_both_sensors(table, trained: Bundle) -> None:
    rows = list(PatchLoader(table, batch_size=64, filter=PatchFilter(splits=("validation",))))
    network, prepare = METHOD.classifier(trained, "cpu"), open_predictor(trained, "cpu")._prepare
    with torch.no_grad():
        logits = torch.cat([network.predict({sensor: prepare[sensor](b) for sensor in ("s1", "s2")}) for b in rows])
    labels = torch.cat([labels_of_masks(b.label_mask, NUM_CLASSES) for b in rows])
    assert Calibration.of(trained).temperature == pytest.approx(Calibration.fit(logits, labels).temperature, rel=1e-3)


def test_paired_runs_have_one_silo_per_country(table, runs: str, trained: Bundle) -> None:
    bundle = METHOD.train(table, runs, config(mim="paired", rounds="1"))
    assert 2 * len(bundle.config["silos"]) == len(trained.config["silos"])


def test_the_ablation_grid(table, tmp_path: Path) -> None:
    result = ablate(table, tmp_path, scenarios=("ds2",), overrides={**SMALL, "rounds": "1"})
    assert [row["row"] for row in result["rows"]] == list(GRID)
    assert all(0 <= row["test"][f"{view}_f1_weighted"] <= 1 for row in result["rows"] for view in VIEWS)
    page = (tmp_path / "ablation.html").read_text()
    assert all(row in page for row in GRID)
    stamp = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").iterdir()}
    ablate(table, tmp_path, scenarios=("ds2",), overrides={**SMALL, "rounds": "1"})
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").iterdir()} == stamp


def test_settings_are_checked() -> None:
    for overrides, says in (
        ({"mf": "false", "fusion": "concat"}, "fusion=concat needs"),
        ({"mim": "always"}, "mim must be one of"),
        ({"temperature": "0"}, "temperature > 0"),
        ({"s1_bands": "B02"}, "bands of s1"),
    ):
        with pytest.raises(UsageError, match=says):
            config(**overrides)
