"""The whole method on a small table: training by labels, resume after a stop, the bundle, codes, and a golden curve."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch

from eoforge.bundle import Bundle
from eoforge.data.loading.loader import PatchLoader
from eoforge.errors import BundleError, DamagedObject, DataRefused, NotFound, UsageError, WrongState
from eoforge.index.build import build_index
from eoforge.methods import get_method
from eoforge.methods.anneal.annotations import Pair
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.features import stored_features, with_start
from eoforge.methods.anneal.method import answer_by_labels, label_oracle
from eoforge.methods.anneal.oracle import LabelOracle
from eoforge.methods.anneal.round_files import Round
from eoforge.methods.anneal.rounds import advance, newest_model, write_model
from eoforge.methods.anneal.sessions import AnnotationSession
from eoforge.storage.addresses import TableRef, open_table
from eoforge.storage.objects import ObjectStore

METHOD = get_method("anneal")
CONFIG: Config = METHOD.config(
    "tiny",
    {
        "size": "40",
        "width": "8",
        "bits": "16",
        "hidden": "16",
        "bootstrap": "12",
        "batch": "6",
        "rounds": "2",
        "epochs": "4",
    },
)
GOLDEN = {"train_loss": 0.792720, "train_contrastive": 0.221290, "train_bce": 0.511263, "train_anchor": 0.0018698}


@pytest.fixture(scope="module")
def trained(table: TableRef, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, AnnotationSession]:
    """A bundle, and the session that made it."""
    out = tmp_path_factory.mktemp("anneal")
    bundle = METHOD.train(table, str(out), CONFIG)
    (folder,) = (out / "checkpoints").iterdir()
    return bundle, AnnotationSession.open(str(folder))


def test_training_spends_the_budget_and_no_pair_twice(trained: tuple[Bundle, AnnotationSession]) -> None:
    bundle, session = trained
    rounds = session.rounds()
    assert [len(each.pairs) for each in rounds] == [12, 6, 6, 0]
    assert len({pair for each in rounds for pair in each.pairs}) == 24
    status = session.status()
    assert (status.state, status.answered, status.remaining, status.bundle) == ("finished", 24, 0, bundle.uri)
    assert bundle.metrics["decisions"] == bundle.metrics["pairs"] == 24
    assert bundle.metrics["validation_score"] == bundle.metrics["validation_map@20"]
    assert 0 <= bundle.metrics["foreseen"] <= 1
    assert set(session.annotations().labels()) == {pair for each in rounds for pair in each.pairs}


def test_golden_figures_of_a_tiny_run(trained: tuple[Bundle, AnnotationSession]) -> None:
    # Written by this code; the tolerance covers threads and instruction sets.
    assert {name: trained[0].metrics[name] for name in GOLDEN} == pytest.approx(GOLDEN, rel=5e-3)


def test_a_finished_run_is_not_repeated(
    trained: tuple[Bundle, AnnotationSession], table: TableRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, session = trained
    monkeypatch.setattr("eoforge.methods.anneal.learning.PairLearner.train", None)
    out = str(Path(session.address).parents[1])
    assert METHOD.train(table, out, CONFIG).id == bundle.id


def test_a_stopped_run_goes_on_to_the_same_bundle(
    trained: tuple[Bundle, AnnotationSession], table: TableRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops after the second batch was chosen and half of it answered; another process goes on."""
    stopped = 0

    def some_answers(session: AnnotationSession, oracle: LabelOracle) -> None:
        nonlocal stopped
        stopped += 1
        if stopped == 3:
            rows = session.batch("labels")[:3]
            for number, pair in enumerate(rows):
                word = "similar" if oracle.similar(pair) else "dissimilar"
                session.answer(pair, word, "labels", 0.0, f"by-hand-{number}")
            raise KeyboardInterrupt
        answer_by_labels(session, oracle)

    with monkeypatch.context() as patch:
        patch.setattr("eoforge.methods.anneal.method.answer_by_labels", some_answers)
        with pytest.raises(KeyboardInterrupt):
            METHOD.train(table, str(tmp_path), CONFIG)
    bundle = METHOD.train(table, str(tmp_path), CONFIG)
    assert bundle.files["weights.safetensors"] == trained[0].files["weights.safetensors"]


