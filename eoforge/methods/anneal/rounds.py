"""One step of a session: training on the answers so far, figures, and the next batch; after the last, the bundle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save

from eoforge.bundle import Bundle, code_revision, model_card, write_bundle
from eoforge.errors import DamagedObject, UsageError, WrongState
from eoforge.methods.anneal.annotations import Annotations, Pair
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.features import Features, initial_network, stored_features
from eoforge.methods.anneal.figures import foreseen, retrieval_figures, score_of
from eoforge.methods.anneal.learning import Known, PairLearner
from eoforge.methods.anneal.model import PairHead
from eoforge.methods.anneal.pool import Rows
from eoforge.methods.anneal.round_files import Round
from eoforge.methods.anneal.session_files import SessionFiles
from eoforge.methods.base import facts_of
from eoforge.report import markdown_code
from eoforge.storage.addresses import join
from eoforge.storage.objects import ObjectStore

METHOD = "anneal"
MODELS = "models"
_MAX_HEAD = 1 << 30
_NO_ROWS = np.empty((0, 2), np.int64)
_VALIDATION = ("score", "map@20", "ndcg@20", "r_precision")
"""Figures on the validation split, which get that prefix in a bundle."""
_CARD = (
    "Retrieval of similar patches by binary codes, learned from pairs that annotators called similar or dissimilar "
    "(ANNEAL: active learning of a metric). The encoder is frozen; embedding, code and pair classifier are learned."
)


def advance(session: SessionFiles, out: str | None = None) -> Round:
    """The next batch of a session, or its last, empty one with the bundle; a finished session returns that again.

    The result depends on the settings and on the answers in the table alone. A killed call leaves nothing that the
    next one would not write itself; of concurrent calls one batch counts.

    Args:
        session: The session.
        out: Folder of bundles; ``runs`` of the session if None.

    Raises:
        WrongState: The newest batch has not enough answers.
        UsageError: The training split has too few patches for the budget.
    """
    settings, config, rounds = session.settings, session.settings.config, session.rounds()
    version = session.version()
    annotations = session.annotations(version)
    state = settings.state(rounds, annotations)
    if state == "finished":
        return rounds[-1]
    if state == "answering":
        raise WrongState(
            f"batch {len(rounds) - 1} waits for answers: {session.status().open} pairs are open at {session.address}"
        )
    features = stored_features(session.address, config, settings.patches)
    learner = PairLearner(features.pool.features, config)
    if state == "new":
        return session.add_round(_first(learner, features, config))
    iteration = len(rounds)
    known = known_pairs(annotations, features)
    before = _load_head(session, learner, rounds[-1].model)
    head, losses = learner.train(before if config.retrain == "warm" else learner.initial(), known, iteration)
    figures = {"decisions": float(annotations.decisions), "pairs": float(len(known.pairs))}
    figures["similar"] = float(known.similar.sum())
    figures |= {f"train_{name}": value for name, value in losses.items()}
    figures |= retrieval_figures(learner, head, features.validation, features.pool)
    newest = known_pairs(annotations, features, rounds[-1])
    if len(newest.pairs):
        figures["foreseen"] = foreseen(learner, before, newest)
    figures |= score_of(figures)
    model = _store_head(session, head, iteration, version)
    asked = [*(pair for each in rounds for pair in each.pairs), *annotations.votes]
    number = min(config.batch, settings.pairs_left(rounds, annotations))
    chosen = learner.choose(head, known, _rows(asked, features), number, iteration) if number else _NO_ROWS
    bundle = "" if len(chosen) else write_model(session, head, figures, out).uri
    new = Round(iteration, _named(chosen, features), model, version, figures, not len(chosen))
    return session.add_round(new.with_bundle(bundle, session.address))


def write_model(session: SessionFiles, head: PairHead, figures: dict[str, Any], out: str | None = None) -> Bundle:
    """The bundle of a model of a session: encoder and head; the same model gives the same bundle."""
    config, patches = session.settings.config, session.settings.patches
    network, normalisation = initial_network(config, patches)
    network.head.load_state_dict(head.state_dict())
    settings = asdict(config)
    described = {
        "method": METHOD,
        "config": settings,
        "bands": {modality: list(bands) for modality, bands in config.sensor_bands.items()},
        "normalisation": {band: list(values) for band, values in normalisation.items()},
        "seed": config.seed,
        "patches": {"uri": patches.uri, "version": patches.version},
        "code_revision": code_revision(),
        **facts_of(config, network),
    }
    named = {f"validation_{name}" if name in _VALIDATION else name: value for name, value in figures.items()}
    readme = model_card(
        METHOD,
        _CARD,
        trained_on=f"annotated pairs of the `train` split of {markdown_code(patches.uri)} at version {patches.version}",
        bands=config.sensor_bands,
        measured="`validation_...` with the labelled patches of the `validation` split as queries.",
        figures=named,
        settings=settings,
    )
    return write_bundle(
        out or join(session.address, "runs"),
        weights=network.state_dict(),
        config=described,
        metrics=named,
        readme=readme,
    )


def newest_model(session: SessionFiles) -> tuple[PairHead, dict[str, Any]]:
    """Head and figures of the newest batch's model.

    Raises:
        WrongState: No model was trained yet.
    """
    trained = [each for each in session.rounds() if each.model]
    if not trained:
        raise WrongState(f"no model was trained yet at {session.address}; the first batch waits for answers")
    features = stored_features(session.address, session.settings.config, session.settings.patches)
    learner = PairLearner(features.pool.features, session.settings.config)
    return _load_head(session, learner, trained[-1].model), dict(trained[-1].figures)


def known_pairs(annotations: Annotations, features: Features, batch: Round | None = None) -> Known:
    """Annotated pairs with a result whose patches are in the pool; those of one batch if it is given."""
    row_of = features.pool.row_of
    labels = {
        pair: similar
        for pair, similar in annotations.labels().items()
        if pair.first in row_of and pair.second in row_of and (batch is None or pair in batch.members)
    }
    return Known(_rows(labels, features), np.array(list(labels.values()), bool))


def _first(learner: PairLearner, features: Features, config: Config) -> Round:
    count = len(features.pool.names)
    if (possible := count * (count - 1) // 2) < config.budget:
        raise UsageError(
            f"{count} patches make {possible} pairs, fewer than the budget of {config.budget}; lower bootstrap, batch "
            "or rounds"
        )
    head = learner.initial()
    figures = retrieval_figures(learner, head, features.validation, features.pool)
    return Round(0, _named(learner.first_pairs(head), features), figures=figures | score_of(figures))


def _rows(pairs: Iterable[Pair], features: Features) -> Rows:
    row_of = features.pool.row_of
    rows = [(row_of[p.first], row_of[p.second]) for p in pairs if p.first in row_of and p.second in row_of]
    return np.array(rows, np.int64).reshape(-1, 2)


def _named(rows: Rows, features: Features) -> tuple[Pair, ...]:
    names = features.pool.names
    return tuple(Pair.of(names[i], names[j]) for i, j in rows)


def _store_head(session: SessionFiles, head: PairHead, iteration: int, version: int) -> str:
    """Address of the head, relative to the session: a function of batch and annotations, like the head itself."""
    name = f"{MODELS}/{iteration:04d}-{version}.safetensors"
    ObjectStore(session.address).put(name, save({k: v.contiguous() for k, v in head.state_dict().items()}))
    return name


def _load_head(session: SessionFiles, learner: PairLearner, name: str) -> PairHead:
    head = learner.initial()
    if name:
        try:
            head.load_state_dict(load(ObjectStore(session.address).get(name, _MAX_HEAD)))
        except (SafetensorError, RuntimeError) as error:
            raise DamagedObject(f"{join(session.address, name)} holds no model of this session: {error}") from error
    return head
