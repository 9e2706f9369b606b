"""The claims of SS-CM-RSIR, and encoding by a bundle."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from eoforge.bundle import Bundle, load_bundle, write_bundle
from eoforge.config import from_dict
from eoforge.data.loading.loader import PatchBatch, PatchLoader
from eoforge.errors import BundleError, DataRefused, UsageError
from eoforge.hashing.packing import pack_torch
from eoforge.index.search import HammingIndex
from eoforge.methods import get_method
from eoforge.methods.pairs import random_flips
from eoforge.methods.ss_cm_rsir.config import Config
from eoforge.methods.ss_cm_rsir.loss import objective, ramp
from eoforge.methods.ss_cm_rsir.method import _Learner
from eoforge.methods.ss_cm_rsir.model import Outputs, SsCmRsir
from eoforge.metrics.retrieval import partner_recall
from eoforge.nn.build import seeded
from tests.methods.conftest import SMALL

METHOD = get_method("ss_cm_rsir")
CONFIG = METHOD.config("tiny", SMALL)

GOLDEN = (11.9217, 9.6832, 6.7639, 7.2275, 6.641, 4.788, 6.0286, 5.7997, 4.2013, 5.5408)


@pytest.fixture(scope="module")
def batch(table) -> PatchBatch:
    return next(iter(PatchLoader(table, batch_size=16)))


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    overrides = {**SMALL, "epochs": "25", "learning_rate": "5e-3", "bits": "64", "batch_size": "16"}
    return METHOD.train(table, str(tmp_path_factory.mktemp("trained")), METHOD.config("tiny", overrides))


def learner_of(config) -> _Learner:
    bands = config.s1_bands + config.s2_bands
    return _Learner(config, {b: (-15.0, 5.0) if b in config.s1_bands else (1500.0, 1000.0) for b in bands})


def losses_of(learner: _Learner, batch: PatchBatch, steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(learner.parameters(), lr=2e-3)
    curve = []
    for step in range(steps):
        terms = learner.losses(batch, epoch=step % learner.config.epochs)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        curve.append(float(terms["loss"].detach()))
    return curve


def drawn_batch() -> PatchBatch:
    """Noise around a level common to both sensors, independent of the synthetic archive."""
    rng = np.random.Generator(np.random.Philox(key=1))
    level = rng.uniform(0.2, 1.8, (16, 1, 1, 1))

    def optical(bands: int, size: int) -> torch.Tensor:
        return torch.from_numpy((1000 * level + rng.normal(0, 200, (16, bands, size, size))).clip(1).astype(np.uint16))

    s1 = torch.from_numpy((-20 + 6 * level + rng.normal(0, 3, (16, 2, 120, 120))).astype(np.float32))
    names = [f"patch-{i}" for i in range(16)]
    return PatchBatch(names, optical(4, 120), optical(6, 60), optical(2, 20), s1, torch.zeros(16, dtype=torch.int64))


def test_golden_loss_curve_of_ten_steps() -> None:
    # Written by this code; the tolerance covers threads and instruction sets over ten steps.
    assert losses_of(learner_of(CONFIG), drawn_batch(), 10) == pytest.approx(GOLDEN, rel=5e-3)


def test_ramp_is_the_exponential_of_a_line() -> None:
    expected = np.exp(np.linspace(math.log(1e-4), 0, 150))
    assert [ramp(e, 150, 1e-4) for e in range(150)] == pytest.approx(expected)
    assert ramp(0, 1, 1e-4) == 1.0


def outputs(seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(6, 8, generator=generator) for _ in range(6)]
    return Outputs((drawn[0], drawn[1]), (drawn[2], drawn[3]), (drawn[4].tanh(), drawn[5].tanh()))


def test_similar_neighbours_lower_the_objective_and_raise_that_of_the_port() -> None:
    last = CONFIG.epochs - 1
    ours = objective(outputs(0), last, CONFIG)
    port = objective(outputs(0), last, dataclasses.replace(CONFIG, port_sign=True))
    terms = {name: float(value) for name, value in ours.items()}
    expected = terms["inter_modal"] - terms["discrepancy"] - terms["similarity"] + terms["hash"]
    assert terms["loss"] == pytest.approx(expected, rel=1e-6)
    assert float(port["loss"] - ours["loss"]) == pytest.approx(2 * terms["similarity"], rel=1e-5)


def test_parallel_features_of_the_sensors_lower_the_objective_by_the_discrepancy() -> None:
    """The discrepancy is log(1 + e^cos), subtracted: from cosine 0 to 1 the loss falls by log(1 + e) - log 2."""
    drawn, config = outputs(2), dataclasses.replace(CONFIG, similarity_weight=0.0)
    first, apart = torch.eye(8)[:6], torch.eye(8)[[6, 7, 0, 1, 2, 3]]
    parallel, orthogonal = (
        float(objective(dataclasses.replace(drawn, features=pair), config.epochs - 1, config)["loss"])
        for pair in ((first, 2 * first), (first, apart))
    )
    assert parallel - orthogonal == pytest.approx(-(math.log(1 + math.e) - math.log(2)), rel=1e-4)


def test_ramped_terms_start_near_zero() -> None:
    first, last = (objective(outputs(1), epoch, CONFIG) for epoch in (0, CONFIG.epochs - 1))
    change = 1 - CONFIG.ramp_start
    expected = change * float(first["discrepancy"] + first["similarity"])
    assert float(first["loss"] - last["loss"]) == pytest.approx(expected, rel=1e-4)


def test_a_detached_hash_loss_has_no_gradient_in_the_encoders() -> None:
    for detach in (False, True):
        network = seeded(lambda d=detach: SsCmRsir(dataclasses.replace(CONFIG, detach_hash=d)), 0)
        result = network(torch.randn(4, 2, 40, 40), torch.randn(4, 10, 40, 40))
        sum(h.square().sum() for h in result.hashes).backward()
        reached = [p.grad is not None and bool((p.grad != 0).any()) for p in network.branch("s1").encoder.parameters()]
        assert any(reached) is not detach
        assert any(p.grad is not None for p in network.branch("s2").hash.parameters())


def test_both_sensors_have_the_same_flips_which_change_each_epoch(batch: PatchBatch) -> None:
    learner = learner_of(CONFIG)
    first, second = (random_flips(batch, CONFIG.seed, epoch) for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, random_flips(batch, CONFIG.seed, 0))
    seen: dict[str, torch.Tensor] = {}

    def spy(s1: torch.Tensor, s2: torch.Tensor) -> Outputs:
        seen.update(s1=s1, s2=s2)
        return outputs(0)

    learner.network.forward = spy
    learner.losses(batch, 0)
    assert torch.equal(seen["s1"], learner.prepare["s1"](batch, first))
    assert torch.equal(seen["s2"], learner.prepare["s2"](batch, first))


def test_training_brings_the_two_sensors_codes_together(table, trained: Bundle) -> None:
    batch = next(iter(PatchLoader(table, batch_size=64)))

    def recall(encoder) -> float:
        s1, s2 = encoder.encode(batch, "s1")[0], encoder.encode(batch, "s2")[0]
        partners = np.arange(len(batch))
        ways = ((s1, s2), (s2, s1))
        return min(partner_recall(HammingIndex(g).search(q, 10)[1], partners) for q, g in ways)

    untrained = max(recall(METHOD.untrained(trained, seed, "cpu")) for seed in range(3))
    figure = recall(METHOD.load(trained, "cpu"))
    assert figure > untrained
    assert figure > 2 * 10 / 64  # random codes find the partner among ten of 64


def test_a_bundle_encodes_what_was_trained(table, trained: Bundle, batch: PatchBatch) -> None:
    encoder = METHOD.load(load_bundle(trained.uri), "cpu")
    config = from_dict(Config, trained.config["config"])
    learner = _Learner(config, {band: tuple(v) for band, v in trained.config["normalisation"].items()})
    learner.network.load_state_dict(trained.weights())
    learner.eval()
    for modality, prepare in learner.prepare.items():
        with torch.no_grad():
            logits, embedding = learner.network.encode(prepare(batch), modality)
        codes, embeddings = encoder.encode(batch, modality)
        assert codes.shape == (16, encoder.bits // 8)
        assert embeddings.shape == (16, encoder.embedding_dim)
        assert np.array_equal(codes, pack_torch(logits).numpy())
        assert np.allclose(embeddings, embedding.numpy(), atol=1e-6)
        assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_codes_do_not_depend_on_the_batch(table, trained: Bundle) -> None:
    encoder = METHOD.load(trained, "cpu")
    for modality in encoder.modalities:
        whole = {}
        for size in (16, 5, 1):
            parts = [encoder.encode(b, modality) for b in PatchLoader(table, batch_size=size)]
            whole[size] = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
        for size in (5, 1):
            assert np.allclose(whole[size][1], whole[16][1], atol=1e-5)
            # A logit within rounding of zero may fall on either side: none or next to none of 64 x 64 bits.
            assert (np.unpackbits(whole[size][0]) != np.unpackbits(whole[16][0])).sum() <= 2


def test_batches_that_do_not_fit_are_refused(table, trained: Bundle, batch: PatchBatch) -> None:
    encoder = METHOD.load(trained, "cpu")
    with pytest.raises(UsageError, match="encodes s1, s2; got modality 's3'"):
        encoder.encode(batch, "s3")
    radar_only = next(iter(PatchLoader(table, batch_size=2, modalities=("s1",))))
    with pytest.raises(DataRefused, match="the batch does not have them"):
        encoder.encode(radar_only, "s2")
    with pytest.raises(DataRefused, match=r"s1 must be float32 \[16, 2, 120, 120\]"):
        encoder.encode(dataclasses.replace(batch, s1=batch.s1[:, :1]), "s1")
    with pytest.raises(DataRefused, match="s2_10m must be uint16"):
        encoder.encode(dataclasses.replace(batch, s2_10m=batch.s2_10m.float()), "s2")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["bands"]["s2"].reverse(), "reads bands"),
        (lambda c: c.update(method="csmae"), "bundle of 'csmae'"),
        (lambda c: c["normalisation"].pop("B02"), "normalisation of B02"),
        (lambda c: c["normalisation"].update(VV=[0.0, 0.0]), "std > 0"),
        (lambda c: c.update(bits=128), "says bits 128"),
        (lambda c: c["config"].update(width=16), "do not fit"),
        (lambda c: c["config"].update(mystery=1), "unknown setting 'mystery'"),
        (lambda c: c.pop("normalisation"), "lacks normalisation"),
    ],
)
def test_bundles_that_contradict_themselves_are_refused(tmp_path: Path, trained: Bundle, change, says: str) -> None:
    config = json.loads(json.dumps(trained.config))
    change(config)
    bundle = write_bundle(str(tmp_path), weights=trained.weights(), config=config, metrics={}, readme="")
    with pytest.raises(BundleError, match=says):
        METHOD.load(bundle, "cpu")


def test_untrained_networks_differ_by_seed_alone(trained: Bundle, batch: PatchBatch) -> None:
    first, same, other = (METHOD.untrained(trained, seed, "cpu").encode(batch, "s1")[0] for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_the_model_card_names_data_settings_and_figures(trained: Bundle) -> None:
    card = trained.read("README.md").decode()
    for part in ("# ss_cm_rsir", trained.config["patches"]["uri"], "| bits | 64 |", "validation_score", "B8A"):
        assert part in card
