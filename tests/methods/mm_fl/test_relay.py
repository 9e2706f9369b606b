"""What a radar silo and an optical one exchange: relay tables, mutual information, no whitening statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from eoforge.data.loading.loader import PatchLoader
from eoforge.federated import simulate
from eoforge.federated.strategy import SiloInfo
from eoforge.federated.training.data import images_of, normalisation_of
from eoforge.federated.training.local import SiloTrainer
from eoforge.federated.training.specs import first_model
from eoforge.methods.mm_fl.config import Config
from eoforge.methods.mm_fl.data import SensorData, slots_of
from tests.methods.mm_fl.support import METHOD, config


class TwoSensorFederation:
    """A radar silo and an optical one over the same patches."""

    def __init__(self, table: Any, settings: Config) -> None:
        self.settings, self.strategy = settings, settings.strategy()
        images = images_of(table, settings, normalisation_of(table, settings.bands_read))
        batch = [b for part in PatchLoader(table, batch_size=64) for b in part.patch_id]
        slots = slots_of(batch, settings.seed, settings.slots)
        rows = np.arange(24)
        self.silos = [SiloInfo("a-s1", 24, "s1"), SiloInfo("a-s2", 24, "s2")]
        self.data = {
            s.id: SensorData(images, rows, rows, s.id, (s.modality,), slots=slots, batch_size=12, seed=0)
            for s in self.silos
        }
        self.trainers = {
            i: SiloTrainer(self.strategy, lambda: METHOD.build(settings), d, settings.local())
            for i, d in self.data.items()
        }
        self.state = simulate.begin(self.strategy, *first_model(METHOD.build(settings)), self.silos)

    def round(self) -> None:
        simulate.run_round(self.strategy, self.state, self.silos, self.trainers)


def test_relay_tables_hold_sums_of_unit_embeddings_by_slot(table) -> None:
    federation = TwoSensorFederation(table, config())
    federation.round()
    for sensor in ("s1", "s2"):
        counts, sums = (federation.state.tensors[f"relay/{sensor}.{part}"] for part in ("count", "sum"))
        assert counts.sum() == 24
        data = federation.data[f"a-{sensor}"]
        slots = data.slots[torch.from_numpy(data.training)].numpy()
        assert np.array_equal(counts, np.bincount(slots, minlength=509))
        alone = counts == 1
        assert np.allclose(np.linalg.norm(sums[alone], axis=1), 1, atol=1e-5)
        assert not sums[counts == 0].any()
    # Another salt, other slots: tables of two runs cannot be joined.
    assert not torch.equal(slots_of(["a", "b", "c"], 0, 509), slots_of(["a", "b", "c"], 1, 509))


def test_relay_brings_the_two_sensors_of_a_cell_together_without_sharing_images(table) -> None:
    def agreement(weight: str) -> float:
        federation = TwoSensorFederation(table, config(mim_weight=weight, fw="false", local_epochs="8"))
        for _ in range(5):
            federation.round()
        network = METHOD.build(federation.settings)
        network.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in federation.state.model().items()})
        network.eval()
        with torch.no_grad():
            batch = federation.data["a-s1"].images.take(np.arange(24))
            features = network.represent(batch.images)
            z = {s: nn.functional.normalize(network.project(f, s), dim=1) for s, f in features.items()}
        cosines = z["s1"] @ z["s2"].T
        return float(cosines.diagonal().mean() - (cosines.sum() - cosines.diagonal().sum()) / (24 * 23))

    assert agreement("1.0") > agreement("0.0") + 0.2


def test_relay_is_silent_before_anyone_has_sent(table) -> None:
    with_mim, without = (
        TwoSensorFederation(table, config(mim_weight="5.0")),
        TwoSensorFederation(table, config(mim_weight="0.0")),
    )
    for together in (True, False):
        with_mim.round()
        without.round()
        first, second = (p.state.tensors["model/heads.shared.weight"] for p in (with_mim, without))
        assert np.array_equal(first, second) is together


def test_whitening_statistics_stay_at_the_silo(table) -> None:
    federation = TwoSensorFederation(table, config(mim="off"))
    federation.round()
    own = {i: {n for n in state if n.endswith("running_covariance")} for i, state in federation.state.silos.items()}
    assert own["a-s1"] == {"own/encoders.s1.stages.2.running_covariance"}
    assert own["a-s2"] == {"own/encoders.s2.stages.2.running_covariance"}
    task = simulate.task_for(federation.strategy, federation.state, federation.silos[0], federation.silos)
    kept = federation.trainers["a-s1"].personal(task, federation.state.silos["a-s1"]).state_dict()
    mine = federation.state.silos["a-s1"]["own/encoders.s1.stages.2.running_covariance"]
    assert np.array_equal(kept["encoders.s1.stages.2.running_covariance"].numpy(), mine)
    # The server's model has the average, of one silo here: for places outside the federation.
    assert np.allclose(federation.state.tensors["model/encoders.s1.stages.2.running_covariance"], mine)
