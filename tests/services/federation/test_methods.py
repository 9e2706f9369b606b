"""Whole methods on a real coordinator: the model equals that of the simulation, bit for bit."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from eoforge.client.federation import FederationClient
from eoforge.client.silo import SiloClient
from eoforge.config import from_dict
from eoforge.data.loading.loader import PatchLoader
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.federated import simulate
from eoforge.federated.silo.silo import Silo
from eoforge.federated.strategy import SiloInfo
from eoforge.federated.training.data import normalisation_of
from eoforge.federated.training.setup import silo_trainer
from eoforge.federated.training.specs import first_model
from eoforge.methods import get_method
from eoforge.methods.federated_launch import prepare, strategy_of, trainers, training_patches, upload_model
from eoforge.storage.addresses import TableRef
from eoforge.storage.tensorfile import read_file
from tests.services.federation.helpers import server_for
from tests.services.support import running

SMALL = {"rounds": "3", "local_epochs": "1", "width": "8", "size": "20", "bits": "16", "batch_size": "16"}
RUNS = [
    ("fl_rs", {"algorithm": "scaffold"}, {"north": ["s1", "s2"], "south": ["s2"]}),
    ("mm_fl", {"slots": "509", "embedding": "8"}, {"north": ["s1"], "south": ["s2"]}),
]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TableRef]:
    """Silo -> its patches."""
    folder = tmp_path_factory.mktemp("silos")
    made = {}
    for seed, silo in enumerate(("north", "south")):
        uri = str(folder / f"{silo}.lance")
        lance.write_dataset(pa.Table.from_batches([record_batch(list(synthetic_pairs(48, seed=seed)))]), uri)
        made[silo] = TableRef(uri, 1)
    return made


@pytest.mark.parametrize(("method", "overrides", "held"), RUNS)
def test_the_service_gives_the_simulations_bits(
    tables: dict[str, TableRef], tmp_path: Path, method: str, overrides: dict[str, str], held: dict[str, list[str]]
) -> None:
    spec, model, roles = prepare(method, "tiny", {**SMALL, **overrides}, None, str(tables["north"]))
    spec.policy.min_silos = 2
    with running(server_for(tmp_path / "store")) as served:
        threads = [_take_part(served.target, tmp_path, silo, tables[silo], held[silo]) for silo in held]
        with FederationClient(served.target) as client:
            upload_model(client, spec, model, roles)
            client.create_run(spec, "run")
            list(client.watch("run"))
            uri = client.run("run").bundle_uri
            client.get_model("run", str(tmp_path / "model.safetensors"))
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    served_model = read_file(tmp_path / "model.safetensors")

    chosen: Any = get_method(method)
    config = chosen.config("tiny", {**SMALL, **overrides})
    normalisation = normalisation_of(tables["north"], config.bands_read)
    local = {
        silo: silo_trainer(chosen, config, tables[silo], silo, sensors, normalisation) for silo, sensors in held.items()
    }
    silos = [
        SiloInfo(silo, training_patches(tables[silo]), sensors[0] if len(sensors) == 1 else "")
        for silo, sensors in held.items()
    ]
    strategy = config.strategy()
    federation = simulate.begin(strategy, *first_model(chosen.build(config)), silos)
    simulate.run(strategy, federation, silos, local, config.rounds)
    for tensor, values in federation.model().items():
        assert np.asarray(served_model[tensor]).tobytes() == values.tobytes(), tensor

    # The bundle that the coordinator wrote loads and encodes.
    from eoforge.bundle import load_bundle

    encoder = chosen.load(load_bundle(uri), "cpu")
    batch = next(iter(PatchLoader(tables["north"], batch_size=4)))
    assert all(encoder.encode(batch, m)[0].shape == (4, 2) for m in encoder.modalities)
    assert from_dict(chosen.config_type, load_bundle(uri).config["config"]) == config


def _take_part(target: str, folder: Path, name: str, table: TableRef, sensors: list[str]) -> threading.Thread:
    silo = Silo(
        SiloClient(target, silo_id=name),
        lambda task: trainers(task, table, name, modalities=sensors),
        folder / name,
        modalities=sensors,
        samples=training_patches(table),
        methods=["fl_rs", "mm_fl"],
        strategies=strategy_of,
    )
    thread = threading.Thread(target=silo.run, kwargs={"until_end_of": "run"}, daemon=True)
    thread.start()
    return thread
