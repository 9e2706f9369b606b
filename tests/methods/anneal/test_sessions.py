"""Annotation sessions: exactly once, durable, for several annotators at the same time."""

from __future__ import annotations

import csv
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoforge.errors import ConflictError, DamagedObject, NotFound, UsageError, WrongState
from eoforge.methods.anneal.annotations import Annotation, Answer, Kind, Pair
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.exchange import write_annotations
from eoforge.methods.anneal.round_files import Round
from eoforge.methods.anneal.sessions import AnnotationSession
from eoforge.storage.objects import ObjectStore
from tests.methods.anneal.conftest import PAIRS

Start = Callable[..., AnnotationSession]


def test_an_answer_is_stored_with_all_that_the_table_promises(start: Start) -> None:
    session = start()
    before = dt.datetime.now(dt.UTC)
    row = session.answer(PAIRS[1], "similar", "ana", 2.5, "a-1")
    assert (row.pair, row.answer, row.who, row.seconds) == (PAIRS[1], Answer.SIMILAR, "ana", 2.5)
    assert (row.iteration, row.model, row.kind) == (0, "", Kind.ANSWER)
    assert before <= row.when <= dt.datetime.now(dt.UTC)
    assert AnnotationSession.open(session.address).annotations().rows == (row,)


def test_a_repeated_call_stores_nothing(start: Start) -> None:
    session = start()
    first = session.answer(PAIRS[0], "similar", "ana", 1.0, "a-1")
    version = session.version()
    assert session.answer(PAIRS[0], "similar", "ana", 7.0, "a-1") == first
    assert session.version() == version
    with pytest.raises(ConflictError, match="used for another answer"):
        session.answer(PAIRS[0], "dissimilar", "ana", 1.0, "a-1")
    assert session.status().answered == 1


def test_the_last_answer_counts_and_undo_brings_back_the_one_before(start: Start) -> None:
    session = start()
    session.answer(PAIRS[0], "similar", "ana", 1.0, "a-1")
    session.answer(PAIRS[1], "similar", "bo", 1.0, "b-1")
    session.answer(PAIRS[0], "dissimilar", "ana", 1.0, "a-2")
    assert session.annotations().labels() == {PAIRS[0]: False, PAIRS[1]: True}
    withdrawn = session.undo("ana", "u-1")
    assert withdrawn is not None
    assert withdrawn.request_id == "a-2"
    assert session.undo("ana", "u-1") == withdrawn  # the same call, repeated
    assert session.annotations().labels() == {PAIRS[0]: True, PAIRS[1]: True}
    assert session.undo("ana") is not None
    assert session.undo("ana") is None
    assert session.annotations().labels() == {PAIRS[1]: True}
    assert len(session.annotations().rows) == 5  # nothing is deleted
    with pytest.raises(ConflictError):
        session.undo("bo", "u-1")


def test_a_pair_is_offered_until_it_has_its_votes(start: Start) -> None:
    session = start(votes=2)
    assert set(session.batch("ana")) == set(PAIRS)
    assert session.batch("ana") == session.batch("ana")
    session.answer(PAIRS[0], "similar", "ana", 1.0, "a-1")
    session.answer(PAIRS[1], "skip", "ana", 1.0, "a-2")
    assert set(session.batch("ana")) == set(PAIRS[2:])
    assert set(session.batch("bo")) == set(PAIRS)
    session.answer(PAIRS[0], "similar", "bo", 1.0, "b-1")
    assert set(session.batch("cy")) == set(PAIRS[1:])
    assert len(session.batch("cy", limit=2)) == 2
    status = session.status()
    assert (status.annotators, status.answered, status.open) == ({"ana": 2, "bo": 1}, 2, 3)


