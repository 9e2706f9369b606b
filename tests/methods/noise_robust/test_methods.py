"""GRID and RS-IRL-SVAE as methods: training on a noisy version, resume, and a bundle that classifies and encodes."""

from __future__ import annotations

import lance
import numpy as np
import pytest
import torch

from eoforge.data.loading.loader import PatchLoader
from eoforge.data.noise.derived import add_noise, training_labels
from eoforge.data.noise.scene import Noise
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.errors import BundleError, UsageError
from eoforge.methods import Task, get_method, tasks_of
from eoforge.methods.evaluation.run import evaluate
from eoforge.methods.noise_robust.learner import learner_of
from eoforge.storage.addresses import open_table

SMALL = {"epochs": "2", "batch_size": "16", "size": "30", "width": "8", "latent": "8", "bits": "16"}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("noisy") / "patches.lance")
    lance.write_dataset(record_batch(list(synthetic_pairs(90, seed=4))), uri, schema=PATCHES)
    return add_noise(uri, Noise("class_change", 0.4), maps=True).table


@pytest.fixture(scope="module", params=["grid", "rs_irl_svae"])
def trained(request, noisy, tmp_path_factory):
    method = get_method(request.param)
    out = str(tmp_path_factory.mktemp(request.param))
    return method, method.train(noisy, out, method.config("tiny", SMALL))


def test_a_bundle_classifies_and_encodes(trained, noisy, tmp_path):
    method, bundle = trained
    assert tasks_of(bundle) == (Task.ENCODE, Task.CLASSIFY)
    figures = evaluate(bundle, noisy, out=str(tmp_path / "report"))
    assert 0 < figures["label_map_macro_s2"] <= 1
    (batch,) = PatchLoader(noisy, batch_size=90, modalities=("s2",))
    codes, embeddings = method.load(bundle).encode(batch, "s2")
    assert codes.shape == (90, 2)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    assert len(np.unique(codes, axis=0)) > 8
    assert not any("objective" in name or "branch" in name for name in bundle.weights())


def test_training_reads_the_noisy_labels(noisy):
    method = get_method("grid")
    config = method.config("tiny", SMALL)
    names, clean = training_labels(open_table(noisy))
    learner = learner_of("grid", config, names)(dict.fromkeys(config.s2_bands, (0.0, 1.0)))
    seen = {}
    learner.objective.register_forward_pre_hook(lambda _, args: seen.update(labels=args[1], rows=args[2]))
    loader = PatchLoader(noisy, batch_size=90, modalities=("s2",))
    for batch in loader:
        chosen = [i for i, name in enumerate(batch.patch_id) if name in set(names)]
        part = next(iter(PatchLoader(noisy, batch_size=90, modalities=("s2",), filter=_train())))
        learner.losses(part, 0)
        assert len(chosen) == len(seen["rows"])
    difference = (seen["labels"].numpy() > 0.5) != clean[seen["rows"].numpy()]
    assert difference.sum() / clean.sum() == pytest.approx(0.8, abs=0.1)  # 40 % of the labels, each wrong twice


def _train():
    from eoforge.data.loading.loader import PatchFilter

    return PatchFilter(splits=("train",))


@pytest.mark.parametrize("name", ["grid", "rs_irl_svae"])
def test_pixel_maps_train_with_the_same_objective(name, noisy):
    method = get_method(name)
    config = method.config("tiny", {**SMALL, "task": "pixels", "backbone": "resnet18", "size": "32", "sensors": "s1s2"})
    names, _ = training_labels(open_table(noisy))
    bands = [*config.s1_bands, *config.s2_bands]
    learner = learner_of(name, config, names)(dict.fromkeys(bands, (0.0, 1.0)))
    batch = next(iter(PatchLoader(noisy, batch_size=4, filter=_train(), reference_map=True)))
    terms = learner.losses(batch, 0)
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"])
    assert all(p.grad is not None for p in learner.objective.branch.parameters())
    assert learner.network.predict(learner.images(batch)).shape == (4, 19, 32, 32)


def test_relations_train_an_encoder(noisy, tmp_path):
    method = get_method("grid")
    config = method.config("tiny", {**SMALL, "task": "relations", "epochs": "3"})
    bundle = method.train(noisy, str(tmp_path), config)
    assert tasks_of(bundle) == (Task.ENCODE,)
    assert bundle.weights()["model.fc.weight"].shape[0] == 190
    history = bundle.metrics["history"]
    assert history[-1]["task"] < history[0]["task"]  # mean squared error of the adjacency
    assert 0 < history[-1]["validation_squared_error"] < 0.05
    (batch,) = PatchLoader(noisy, batch_size=90, modalities=("s2",))
    assert method.load(bundle).encode(batch, "s2")[0].shape == (90, 2)
    with pytest.raises(BundleError, match="can encode; classify is none of it"):
        method.classifier(bundle)
    with pytest.raises(UsageError, match="an encoder has one sensor"):
        method.config("tiny", {**SMALL, "task": "relations", "sensors": "s1s2"})


def test_a_run_resumes_bit_for_bit(noisy, tmp_path, monkeypatch):
    method = get_method("grid")
    config = method.config("tiny", {**SMALL, "adaptive": "true", "start_epochs": "1"})
    whole = method.train(noisy, str(tmp_path / "whole"), config)
    from eoforge.methods import run_files

    saved, count = run_files.RunFiles.save, []

    def killed(self, *args):
        saved(self, *args)
        count.append(1)
        if len(count) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_files.RunFiles, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        method.train(noisy, str(tmp_path / "halves"), config)
    halves = method.train(noisy, str(tmp_path / "halves"), config)
    assert len(count) > 1
    for name, value in whole.weights().items():
        assert torch.equal(value, halves.weights()[name]), name


def test_settings_that_contradict_are_named(trained, noisy):
    method, bundle = trained
    with pytest.raises(UsageError, match="takes loss=bce and positive_weight=0; got focal and 0"):
        method.config("tiny", {"loss": "focal"})
    with pytest.raises(UsageError, match=r"rate must be at least 0 and less than 1; got 1.0"):
        method.config("tiny", {"rate": "1.0"})
    with pytest.raises(BundleError, match="can encode and classify; segment is none of it"):
        method.segmenter(bundle)
