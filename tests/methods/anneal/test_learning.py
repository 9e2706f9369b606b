"""The learner of pairs: start, training, determinism; the network's symmetry and the label oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from eoforge.methods.anneal.annotations import Pair
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.learning import Known, PairLearner
from eoforge.methods.anneal.loss import objective
from eoforge.methods.anneal.oracle import LabelOracle, jaccard
from eoforge.methods.anneal.pool import keys, normal

CONFIG = replace(Config.tiny(), bits=16, hidden=16, bootstrap=24, batch=12, anchors=40, epochs=5)
NONE = Known(np.empty((0, 2), np.int64), np.empty(0, bool))


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    """120 patches with 20 features: four classes differ in two weak features, the strong ones say nothing."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(120, 20, generator=generator)
    noise[:, 2:12] *= 3
    classes = torch.arange(120) % 4
    noise[:, 0] += 3 * (classes % 2).float()
    noise[:, 1] += 3 * (classes // 2).float()
    return noise


@pytest.fixture(scope="module")
def learner(features: torch.Tensor) -> PairLearner:
    return PairLearner(features, CONFIG)


def answered(pairs: np.ndarray) -> Known:
    return Known(pairs, pairs[:, 0] % 4 == pairs[:, 1] % 4)


def test_the_initial_embedding_keeps_the_distances_of_the_principal_components(learner: PairLearner) -> None:
    head = learner.initial()
    standard = head.standardise(learner.features).double()
    values, vectors = np.linalg.eigh(np.cov(standard.T.numpy(), bias=True))
    components = standard @ torch.from_numpy(vectors[:, values.argsort()[::-1][:16]].copy())
    expected = torch.cdist(components, components)
    with torch.inference_mode():
        logits = head(learner.features).double()
    assert torch.allclose(torch.cdist(logits, logits), expected, atol=1e-4)


def test_the_classifier_does_not_depend_on_the_order_of_a_pair(learner: PairLearner) -> None:
    head, _ = learner.train(learner.initial(), answered(learner.first_pairs(learner.initial())), 1)
    first, second = learner.embed(head)[:5], learner.embed(head)[5:10]
    assert torch.equal(head.pair_logits(first, second), head.pair_logits(second, first))


def test_the_objective_is_the_sum_of_its_terms(learner: PairLearner) -> None:
    config = replace(
        CONFIG, contrastive_weight=2.0, bce_weight=3.0, anchor_weight=5.0, quantisation_weight=7.0, margin=0.8
    )
    head = learner.initial()
    rows, similar, weight = torch.tensor([[0, 4], [1, 2]]), torch.tensor([True, False]), torch.tensor([0.5, 1.5])
    anchors = learner.features[:6]
    pair = (learner.features[rows[:, 0]], learner.features[rows[:, 1]])
    terms = objective(head, pair, similar, weight, (anchors, torch.eye(6)), config)
    e = learner.embed(head)
    line = [parameter.detach() for parameter in head.classifier.parameters()]
    metric = bce = 0.0
    for (i, j), y, w in zip(rows.tolist(), similar.tolist(), weight.tolist(), strict=True):
        d = float((e[i] - e[j]).norm())
        metric += w * (d**2 if y else max(0.0, 0.8 - d) ** 2) / 2
        z = float((line[0][0] * torch.cat([(e[i] - e[j]).abs(), e[i] * e[j]])).sum())
        p = 1 / (1 + np.exp(-(z + float(line[1][0]))))
        bce -= w * np.log(p if y else 1 - p) / 2
    kept = float(((e[:6] @ e[:6].T) - torch.eye(6)).square().mean())
    corners = float((e[:6].abs() * 4 - 1).square().mean())
    assert [float(terms[n]) for n in ("contrastive", "bce", "anchor", "quantisation")] == pytest.approx(
        [metric, bce, kept, corners], rel=1e-4
    )
    assert float(terms["loss"]) == pytest.approx(2 * metric + 3 * bce + 5 * kept + 7 * corners, rel=1e-4)


def test_training_brings_similar_patches_together_and_repeats_exactly(learner: PairLearner) -> None:
    config = replace(CONFIG, epochs=60, anchor_weight=0.0)
    trainer = PairLearner(learner.features, config)
    known = answered(normal(np.random.default_rng(0).integers(60, size=(300, 2))))
    start = trainer.initial()
    before = [p.clone() for p in start.parameters()]
    head, losses = trainer.train(start, known, 1)
    again, _ = trainer.train(start, known, 1)
    assert all(torch.equal(a, b) for a, b in zip(head.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, start.parameters(), strict=True))  # ``start`` is not changed
    assert set(losses) == {"loss", "contrastive", "bce", "anchor", "quantisation"}

    def gap(of: object) -> float:
        unseen = functional.normalize(trainer.embed(of)[60:], dim=1)  # type: ignore[arg-type]
        same = torch.arange(60)[:, None] % 4 == torch.arange(60) % 4
        cosine = unseen @ unseen.T
        return float(cosine[same].mean() - cosine[~same].mean())

    assert gap(head) > gap(start) + 0.1


def test_the_anchor_keeps_the_initial_embedding(learner: PairLearner) -> None:
    known = answered(learner.first_pairs(learner.initial()))

    def change(weight: float) -> float:
        trainer = PairLearner(learner.features, replace(CONFIG, epochs=30, anchor_weight=weight))
        start = trainer.initial()
        e0, e1 = trainer.embed(start), trainer.embed(trainer.train(start, known, 1)[0])
        return float((e0 @ e0.T - e1 @ e1.T).square().mean())

    assert change(100.0 * len(known.pairs)) < 0.5 * change(0.0)


def test_the_weight_of_the_anchor_is_shared_by_the_pairs(learner: PairLearner) -> None:
    pairs = learner.first_pairs(learner.initial())
    config = replace(CONFIG, epochs=3, anchor_weight=60.0, quantisation_weight=0.0)
    for number in (6, 20):
        known = answered(pairs[:number])
        _, terms = PairLearner(learner.features, config).train(learner.initial(), known, 1)
        assert terms["anchor"] > 0
        assert terms["loss"] == pytest.approx(
            terms["contrastive"] + terms["bce"] + 60 / number * terms["anchor"], rel=1e-5
        )


def test_without_answers_nothing_is_learned(learner: PairLearner) -> None:
    start = learner.initial()
    head, losses = learner.train(start, NONE, 1)
    assert losses == {}
    assert torch.equal(learner.embed(head), learner.embed(start))


@pytest.mark.parametrize("uncertainty", ["mgue", "bcgue"])
def test_no_pair_is_asked_twice_over_many_batches(learner: PairLearner, uncertainty: str) -> None:
    trainer = PairLearner(learner.features, replace(CONFIG, uncertainty=uncertainty))  # type: ignore[arg-type]
    head = trainer.initial()
    asked = trainer.first_pairs(head)
    for iteration in range(1, 5):
        head, _ = trainer.train(head, answered(asked), iteration)
        batch = trainer.choose(head, answered(asked), asked, 12, iteration)
        assert (batch == trainer.choose(head, answered(asked), asked, 12, iteration)).all()
        asked = np.concatenate([asked, batch])
    assert len(asked) == 24 + 4 * 12 == len(np.unique(keys(normal(asked), 120)))


def test_uncertain_pairs_are_near_the_border_of_the_model(learner: PairLearner) -> None:
    for uncertainty in ("mgue", "bcgue"):
        trainer = PairLearner(learner.features, replace(CONFIG, uncertainty=uncertainty))  # type: ignore[arg-type]
        start = trainer.initial()
        known = answered(trainer.first_pairs(start))
        head, _ = trainer.train(start, known, 1)
        scored = trainer.score(head, known, normal(np.random.default_rng(1).integers(120, size=(200, 2))))
        best = int(scored.uncertainty.argmax())
        if uncertainty == "bcgue":
            assert abs(scored.probability[best] - 0.5) == pytest.approx(np.abs(scored.probability - 0.5).min())
        else:
            order = scored.uncertainty.argsort()
            e = trainer.embed(head)
            distance = (e[scored.pairs[:, 0]] - e[scored.pairs[:, 1]]).norm(dim=1).numpy()
            sides = np.sort(distance[order[-20:]])
            assert sides[-1] - sides[0] < distance.max() - distance.min()


def test_jaccard_of_label_masks() -> None:
    assert [jaccard(0b011, 0b110), jaccard(0b1, 0b1), jaccard(0b1, 0b10), jaccard(0, 0)] == [1 / 3, 1.0, 0.0, 0.0]


def test_the_label_oracle_compares_with_the_threshold_and_errs_at_its_rate() -> None:
    masks = {f"p{n}": n for n in range(64)}
    pairs = [Pair.of(f"p{i}", f"p{j}") for i in range(64) for j in range(i)]
    clean = LabelOracle(masks, threshold=0.5)
    assert clean.similar(Pair.of("p3", "p1"))  # 1/2
    assert not clean.similar(Pair.of("p3", "p6"))  # 1/3
    wrong = LabelOracle(masks, threshold=0.5, noise=0.25, seed=3)
    flipped = [clean.similar(p) != wrong.similar(p) for p in pairs]
    assert np.mean(flipped) == pytest.approx(0.25, abs=0.03)
    assert flipped == [clean.similar(p) != wrong.similar(p) for p in pairs]