def test_the_state_follows_from_answers_and_budget(start: Start, tmp_path: Path) -> None:
    session = start(ahead=0.5)
    assert AnnotationSession.open(session.address).status().state == "answering"
    session.answer(PAIRS[0], "similar", "ana", 1.0, "a-0")
    assert session.status().state == "answering"
    session.answer(PAIRS[1], "skip", "ana", 1.0, "a-1")
    assert session.status().state == "ready"
    session.add_round(Round(1, (Pair.of("p5", "p6"), Pair.of("p5", "p7")), "models/one", 3, {"score": 0.5}))
    session.add_round(Round(2, (Pair.of("p6", "p7"), Pair.of("p4", "p7")), "models/two", 3, {"score": 0.75}))
    # A skip takes no decision: with 8 decisions and 1 given, one more pair than the 6 open ones can be asked.
    assert session.settings.pairs_left(session.rounds(), session.annotations()) == 1
    session.add_round(Round(3, (Pair.of("p3", "p7"),), "models/three", 3, {"score": 0.7}))
    for number, pair in enumerate(session.batch("ana")[:-1]):
        session.answer(pair, "similar", "ana", 1.0, f"b-{number}")
    assert session.status().state == "answering"  # the final model is to learn from all answers
    session.answer(session.batch("ana")[0], "similar", "ana", 1.0, "c")
    status = session.status()
    assert (status.state, status.remaining, status.open) == ("ready", 0, 0)
    assert [r.gain for r in status.rounds] == [None, None, pytest.approx(0.25), pytest.approx(-0.05)]
    assert status.bundle == ""
    session.add_round(Round(4, (), "models/four", 9, final=True, bundle="../../runs/anneal-1"))
    status = session.status()
    assert (status.state, status.bundle) == ("finished", f"{tmp_path}/runs/anneal-1")


def test_disputes_are_listed_adjudicated_and_trained_on(start: Start) -> None:
    session = start(votes=2)
    for who, answers in {"ana": "ssds", "bo": "sdd"}.items():
        for number, letter in enumerate(answers):
            word = {"s": "similar", "d": "dissimilar"}[letter]
            session.answer(PAIRS[number], word, who, 1.0, f"{who}-{number}")
    found = session.disagreements()
    assert [d.pair for d in found.pairs] == [PAIRS[1]]
    assert found.pairs[0].answers == {"ana": Answer.SIMILAR, "bo": Answer.DISSIMILAR}
    # Of three common pairs two agree: p_o = 2/3, p_e = 2/3 * 1/3 + 1/3 * 2/3 = 4/9, kappa = (2/9) / (5/9).
    assert found.kappa == pytest.approx(0.4)
    assert session.status().kappa == pytest.approx(0.4)
    assert session.annotations().labels() == {PAIRS[0]: True, PAIRS[2]: False, PAIRS[3]: True}
    with pytest.raises(WrongState, match="do not disagree"):
        session.adjudicate(PAIRS[0], "similar", "chief", "c-0")
    session.adjudicate(PAIRS[1], "dissimilar", "chief", "c-1")
    session.adjudicate(PAIRS[1], "dissimilar", "chief", "c-1")
    assert session.annotations().labels()[PAIRS[1]] is False
    assert session.status().disagreements == 0
    session.adjudicate(PAIRS[1], "skip", "chief", "c-2")
    assert PAIRS[1] not in session.annotations().labels()


def test_feedback_of_a_search_trains_and_costs_no_budget(start: Start) -> None:
    session = start()
    row = session.record_feedback("p7", "p6", False, "ana", "f-1")
    assert row.kind is Kind.FEEDBACK
    assert session.annotations().labels() == {Pair("p6", "p7"): False}
    assert (session.status().answered, session.status().annotators) == (0, {})
    with pytest.raises(UsageError, match="two patches of the table"):
        session.record_feedback("p7", "nowhere", True, "ana", "f-2")


def test_feedback_about_an_answered_pair_gives_no_decision_back(start: Start) -> None:
    session = start()
    session.answer(PAIRS[0], "similar", "ana", 1.0, "a-1")
    session.record_feedback(PAIRS[0].second, PAIRS[0].first, False, "ana", "f-1")
    assert session.annotations().labels() == {PAIRS[0]: False}  # the last word counts
    status = session.status()
    assert (status.answered, status.annotators) == (1, {"ana": 1})


