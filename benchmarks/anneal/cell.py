"""One cell: one strategy with one seed, from the first batch to the end of its budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.anneal.archive import Archive
from eoforge.methods.anneal.annotations import Pair
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.figures import retrieval_figures
from eoforge.methods.anneal.learning import Known, PairLearner
from eoforge.methods.anneal.oracle import LabelOracle
from eoforge.methods.anneal.pool import Rows, normal, random_pairs
from eoforge.nn.seeds import derive_seed

CLASS_LABELS, ALL = "class labels", "all labels"
STRATEGIES: dict[str, dict[str, Any]] = {
    "anneal bcgue": {"strategy": "anneal", "uncertainty": "bcgue"},
    "anneal mgue": {"strategy": "anneal", "uncertainty": "mgue"},
    "bcgue alone": {"strategy": "uncertainty", "uncertainty": "bcgue"},
    "mgue alone": {"strategy": "uncertainty", "uncertainty": "mgue"},
    "diversity alone": {"strategy": "diversity"},
    "badge": {"strategy": "badge"},
    "random": {"strategy": "random"},
    CLASS_LABELS: {},
    ALL: {},
}
"""Name -> settings of the method. The last two are no strategies of pairs."""
ALL_PAIRS = 6_000
LABEL_PAIRS = 1_000
PAIR_SECONDS, CHOICE_SECONDS, SET_SECONDS = 2.0, 4.0, 20.0
"""Times of one answer about a pair, of one choice among classes, and of ticking a set of classes: assumptions."""


def run(archive: Archive, name: str, config: Config) -> dict[str, Any]:
    """Figures of a cell: a point per batch with decisions, bits, seconds of an annotator, and retrieval figures."""
    began = time.process_time()
    settings = replace(config, **STRATEGIES[name])
    learner = PairLearner(archive.pool.features, settings)
    oracle = LabelOracle(
        dict(zip(archive.pool.names, archive.pool.masks.tolist(), strict=True)),
        settings.threshold,
        settings.noise,
        settings.seed,
    )

    def answers(pairs: Rows) -> Known:
        names = archive.pool.names
        similar = [oracle.similar(Pair.of(names[i], names[j])) for i, j in pairs]
        return Known(pairs, np.array(similar, bool))

    runs = {CLASS_LABELS: _class_labels, ALL: _all}
    points = list(runs.get(name, _pairs)(archive, learner, answers))
    return {"name": name, "seed": config.seed, "cpu_seconds": time.process_time() - began, "points": points}


Answers = Callable[[Rows], Known]


def _pairs(archive: Archive, learner: PairLearner, answers: Answers) -> Iterator[dict[str, float]]:
    config = learner.config
    head = learner.initial()
    asked = learner.first_pairs(head)
    for iteration in range(1, config.rounds + 2):
        known = answers(asked)
        start = head if config.retrain == "warm" else learner.initial()
        head, _ = learner.train(start, known, iteration)
        cost = {"decisions": len(asked), "bits": float(len(asked)), "seconds": PAIR_SECONDS * len(asked)}
        similar = float(known.similar.mean())
        yield {**cost, "similar": similar, **retrieval_figures(learner, head, archive.queries, archive.pool)}
        if iteration <= config.rounds:
            asked = np.concatenate([asked, learner.choose(head, known, asked, config.batch, iteration)])


def _class_labels(archive: Archive, learner: PairLearner, answers: Answers) -> Iterator[dict[str, float]]:
    """Class labels of the patches on which a linear classifier is least sure; all their pairs are then known."""
    config, count = learner.config, len(archive.pool.names)
    draw = np.random.default_rng(derive_seed("class labels", config.seed))
    head = learner.initial()
    labelled = draw.permutation(count)[: max(2, config.bootstrap // archive.choices)]
    for iteration in range(1, config.rounds + 2):
        pairs = normal(np.stack(np.meshgrid(labelled, labelled), axis=-1))
        pairs = draw.permutation(pairs)[:LABEL_PAIRS]
        start = head if config.retrain == "warm" else learner.initial()
        head, _ = learner.train(start, answers(pairs), iteration)
        seconds = CHOICE_SECONDS if archive.choices == 1 else SET_SECONDS
        cost = {
            "decisions": archive.choices * len(labelled),
            "bits": archive.bits * len(labelled),
            "seconds": seconds * len(labelled),
        }
        yield {**cost, **retrieval_figures(learner, head, archive.queries, archive.pool)}
        wanted = (config.bootstrap + iteration * config.batch) // archive.choices - len(labelled)
        unsure = _unsure(archive, learner, labelled, iteration)
        labelled = np.concatenate([labelled, unsure[:wanted]])


def _unsure(archive: Archive, learner: PairLearner, labelled: Rows, iteration: int) -> Rows:
    """Patches without a label, by falling entropy of a linear classifier on the features."""
    features = learner.initial().standardise(archive.pool.features)
    truth = torch.from_numpy((archive.pool.masks[:, None] >> np.arange(32) & 1).astype(np.float32))
    truth = truth[:, : int(archive.pool.masks.max()).bit_length()]
    weight = torch.zeros(features.shape[1], truth.shape[1], requires_grad=True)
    bias = torch.zeros(truth.shape[1], requires_grad=True)
    rows = torch.from_numpy(labelled)
    optimiser = torch.optim.AdamW([weight, bias], lr=0.02, weight_decay=0.1)
    for _ in range(100):
        loss = functional.binary_cross_entropy_with_logits(features[rows] @ weight + bias, truth[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        p = torch.sigmoid(features @ weight + bias).clamp(1e-6, 1 - 1e-6)
        entropy = -(p * p.log() + (1 - p) * (1 - p).log()).sum(dim=1)
    order = entropy.argsort(descending=True, stable=True).numpy()
    return order[~np.isin(order, labelled)]


def _all(archive: Archive, learner: PairLearner, answers: Answers) -> Iterator[dict[str, float]]:
    """Random pairs of all patches, which stand for all labels: the bound of what annotation can give."""
    count = len(archive.pool.names)
    draw = np.random.default_rng(derive_seed("all", learner.config.seed))
    known = answers(random_pairs(count, min(ALL_PAIRS, count * (count - 1) // 2), np.empty((0, 2), np.int64), draw))
    head, _ = learner.train(learner.initial(), known, 1)
    cost = {"decisions": archive.choices * count, "bits": archive.bits * count}
    cost["seconds"] = (CHOICE_SECONDS if archive.choices == 1 else SET_SECONDS) * count
    yield {**cost, **retrieval_figures(learner, head, archive.queries, archive.pool)}
