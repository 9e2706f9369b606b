"""The method object of ANNEAL: training with the labels as annotator, and loading."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from eoforge.bundle import Bundle, load_bundle
from eoforge.errors import DataRefused, NotFound
from eoforge.methods.anneal.annotations import Annotation, Answer, Pair
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.model import Anneal
from eoforge.methods.anneal.oracle import LabelOracle
from eoforge.methods.base import HashMethod
from eoforge.methods.run_files import run_name
from eoforge.nn.build import seeded
from eoforge.nn.seeds import derive_seed
from eoforge.storage.addresses import TableRef, join, normalise, open_table
from eoforge.storage.objects import ObjectStore

if TYPE_CHECKING:
    from eoforge.methods.anneal.sessions import AnnotationSession

ORACLE = "labels"
"""Name of the oracle among the annotators."""


class AnnealMethod(HashMethod):
    """See :class:`eoforge.methods.Method`.

    ``train`` runs a whole session whose annotator knows the labels, so a killed run goes on like any session.
    """

    name = "anneal"
    config_type = Config

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        from eoforge.methods.anneal.features import with_start  # the session's packages are not those of services
        from eoforge.methods.anneal.rounds import advance
        from eoforge.methods.anneal.sessions import AnnotationSession

        self.require_own(config)
        data, config, out = data.pinned(), with_start(config), normalise(out)
        address = join(out, "checkpoints", run_name(self.name, asdict(config), data))
        if not resume:
            _clear(address)
        session = AnnotationSession.create(address, data, config)
        oracle = label_oracle(data, config)
        answer_by_labels(session, oracle)  # what a killed run left open
        while not (newest := advance(session, out)).final:
            answer_by_labels(session, oracle)
        try:
            return load_bundle(newest.bundle_address(session.address))
        except NotFound:  # deleted after the run: train again
            return self.train(data, out, config, resume=False)

    def build(self, config: Config) -> Anneal:
        return seeded(lambda: Anneal(config), config.seed)


def label_oracle(table: TableRef, config: Config) -> LabelOracle:
    """Oracle by the labels of the training split.

    Raises:
        DataRefused: A patch of the split has no labels.
    """
    rows = open_table(table).to_table(columns=["patch_id", "label_mask"], filter="split = 'train'").to_pydict()
    masks = dict(zip(rows["patch_id"], rows["label_mask"], strict=True))
    if missing := [name for name, mask in masks.items() if not mask]:
        raise DataRefused(
            f"{len(missing)} of {len(masks)} training patches of {table} have no labels, such as {missing[0]}; without "
            "labels people answer: `eoforge annotate start`"
        )
    return LabelOracle(masks, config.threshold, config.noise, config.seed)


def answer_by_labels(session: AnnotationSession, oracle: LabelOracle) -> None:
    """Stores the oracle's answers to all open pairs; a repeated call stores nothing."""
    batches = {pair: (each.iteration, each.model) for each in session.rounds() for pair in each.pairs}

    def row(pair: Pair) -> Annotation:
        answer = Answer.SIMILAR if oracle.similar(pair) else Answer.DISSIMILAR
        request = f"{ORACLE}-{derive_seed(ORACLE, pair.first, pair.second)}"
        return Annotation(request, pair, answer, ORACLE, dt.datetime.now(dt.UTC), 0.0, *batches[pair])

    session.import_answers(row(pair) for pair in session.batch(ORACLE))


def _clear(address: str) -> None:
    store = ObjectStore(address)
    for key in list(store.list()):
        store.delete(key)


METHOD = AnnealMethod()