def test_what_is_malformed_is_refused_and_nothing_is_stored(start: Start) -> None:
    session = start()
    version = session.version()
    for call in (
        lambda: session.answer(PAIRS[0], "perhaps", "ana", 1.0, "a"),
        lambda: session.answer(Pair.of("p0", "p7"), "similar", "ana", 1.0, "a"),
        lambda: session.answer(PAIRS[0], "similar", "", 1.0, "a"),
        lambda: session.answer(PAIRS[0], "similar", "a\nb", 1.0, "a"),
        lambda: session.answer(PAIRS[0], "similar", "ana", float("nan"), "a"),
        lambda: session.answer(PAIRS[0], "similar", "ana", -1.0, "a"),
        lambda: session.answer(PAIRS[0], "similar", "ana", 1.0, "../a"),
        lambda: session.record_feedback("p0", "p0", True, "ana", "a"),
    ):
        with pytest.raises(UsageError):
            call()
    assert session.version() == version


def test_a_batch_is_written_once_and_no_pair_twice(start: Start) -> None:
    session = start()
    other = Round(0, (Pair.of("p6", "p7"),))
    assert session.add_round(other).pairs == PAIRS  # the first writer's
    with pytest.raises(WrongState, match="earlier batch"):
        session.add_round(Round(1, (PAIRS[2],)))
    with pytest.raises(WrongState, match="follows batch"):
        session.add_round(Round(2, other.pairs))
    assert len(AnnotationSession.open(session.address).rounds()) == 1


def test_a_session_is_created_once(start: Start, tmp_path: Path) -> None:
    session = start()
    config, patches = session.settings.config, session.settings.patches
    again = AnnotationSession.create(session.address, patches, config)
    assert again.settings == session.settings
    with pytest.raises(UsageError, match="other settings"):
        AnnotationSession.create(session.address, patches, replace(config, batch=3))
    with pytest.raises(NotFound, match="no annotation session"):
        AnnotationSession.open(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="votes"):
        AnnotationSession.create(str(tmp_path / "x"), patches, config, votes=0)
    with pytest.raises(UsageError, match="ahead"):
        AnnotationSession.create(str(tmp_path / "x"), patches, config, ahead=0.0)
    ObjectStore(session.address).put("session.json", b"{}")
    with pytest.raises(DamagedObject, match="settings of the session"):
        AnnotationSession.open(session.address)


NUMBERS = st.integers() | st.floats() | st.just(10**400)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
PARTS = {"iteration": 0, "pairs": [["a", "b"]], "model": "m", "annotations": 1, "figures": {"score": 0.5}, "bundle": ""}


@given(st.dictionaries(st.sampled_from(sorted(PARTS)), ANYTHING, max_size=2))
@settings(max_examples=150, deadline=None)
def test_a_damaged_batch_is_refused_by_name_and_a_whole_one_has_its_types(changes: dict[str, object]) -> None:
    """A page lists all sessions: one that raises anything else would keep the others out of it."""
    with suppress(DamagedObject):
        found = Round.parse(json.dumps(PARTS | changes).encode(), "rounds/0000.json")
        assert all(isinstance(value, float) for value in found.figures.values())
        assert all(isinstance(pair, Pair) for pair in found.pairs)
        assert isinstance(found.iteration, int)


@pytest.mark.parametrize("damage", [b"[" * 100_000, b"[]", b"{", b'{"patches": {"uri": 1, "version": 1e999}}'])
def test_damaged_settings_of_a_session_are_refused_by_name(start: Start, damage: bytes) -> None:
    session = start()
    ObjectStore(session.address).put("session.json", damage)
    with pytest.raises(DamagedObject, match="settings of the session"):
        AnnotationSession.open(session.address)
    ObjectStore(session.address).put("rounds/0001.json", damage)
    with pytest.raises(DamagedObject, match="no batch of pairs"):
        session.rounds()


def test_a_name_is_no_formula_in_a_spreadsheet(start: Start, tmp_path: Path) -> None:
    session = start()
    session.answer(PAIRS[0], "similar", "=HYPERLINK(1)", 1.0, "r")
    write_annotations(session.annotations(), tmp_path / "all.csv")
    (row,) = csv.DictReader((tmp_path / "all.csv").open())
    assert (row["who"], row["first"], row["seconds"]) == ("'=HYPERLINK(1)", PAIRS[0].first, "1")