def test_a_choice_that_is_cut_off_is_made_again_equally(
    trained: tuple[Bundle, AnnotationSession], table: TableRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends when the weights of a batch are stored, and its pairs are not."""
    session = AnnotationSession.create(str(tmp_path / "session"), table, CONFIG)
    session.select_next()
    answer_by_labels(session, label_oracle(table, CONFIG))

    def cut_off(self: AnnotationSession, new: Round) -> Round:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AnnotationSession, "add_round", cut_off)
        with pytest.raises(KeyboardInterrupt):
            session.select_next()
    reopened = AnnotationSession.open(session.address)
    assert (reopened.status().state, len(reopened.rounds())) == ("ready", 1)
    assert reopened.select_next().pairs == trained[1].rounds()[1].pairs


def test_the_bundle_encodes_as_the_session_did(trained: tuple[Bundle, AnnotationSession], table: TableRef) -> None:
    bundle, session = trained
    encoder = METHOD.load(bundle, "cpu")
    batch = next(iter(PatchLoader(table, batch_size=8, modalities=("s2",))))
    codes, embeddings = encoder.encode(batch, "s2")
    assert (codes.shape, embeddings.shape, encoder.modalities) == ((8, 2), (8, 16), ("s2",))
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(8))
    assert (np.packbits(embeddings > 0, axis=1, bitorder="little") == codes).all()
    head, _ = newest_model(session)
    pool = stored_features(session.address, CONFIG, session.settings.patches).pool
    row = next(number for number, name in enumerate(batch.patch_id) if name in pool.row_of)
    with torch.inference_mode():
        expected = head.embed(pool.features[[pool.row_of[batch.patch_id[row]]]])
    assert embeddings[row] == pytest.approx(expected[0].numpy(), abs=1e-5)
    other = METHOD.untrained(bundle, device="cpu").encode(batch, "s2")[1]
    assert np.abs(other - embeddings).max() > 0.01
    with pytest.raises(BundleError):
        get_method("ss_cm_rsir").load(bundle)


def test_the_bundle_is_indexed_like_any_other(
    trained: tuple[Bundle, AnnotationSession], table: TableRef, tmp_path: Path
) -> None:
    made = build_index(trained[0].uri, table, str(tmp_path / "codes.lance"), METHOD.load(trained[0], "cpu"))
    assert made.added == open_table(table).count_rows()


def test_the_encoder_of_another_bundle_is_taken_whole(table: TableRef, tmp_path: Path) -> None:
    chosen = get_method("ss_cm_rsir")
    overrides = {"width": "8", "bits": "16", "hash_hidden": "16", "projection": "16", "size": "40", "batch_size": "8"}
    start = chosen.train(table, str(tmp_path / "start"), chosen.config("tiny", {**overrides, "epochs": "1"}))
    config = with_start(replace(CONFIG, start=start.uri, size=120, rounds=1))
    assert (config.size, config.width) == (40, 8)
    bundle = METHOD.train(table, str(tmp_path / "runs"), replace(config, rounds=1))
    mine, theirs = bundle.weights(), start.weights()
    encoder = [name for name in mine if name.startswith("encoder.")]
    assert encoder
    assert all(torch.equal(mine[name], theirs[f"branches.s2.{name}"]) for name in encoder)
    assert bundle.config["normalisation"]["B02"] == start.config["normalisation"]["B02"]
    with pytest.raises(NotFound):
        with_start(replace(CONFIG, start=str(tmp_path / "absent")))
    with pytest.raises(BundleError):
        with_start(replace(CONFIG, start=bundle.uri))


def test_a_batch_is_chosen_only_after_its_answers(table: TableRef, tmp_path: Path) -> None:
    session = AnnotationSession.create(str(tmp_path / "session"), table, CONFIG)
    with pytest.raises(WrongState, match="no model was trained"):
        newest_model(session)
    first = session.select_next()
    assert len(first.pairs) == 12
    with pytest.raises(WrongState, match="waits for answers: 12 pairs"):
        session.select_next()
    answer_by_labels(session, label_oracle(table, CONFIG))
    second = session.select_next()
    assert second.annotations == session.version()
    bundle = write_model(session, *newest_model(session))
    assert bundle.uri.startswith(session.address)


def test_feedback_is_learned_from_and_not_asked_again(table: TableRef, tmp_path: Path) -> None:
    session = AnnotationSession.create(str(tmp_path / "session"), table, CONFIG)
    first = session.select_next()
    names = stored_features(session.address, CONFIG, session.settings.patches).pool.names
    session.record_feedback(names[0], names[1], True, "ana", "f")
    answer_by_labels(session, label_oracle(table, CONFIG))
    assert session.select_next().figures["pairs"] == len({*first.members, Pair.of(names[0], names[1])})


def test_fresh_training_forgets_the_weights_of_the_last_batch(table: TableRef, tmp_path: Path) -> None:
    heads = []
    for retrain in ("warm", "fresh"):
        config = replace(CONFIG, retrain=retrain, rounds=1)  # type: ignore[arg-type]  # one of the literals
        session = AnnotationSession.create(str(tmp_path / retrain), table, config)
        oracle = label_oracle(table, config)
        while not advance(session).final:
            answer_by_labels(session, oracle)
        heads.append(newest_model(session)[0].projection.weight)
    assert not torch.equal(heads[0], heads[1])


def test_what_cannot_be_trained_is_refused(table: TableRef, tmp_path: Path, pairs: list) -> None:
    with pytest.raises(UsageError, match="fewer than the budget"):
        METHOD.train(table, str(tmp_path), replace(CONFIG, bootstrap=100_000))
    with pytest.raises(UsageError, match="own Config"):
        METHOD.train(table, str(tmp_path), get_method("ss_cm_rsir").config("tiny", {}))
    rows = open_table(table).to_table()
    column = rows.schema.get_field_index("label_mask")
    empty = rows.set_column(column, rows.schema.field(column), pa.array([None] * len(rows), pa.uint32()))
    lance.write_dataset(empty, str(tmp_path / "unlabelled.lance"))
    with pytest.raises(DataRefused, match="have no labels"):
        METHOD.train(TableRef(str(tmp_path / "unlabelled.lance")), str(tmp_path), CONFIG)
    with pytest.raises(UsageError, match="threshold"):
        replace(CONFIG, threshold=1.5)
    with pytest.raises(UsageError, match="noise"):
        replace(CONFIG, noise=1.0)
    with pytest.raises(UsageError, match="bootstrap"):
        replace(CONFIG, bootstrap=1)


def test_damaged_files_of_a_session_are_named(trained: tuple[Bundle, AnnotationSession], tmp_path: Path) -> None:
    copy = tmp_path / "session"
    shutil.copytree(trained[1].address, copy)
    store = ObjectStore(str(copy))
    # A copy names the patches relative to itself, so it is read where it is by the settings of the original.
    session = AnnotationSession(str(copy), trained[1].settings)
    store.put(session.rounds()[-1].model, b"no weights")
    with pytest.raises(DamagedObject, match="no model of this session"):
        newest_model(session)
    store.put("features.npz", b"no features")
    with pytest.raises(DamagedObject, match=r"features\.npz holds no features"):
        newest_model(session)
