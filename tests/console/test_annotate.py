"""Page Annotate: each answer is stored once, none is lost, batches are chosen beside, and people can disagree."""

from __future__ import annotations

import io
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from eoforge.methods.anneal.annotations import Pair
from eoforge.methods.anneal.sessions import AnnotationSession
from eoforge.storage.addresses import TableRef
from services.console.batches import BATCHES, Batches
from tests.console.console_support import (
    SMALL_SESSION,
    console_with,
    csrf_of,
    fields_of,
    patches_to_annotate,
    refused,
    words_of,
)
from tests.services.support import until

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return patches_to_annotate(tmp_path_factory.mktemp("patches"))


@pytest.fixture
def session(tmp_path: Path, table: str) -> AnnotationSession:
    """A session with its first batch, whose pairs two people answer."""
    made = AnnotationSession.create(str(tmp_path / "sessions" / "coast"), TableRef(table), SMALL_SESSION, votes=2)
    made.select_next()
    return made


@pytest.fixture
def visitor(session: AnnotationSession) -> Iterator[httpx.Client]:
    with console_with(annotations_uri=str(Path(session.address).parent)) as client:
        yield client


def give(visitor: httpx.Client, page: httpx.Response, answer: str) -> httpx.Response:
    """Answers the pair of a page."""
    form = fields_of(page, "answer") | {"answer": answer, "seconds": "1.5"}
    done = visitor.post("/annotate/coast/answer", data=form, follow_redirects=True)
    assert done.status_code == 200
    return done


def test_sessions_are_listed_and_a_pair_is_shown_without_its_labels(
    visitor: httpx.Client, session: AnnotationSession, table: str
) -> None:
    assert "coast waits for answers 0 16 4 0" in words_of(visitor.get("/annotate"))
    page = visitor.get("/annotate/coast")
    shown = fields_of(page, "answer")
    assert Pair.of(shown["first"], shown["second"]) == session.batch("anonymous", 1)[0]
    assert "0 of 16 decisions, 16 remain" in words_of(page)
    assert "Broad-leaved" not in page.text, "labels would tell the answer"
    for what, side in (("s2", 360), ("s1", 360), ("B8A", 360)):
        asked = {"patch": shown["first"], "what": what}
        picture = visitor.get("/annotate/coast/picture", params=asked)
        assert Image.open(io.BytesIO(picture.content)).size == (side, side)


def test_an_answer_is_stored_with_name_and_time_and_counts_once(
    visitor: httpx.Client, session: AnnotationSession
) -> None:
    page = visitor.get("/annotate/coast", params={"as": "anna"})
    form = fields_of(page, "answer") | {"answer": "similar", "seconds": "2.5"}
    for _ in range(2):
        following = visitor.post("/annotate/coast/answer", data=form, follow_redirects=True)
        assert "1 of 16 decisions" in words_of(following)
        assert "You answer as anna" in words_of(following)
    (row,) = session.annotations().rows
    assert (row.who, row.seconds, row.answer, row.request_id) == ("anna", 2.5, "similar", form["request_id"])
    assert (
        fields_of(following, "answer")["first"] != form["first"]
        or fields_of(following, "answer")["second"] != form["second"]
    )
    changed = visitor.post("/annotate/coast/answer", data=form | {"answer": "dissimilar"})
    refused(changed, 409, "was used for another answer")
    assert len(session.annotations().rows) == 1


def test_an_undo_shows_the_pair_again_and_counts_once(visitor: httpx.Client, session: AnnotationSession) -> None:
    page = visitor.get("/annotate/coast")
    first = fields_of(page, "answer")
    following = give(visitor, give(visitor, page, "similar"), "skip")
    assert "1 of 16 decisions" in words_of(following)
    undo = fields_of(following, "undo")
    part = visitor.post("/annotate/coast/undo", data=undo, headers={"hx-request": "true"})
    assert "Your last answer was withdrawn" in words_of(part)
    assert "<html" not in part.text
    visitor.post("/annotate/coast/undo", data=undo, headers={"hx-request": "true"})
    assert [row.answer for row in session.annotations().standing] == ["similar"]
    again = visitor.post("/annotate/coast/undo", data=fields_of(part, "undo"), headers={"hx-request": "true"})
    shown = fields_of(again, "answer")
    assert (shown["first"], shown["second"]) == (first["first"], first["second"])
    nothing = visitor.post("/annotate/coast/undo", data=fields_of(again, "undo"), headers={"hx-request": "true"})
    assert "no answer of yours" in words_of(nothing)


def test_two_people_disagree_and_a_third_decides(visitor: httpx.Client, session: AnnotationSession) -> None:
    for who, answer in (("anna", "similar"), ("ben", "dissimilar")):
        page = visitor.get("/annotate/coast", params={"as": who})
        for number in range(4):
            page = give(visitor, page, answer if number else "similar")
        assert 'id="answer"' not in page.text
    found = visitor.get("/annotate/coast/disagreements")
    text = words_of(found)
    assert "anna and ben 4" in text
    disputed = session.disagreements().pairs
    assert text.count("Final answer") == len(disputed) > 0
    pair = disputed[0].pair
    form = csrf_of(found) | {"first": pair.first, "second": pair.second, "answer": "similar", "as": "cleo"}
    decided = visitor.post(
        "/annotate/coast/adjudicate", data=form | {"request_id": uuid.uuid4().hex}, follow_redirects=True
    )
    assert "The final answer is stored" in words_of(decided)
    assert session.annotations().adjudicated[pair].who == "cleo"