def test_imports_are_stored_whole_and_once(start: Start) -> None:
    session = start()
    when = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    rows = [Annotation(f"i-{n}", pair, Answer.SIMILAR, "ana", when, 1.0, 0, "") for n, pair in enumerate(PAIRS)]
    assert session.import_answers(rows[:2]) == 2
    assert session.import_answers(rows) == 2
    assert session.annotations().rows == tuple(rows)
    foreign = replace(rows[0], request_id="x", pair=Pair.of("p6", "p7"))
    with pytest.raises(UsageError, match="no pair of this session"):
        session.import_answers([replace(rows[0], request_id="y"), foreign])
    with pytest.raises(UsageError, match="of its own"):
        session.import_answers([rows[0], rows[0]])
    assert len(session.annotations().rows) == 4


def test_two_annotators_at_once_lose_and_double_nothing(start: Start, store_uri: str) -> None:
    session = start(f"{store_uri}/session", votes=2)

    def work(who: str) -> None:
        mine = AnnotationSession.open(session.address)
        for number, pair in enumerate(mine.batch(who)):
            for _ in range(2):  # every click arrives twice
                mine.answer(pair, "similar", who, 1.0, f"{who}-{number}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, ["ana", "bo"]))
    rows = session.annotations().rows
    assert sorted(row.request_id for row in rows) == sorted(f"{who}-{n}" for who in ("ana", "bo") for n in range(4))
    assert session.status().open == 0


def test_many_small_appends_are_compacted_in_order(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eoforge.data.tables.append.COMPACT_FRAGMENTS", 3)
    session = start()
    for number, pair in enumerate(PAIRS):
        session.answer(pair, "similar", "ana", 1.0, f"a-{number}")
    before = session.annotations().rows
    version = session.version()
    session.add_round(Round(1, ()))
    assert session.version() > version
    assert session.annotations().rows == before
    assert session.annotations(version).rows == before


_KILLED = """
import sys
from eoforge.methods.anneal.sessions import AnnotationSession
session = AnnotationSession.open(sys.argv[1])
print("open", flush=True)
for number in range(1000):
    pair = session.rounds()[0].pairs[number % 4]
    session.answer(pair, ("similar", "dissimilar")[number % 2], "ana", 1.0, f"a-{number}")
    print(number, flush=True)
"""


def test_answers_survive_a_kill_exactly_once(start: Start) -> None:
    session = start()
    child = subprocess.Popen([sys.executable, "-c", _KILLED, session.address], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    for _ in range(3):
        child.stdout.readline()
    time.sleep(0.01)  # somewhere within a call
    os.kill(child.pid, signal.SIGKILL)
    returned = 3 + len(child.stdout.read().splitlines())
    child.wait()
    stored = [row.request_id for row in AnnotationSession.open(session.address).annotations().rows]
    assert stored == [f"a-{number}" for number in range(len(stored))]
    assert returned <= len(stored) <= returned + 1  # every returned call, and perhaps the one that was cut off
    number = len(stored) - 1
    word = ("similar", "dissimilar")[number % 2]
    session.answer(PAIRS[number % 4], word, "ana", 1.0, f"a-{number}")  # the caller, unsure, repeats
    assert len(session.annotations().rows) == len(stored)
    assert session.answer(PAIRS[0], "skip", "ana", 1.0, "next").request_id == "next"


def test_two_selectors_at_once_agree_on_one_batch(start: Start) -> None:
    session = start()
    offers = [Round(1, (Pair.of("p5", name),)) for name in ("p6", "p7")]
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(AnnotationSession.open(session.address).add_round, offers))
    assert got[0] == got[1]
    assert got[0] in offers


def test_the_tiny_budget_is_bootstrap_and_rounds() -> None:
    assert replace(Config.tiny(), bootstrap=4, batch=2, rounds=2).budget == 8
