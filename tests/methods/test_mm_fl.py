"""MM-FL: averages per tensor, whitening, mutual information between silos that share no image, and whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eoforge.bundle import Bundle, load_bundle
from eoforge.data.loader import PatchLoader
from eoforge.errors import UsageError
from eoforge.federated import simulate
from eoforge.federated.strategy import RoundInfo, SiloInfo, TensorSpec, UpdateInfo
from eoforge.methods import get_method
from eoforge.methods.fl_rs.federate import normalisation_of
from eoforge.methods.fl_rs.local import SiloTrainer
from eoforge.methods.fl_rs.model import encoder
from eoforge.methods.mm_fl.ablation import GRID, ablate
from eoforge.methods.mm_fl.config import Config
from eoforge.methods.mm_fl.data import SensorData, slots_of
from eoforge.methods.mm_fl.model import MultiModalNetwork
from eoforge.methods.mm_fl.simulation import VIEWS, build_network, first_model, images_of
from eoforge.methods.mm_fl.strategy import MultiModal, sensor_of
from eoforge.methods.mm_fl.whitening import GroupedWhitening, whiten

METHOD = get_method("mm_fl")
SMALL = {
    "rounds": "2",
    "local_epochs": "1",
    "width": "8",
    "size": "20",
    "bits": "16",
    "batch_size": "16",
    "slots": "509",
    "embedding": "8",
}


def config(**overrides: str) -> Config:
    made: Config = METHOD.config("tiny", {**SMALL, **overrides})
    return made


class Memory:
    """Server tensors and updates as arrays."""

    def __init__(self, state: dict[str, Any], updates: dict[str, dict[str, Any]]) -> None:
        self.tensors, self.updates = state, updates

    def update(self, silo: str, name: str, start: int, stop: int) -> Any:
        return self.updates[silo][name].reshape(-1)[start:stop]

    def state(self, name: str, start: int, stop: int) -> Any:
        return self.tensors[name].reshape(-1)[start:stop]


SPECS = {f"model/{n}": TensorSpec((2,), "float64") for n in ("encoders.s1.w", "encoders.s2.w", "heads.shared.w")}
SILOS = tuple(SiloInfo(f"silo-{i}", n, m) for i, (n, m) in enumerate(((10, "s1"), (30, "s1"), (20, "s2"))))


def reduced(updates: dict[str, dict[str, Any]], weighting: str = "examples") -> dict[str, np.ndarray]:
    """New tensors by name; deltas are given, old values are 1."""
    from eoforge.federated.reduce import Part, combine

    infos = tuple(UpdateInfo(s.id, s.examples, 1, frozenset(updates[s.id])) for s in SILOS if s.id in updates)
    source = Memory({n: np.ones(2) for n in SPECS}, updates)
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
    strategy, (specs, _) = settings.strategy(), first_model(settings)
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


def test_whitening_makes_every_groups_covariance_the_identity() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(8, 8, generator=generator)
    x = torch.einsum("cd,bdhw->bchw", mix, torch.randn(16, 8, 9, 9, generator=generator)) + 3
    layer = GroupedWhitening(8, epsilon=1e-6).train()
    y = layer(x)
    flat = y.transpose(0, 1).reshape(2, 4, -1)
    assert torch.allclose(flat.mean(dim=2), torch.zeros(2, 4), atol=1e-4)
    covariance = flat @ flat.transpose(1, 2) / flat.shape[2]
    assert torch.allclose(covariance, torch.eye(4).expand(2, 4, 4), atol=2e-3)
    # gamma and beta act per channel, as in batch norm
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(1.0)
    assert torch.allclose(layer(x), 2 * y + 1, atol=1e-4)


def test_whitening_is_cholesky_of_the_shrunk_covariance() -> None:
    x = (
        torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(2))
        * torch.tensor([1.0, 3, 0.5, 2])[:, None, None]
    )
    layer = GroupedWhitening(4).train()
    flat = x.transpose(0, 1).reshape(4, -1).double()
    away = flat - flat.mean(dim=1, keepdim=True)
    sigma = away @ away.T / away.shape[1]
    factor = torch.linalg.cholesky((1 - 1e-3) * sigma + 1e-3 * torch.eye(4))
    expected = torch.linalg.inv(factor) @ away
    assert torch.allclose(layer(x).transpose(0, 1).reshape(4, -1).double(), expected, atol=1e-4)
    assert torch.allclose(layer.running_covariance[0].double(), 0.9 * torch.eye(4) + 0.1 * sigma, atol=1e-5)
    assert torch.allclose(layer.running_centre.double(), 0.1 * flat.mean(dim=1), atol=1e-5)


def test_whitening_guards_a_batch_of_one_and_autocast() -> None:
    layer = GroupedWhitening(4).train()
    before = layer.running_covariance.clone()
    one = torch.randn(1, 4, 3, 3)
    assert torch.allclose(layer(one), one, atol=1e-3)  # by the running statistics, which start as the identity
    assert torch.equal(layer.running_covariance, before)
    batch = torch.randn(4, 4, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer.eval()(batch)
        assert layer(batch.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(inside, layer(batch))  # float32 inside: bf16 would move it by a percent
    constant = torch.full((4, 4, 3, 3), 7.0)
    assert torch.isfinite(layer.train()(constant)).all()
    with pytest.raises(UsageError, match="a multiple of 4 channels; got 6"):
        GroupedWhitening(6)


def test_whitening_gradient_against_finite_differences() -> None:
    layer = GroupedWhitening(4).train()

    def forward(x: torch.Tensor) -> torch.Tensor:
        layer.running_centre.zero_()
        return layer(x)

    x = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(3), requires_grad=True)
    w = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(4))
    (gradient,) = torch.autograd.grad((forward(x) * w).sum(), x)
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        slope = ((forward(x + 1e-2 * step) - forward(x - 1e-2 * step)) * w).sum() / 2e-2
    assert float((gradient * step).sum()) == pytest.approx(float(slope), rel=2e-2)


def test_where_whitening_goes() -> None:
    with torch.device("meta"):
        resnet, _ = encoder("resnet50", 2, 40, 8)
        whiten(resnet, "resnet50")
    places = [n for n, m in resnet.named_modules() if isinstance(m, GroupedWhitening)]
    # the stem, three in each of three blocks, and the shortcut of the first
    assert len(places) == 1 + 3 * 3 + 1
    assert all(n == "model.bn1" or n.startswith("model.layer1") for n in places)
    assert not any(n.startswith("model.layer1") for n, m in resnet.named_modules() if isinstance(m, nn.BatchNorm2d))
    tiny, _ = encoder("tiny_bn", 2, 20, 8)
    whiten(tiny, "tiny_bn")
    assert sum(isinstance(m, GroupedWhitening) for m in tiny.modules()) == 1
    with pytest.raises(UsageError, match="got poolformer"):
        whiten(tiny, "poolformer")


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


class Pair:
    """A radar silo and an optical one over the same patches."""

    def __init__(self, table: Any, settings: Config) -> None:
        self.settings, self.strategy = settings, settings.strategy()
        images = images_of(table, settings, normalisation_of(table, (*settings.s1_bands, *settings.s2_bands)))
        batch = [b for part in PatchLoader(table, batch_size=64) for b in part.patch_id]
        slots = slots_of(batch, self.strategy.salt, self.strategy.slots)
        rows = np.arange(24)
        self.silos = [SiloInfo("a-s1", 24, "s1"), SiloInfo("a-s2", 24, "s2")]
        self.data = {s.id: SensorData(images, rows, rows, s.id, (s.modality,), slots, 12, 0) for s in self.silos}
        self.trainers = {
            i: SiloTrainer(self.strategy, lambda: build_network(settings), d, settings.local())
            for i, d in self.data.items()
        }
        self.state = simulate.begin(self.strategy, *first_model(settings), self.silos)

    def round(self) -> None:
        simulate.run_round(self.strategy, self.state, self.silos, self.trainers)


def test_relay_tables_hold_sums_of_unit_embeddings_by_slot(table) -> None:
    pair = Pair(table, config())
    pair.round()
    for sensor in ("s1", "s2"):
        counts, sums = (pair.state.tensors[f"relay/{sensor}.{part}"] for part in ("count", "sum"))
        assert counts.sum() == 24
        data = pair.data[f"a-{sensor}"]
        slots = data.slots[torch.from_numpy(data.training)].numpy()
        assert np.array_equal(counts, np.bincount(slots, minlength=509))
        alone = counts == 1
        assert np.allclose(np.linalg.norm(sums[alone], axis=1), 1, atol=1e-5)
        assert not sums[counts == 0].any()
    # Another salt, other slots: tables of two runs cannot be joined.
    assert not torch.equal(slots_of(["a", "b", "c"], 0, 509), slots_of(["a", "b", "c"], 1, 509))


def test_relay_brings_the_two_sensors_of_a_cell_together_without_sharing_images(table) -> None:
    def agreement(weight: str) -> float:
        pair = Pair(table, config(mim_weight=weight, fw="false", local_epochs="8"))
        for _ in range(5):
            pair.round()
        network = build_network(pair.settings)
        network.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in pair.state.model().items()})
        network.eval()
        with torch.no_grad():
            batch = pair.data["a-s1"].images.take(np.arange(24))
            features = network.represent(batch.images)
            z = {s: nn.functional.normalize(network.project(f, s), dim=1) for s, f in features.items()}
        cosines = z["s1"] @ z["s2"].T
        return float(cosines.diagonal().mean() - (cosines.sum() - cosines.diagonal().sum()) / (24 * 23))

    assert agreement("1.0") > agreement("0.0") + 0.2


def test_relay_is_silent_before_anyone_has_sent(table) -> None:
    with_mim, without = Pair(table, config(mim_weight="5.0")), Pair(table, config(mim_weight="0.0"))
    for together in (True, False):
        with_mim.round()
        without.round()
        first, second = (p.state.tensors["model/heads.shared.weight"] for p in (with_mim, without))
        assert np.array_equal(first, second) is together


def test_whitening_statistics_stay_at_the_silo(table) -> None:
    pair = Pair(table, config(mim="off"))
    pair.round()
    own = {i: {n for n in state if n.endswith("running_covariance")} for i, state in pair.state.silos.items()}
    assert own["a-s1"] == {"own/encoders.s1.stages.2.running_covariance"}
    assert own["a-s2"] == {"own/encoders.s2.stages.2.running_covariance"}
    task = simulate.task_for(pair.strategy, pair.state, pair.silos[0], pair.silos)
    kept = pair.trainers["a-s1"].personal(task, pair.state.silos["a-s1"]).state_dict()
    mine = pair.state.silos["a-s1"]["own/encoders.s1.stages.2.running_covariance"]
    assert np.array_equal(kept["encoders.s1.stages.2.running_covariance"].numpy(), mine)
    # The server's model has the average, of one silo here: for places outside the federation.
    assert np.allclose(pair.state.tensors["model/encoders.s1.stages.2.running_covariance"], mine)


def test_paired_needs_both_sensors() -> None:
    settings = config(mim="paired")
    with pytest.raises(UsageError, match="needs both sensors at every silo; silo-0, silo-1, silo-2 hold one"):
        simulate.begin(settings.strategy(), *first_model(settings), SILOS)


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