def test_the_next_batch_is_chosen_beside_and_its_gain_is_shown(
    visitor: httpx.Client, session: AnnotationSession
) -> None:
    for who in ("anna", "ben"):
        page = visitor.get("/annotate/coast", params={"as": who})
        for number in range(4):
            page = give(visitor, page, "similar" if number % 2 else "dissimilar")
    assert "The next batch is being chosen" in words_of(page)
    assert 'hx-trigger="every 2s"' in page.text
    assert BATCHES.running(session.address)
    assert visitor.get("/annotate").elapsed.total_seconds() < 60, "pages are answered meanwhile"
    until(lambda: not BATCHES.running(session.address), 120)
    assert not BATCHES.failed(session.address)
    assert len(session.rounds()) == 2
    part = visitor.get("/annotate/coast/work", params={"as": "anna"})
    charts = visitor.get("/annotate/coast/curves").json()["charts"]
    assert any(chart["title"] == "score" for chart in charts)
    assert f"{session.status().rounds[1].score:.4f}" in words_of(part)


def test_a_dead_store_keeps_the_answer_in_the_form(visitor: httpx.Client, session: AnnotationSession) -> None:
    page = visitor.get("/annotate/coast")
    form = fields_of(page, "answer") | {"answer": "dissimilar", "seconds": "3.5"}
    folder = Path(session.address, "annotations.lance", "_transactions")
    folder.rename(folder.with_name("aside"))
    folder.write_text("in the place of a folder: nothing can be committed")
    try:
        dead = visitor.post("/annotate/coast/answer", data=form)
    finally:
        folder.unlink()
        folder.with_name("aside").rename(folder)
    assert dead.status_code == 503
    assert "is kept in this form" in words_of(dead)
    assert "/tmp" not in dead.text
    assert "hx-post" not in dead.text, "the page has no part that an answer could replace"
    kept = fields_of(dead, "kept")
    assert kept == form | {"csrf": kept["csrf"]}
    assert session.annotations().rows == ()
    sent = visitor.post("/annotate/coast/answer", data=kept, follow_redirects=True)
    assert "1 of 16 decisions" in words_of(sent)
    (row,) = session.annotations().rows
    assert (row.answer, row.seconds) == ("dissimilar", 3.5)


def test_forms_without_token_or_with_markup_change_nothing(visitor: httpx.Client, session: AnnotationSession) -> None:
    page = visitor.get("/annotate/coast")
    form = fields_of(page, "answer") | {"answer": "similar"}
    refused(visitor.post("/annotate/coast/answer", data={**form, "csrf": ""}), 403, "nothing was changed")
    refused(visitor.post("/annotate/coast/undo", data={"request_id": "x"}), 403)
    refused(visitor.post("/annotate/coast/adjudicate", data={**form, "csrf": "x"}), 403)
    for bad, status in (
        ({"first": EVIL}, 400),
        ({"second": form["first"]}, 400),
        ({"answer": EVIL}, 400),
        ({"request_id": EVIL}, 400),
        ({"seconds": "-1"}, 400),
        ({"seconds": "nan"}, 400),
        ({"as": "a\x00b"}, 400),
    ):
        answer = visitor.post("/annotate/coast/answer", data=form | bad)
        refused(answer, status)
        assert EVIL not in answer.text
    refused(visitor.post("/annotate/coast/adjudicate", data=form), 409, "do not disagree")
    assert session.annotations().rows == ()


@pytest.mark.parametrize(
    "path", ["/annotate/absent", "/annotate/absent/work", "/annotate/absent/curves", "/annotate/absent/disagreements"]
)
def test_unknown_sessions_are_clear_pages(visitor: httpx.Client, path: str) -> None:
    refused(visitor.get(path), 404, "no annotation session of this name")
    refused(visitor.get("/annotate/%3Cb%3E"), 400)
    refused(visitor.get("/annotate/coast/picture", params={"patch": EVIL}), 404)


def test_a_table_that_vanished_is_a_clear_page(tmp_path: Path, table: str) -> None:
    copy = tmp_path / "patches.lance"
    shutil.copytree(table, copy)
    session = AnnotationSession.create(str(tmp_path / "sessions" / "coast"), TableRef(str(copy)), SMALL_SESSION)
    session.select_next()
    with console_with(annotations_uri=str(tmp_path / "sessions")) as visitor:
        form = fields_of(visitor.get("/annotate/coast"), "answer") | {"answer": "similar"}
        copy.rename(tmp_path / "moved.lance")
        refused(visitor.get("/annotate/coast"), 404, "not there any more")
        assert "not there any more" in words_of(visitor.get("/annotate"))
        kept = visitor.post("/annotate/coast/answer", data=form)
        assert (kept.status_code, "is kept in this form" in words_of(kept)) == (404, True)
        (tmp_path / "moved.lance").rename(copy)
        assert visitor.post("/annotate/coast/answer", data=form, follow_redirects=True).status_code == 200
    with console_with() as visitor:
        refused(visitor.get("/annotate"), 404, "was given no folder of annotation sessions")


def test_a_console_that_ends_waits_for_no_choice(tmp_path: Path, table: str) -> None:
    address = str(tmp_path / "coast")
    session = AnnotationSession.create(address, TableRef(table), SMALL_SESSION)
    batches = Batches()
    batches.ensure(address)
    batches.ensure(address)
    assert batches.running(address)
    batches.close()
    until(lambda: not batches.running(address))
    assert session.rounds() == ()
    session.select_next()
    assert len(session.rounds()) == 1, "the lost choice was made again"
