"""Federated runs from a table to a bundle: figures, codes, the service's bits, resume."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eoforge.bundle import Bundle, load_bundle, training_patches, write_bundle
from eoforge.data.labels import NUM_CLASSES
from eoforge.data.loading.loader import PatchFilter, PatchLoader
from eoforge.errors import BundleError, DataRefused, NotFound, UsageError
from eoforge.federated import simulate
from eoforge.federated.strategies.registry import make_strategy
from eoforge.federated.strategy import SiloInfo
from eoforge.federated.training import checkpoint as checkpoints
from eoforge.federated.training.checkpoint import Checkpoint
from eoforge.federated.training.data import normalisation_of
from eoforge.federated.training.setup import silo_trainer
from eoforge.federated.training.specs import first_model
from eoforge.methods.calibration import Calibration
from eoforge.methods.evaluation.run import evaluate
from eoforge.methods.fl_rs.compare import QUALITY
from eoforge.methods.fl_rs.method import METHOD
from eoforge.methods.prediction import open_predictor
from eoforge.metrics.multilabel import labels_of_masks
from eoforge.storage.addresses import open_table
from eoforge.storage.objects import ObjectStore
from tests.federated.training.federations import NetworkFederation, QuadraticFederation, three_silos

SMALL = {"rounds": "2", "local_epochs": "1", "width": "8", "size": "20", "bits": "16", "batch_size": "16"}


def config(**overrides: str) -> Any:
    return METHOD.config("tiny", {**SMALL, **overrides})


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return METHOD.train(table, str(tmp_path_factory.mktemp("trained")), config(algorithm="fedbn", rounds="4"))


def test_a_run_ends_as_a_bundle_with_figures_and_skew(table, trained: Bundle) -> None:
    metrics = trained.metrics
    assert all(0 <= metrics[f"test_{name}"] <= 1 and 0 <= metrics[f"test_personal_{name}"] <= 1 for name in QUALITY)
    assert [row["round"] for row in metrics["history"]] == [0, 1, 2, 3]
    assert metrics["history"][-1]["loss"] < metrics["history"][0]["loss"]
    skew = json.loads(trained.read("skew.json"))
    assert {row["silo"]: row["patches"] for row in skew["silos"]} == trained.config["silos"]
    assert training_patches(trained) == table
    assert f"bundle-{trained.short_id}" in open_table(table).tags.list()
    card = trained.read("README.md").decode()
    assert "| algorithm | fedbn |" in card
    assert all(silo in card for silo in trained.config["silos"])


def test_a_bundle_encodes_what_was_trained(table, trained: Bundle) -> None:
    encoder = METHOD.load(load_bundle(trained.uri), "cpu")
    batch = next(iter(PatchLoader(table, batch_size=16)))
    codes, embeddings = encoder.encode(batch, "s2")
    assert codes.shape == (16, 2)
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    one_by_one = np.concatenate([encoder.encode(b, "s2")[0] for b in PatchLoader(table, batch_size=1)])[:16]
    assert (np.unpackbits(one_by_one) != np.unpackbits(codes)).sum() <= 1
    with pytest.raises(UsageError, match="encodes s2; got modality 's1'"):
        encoder.encode(batch, "s1")
    untrained = METHOD.untrained(trained, 1, "cpu").encode(batch, "s2")[0]
    assert not np.array_equal(untrained, codes)
    network = METHOD.classifier(trained, "cpu")
    assert network(torch.zeros(2, 10, 20, 20)).shape == (2, 19)


def test_a_bundle_has_the_calibration_of_the_validation_split(table, trained: Bundle) -> None:
    calibration = Calibration.of(trained)
    assert calibration.fitted
    rows = PatchLoader(table, batch_size=64, filter=PatchFilter(splits=("validation",)))
    network, prepare = METHOD.classifier(trained, "cpu"), open_predictor(trained, "cpu")._prepare["s2"]
    with torch.no_grad():
        logits = torch.cat([network.classify(network.represent(prepare(batch))) for batch in rows])
    labels = torch.cat([labels_of_masks(batch.label_mask, NUM_CLASSES) for batch in rows])
    expected = Calibration.fit(logits, labels)
    assert calibration.temperature == pytest.approx(expected.temperature, rel=1e-4)
    np.testing.assert_allclose(calibration.thresholds, expected.thresholds, atol=1e-5)


def test_a_bundle_of_one_sensor_is_evaluated_like_any_other(table, trained: Bundle, tmp_path: Path) -> None:
    figures = evaluate(trained, table, out=str(tmp_path))
    assert figures["bits"] == 16
    page = (tmp_path / "report.html").read_text()
    assert "Loss per round." in page
    assert "optical" in page


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["bands"]["s2"].reverse(), "reads bands"),
        (lambda c: c.update(method="mm_fl"), "bundle of 'mm_fl'"),
        (lambda c: c.update(bits=128), "says bits 128"),
        (lambda c: c["config"].update(width=16), "do not fit"),
        (lambda c: c["config"].update(algorithm="fedsgd"), "algorithm must be one of"),
    ],
)
def test_bundles_that_contradict_themselves_are_refused(tmp_path: Path, trained: Bundle, change, says: str) -> None:
    changed = json.loads(json.dumps(trained.config))
    change(changed)
    bundle = write_bundle(str(tmp_path), weights=trained.weights(), config=changed, metrics={}, readme="")
    with pytest.raises(BundleError, match=says):
        METHOD.load(bundle, "cpu")


@pytest.mark.parametrize("algorithm", ["scaffold", "moon", "fedbn", "pfedla"])
def test_a_run_that_was_cut_off_ends_with_the_same_bundle(
    table, runs: str, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(algorithm=algorithm, rounds="3", fraction="0.6")
    whole = METHOD.train(table, runs + "/whole", settings)
    save = Checkpoint.save

    def cut(self: Checkpoint, federation: simulate.Federation, history: list[dict[str, Any]]) -> None:
        save(self, federation, history)
        if federation.round == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.Checkpoint, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        METHOD.train(table, runs + "/cut", settings)
    monkeypatch.undo()
    resumed = METHOD.train(table, runs + "/cut", settings)
    assert resumed.files["weights.safetensors"] == whole.files["weights.safetensors"]
    assert [r["loss"] for r in resumed.metrics["history"]] == [r["loss"] for r in whole.metrics["history"]]
    assert METHOD.train(table, runs + "/cut", settings).id == resumed.id  # a finished run returns its bundle
    assert (
        METHOD.train(table, runs + "/cut", settings, resume=False).files["weights.safetensors"]
        == (whole.files["weights.safetensors"])
    )


def test_a_damaged_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    federation = QuadraticFederation(make_strategy("scaffold"), three_silos())
    federation.round()
    kept = Checkpoint(str(tmp_path), "run")
    kept.save(federation.state, [{"round": 0}])
    file = next(tmp_path.rglob("federation.safetensors"))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DataRefused, match="Remove it, or train with resume off"):
        kept.load(QuadraticFederation(make_strategy("scaffold"), three_silos()).state)


def test_the_simulation_gives_the_services_bits(tmp_path: Path) -> None:
    """The same round through stored files, in slices and over several threads, as the coordinator reduces it."""
    from eoforge.federated.reduce import StoredSource, write_reduction
    from eoforge.federated.store.chunk_store import ChunkStore
    from eoforge.federated.strategy import RoundInfo, UpdateInfo, split_name

    for name in ("fedavg", "scaffold", "fednova", "feddc", "feddyn", "fedbn", "pfedla"):
        federation = NetworkFederation(name)
        federation.round()  # a first round, so that all state differs from zero
        objects = ChunkStore(ObjectStore(str(tmp_path / name)), "objects")
        files = _store(objects, federation.state.tensors, federation.state.specs)
        updates, infos = {}, []
        for silo in federation.silos:
            task = simulate.task_for(federation.strategy, federation.state, silo, federation.silos)
            result = federation.trainers[silo.id].train(task, federation.state.silos[silo.id])
            specs = federation.strategy.upload(silo, federation.state.specs)
            updates[silo.id] = _write(objects, {n: result.tensors[n] for n in specs}, specs)
            infos.append(UpdateInfo(silo.id, result.examples, result.steps, frozenset(specs), dict(result.scalars)))
        source = StoredSource(updates, files)
        info = RoundInfo(1, tuple(federation.silos), tuple(infos))
        reduction = federation.strategy.reduction(info, federation.state.specs, source)
        with ThreadPoolExecutor(2) as pool:
            written = write_reduction(reduction, files, source, objects, pool)
        federation.round()
        for full, expected in federation.state.tensors.items():
            group, tensor = split_name(full)
            if group in written:
                stored = objects.open(written[group])
                assert stored.read(tensor, 0, expected.size).tobytes() == expected.tobytes(), (name, full)


def test_a_silo_trains_on_its_own_table(table) -> None:
    """What runs beside a silo in the service: the same trainer on whatever its table holds."""
    settings = config(algorithm="scaffold")
    normalisation = normalisation_of(table, settings.bands)
    trainer = silo_trainer(METHOD, settings, table, "silo-a", ("s1", "s2"), normalisation, "cpu")
    silos = [SiloInfo("silo-a", trainer.data.examples, "s2")]
    federation = simulate.begin(trainer.strategy, *first_model(METHOD.build(settings)), silos)
    simulate.run_round(trainer.strategy, federation, silos, {"silo-a": trainer})
    figures = trainer.evaluate(
        simulate.task_for(trainer.strategy, federation, silos[0], silos), federation.silos["silo-a"]
    )
    assert set(QUALITY) < set(figures)
    elsewhere = dataclasses.replace(settings, countries=("Atlantis",))
    with pytest.raises(NotFound, match="0 training patches for this run"):
        silo_trainer(METHOD, elsewhere, table, "silo-a", ("s2",), normalisation)
    with pytest.raises(UsageError, match="the run reads s2; this silo takes part with s1"):
        silo_trainer(METHOD, settings, table, "silo-a", ("s1",), normalisation)


def _write(objects: Any, tensors: Any, specs: Any) -> Any:
    from eoforge.storage.tensorfile import Layout

    with ThreadPoolExecutor(1) as pool:
        digest = objects.write(
            Layout.of(specs), lambda wanted: [tensors[n].reshape(-1)[a:b] for n, a, b in wanted], pool
        )
    return objects.open(digest)


def _store(objects: Any, tensors: Any, specs: Any) -> dict[str, Any]:
    from eoforge.federated.strategy import split_name

    files = {}
    for group in {split_name(n)[0] for n in specs}:
        inner = {split_name(n)[1]: s for n, s in specs.items() if split_name(n)[0] == group}
        files[group] = _write(objects, {n: tensors[f"{group}/{n}"] for n in inner}, inner)
    return files
