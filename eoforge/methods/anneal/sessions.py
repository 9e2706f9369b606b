"""Durable annotation sessions: batches of pairs that people answer over days, from any process.

A session is a folder, local or on S3; :mod:`eoforge.methods.anneal.session_files` names its files. Nothing else is
state: a process that was killed loses nothing that a call returned, and a call that is repeated with its ``request_id``
writes nothing. Any number of annotators answer at the same time.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import pyarrow as pa

from eoforge.data.tables.append import append
from eoforge.data.tables.schema import sql_list
from eoforge.errors import ConflictError, UsageError, WrongState
from eoforge.methods.anneal.agreement import Agreement, agreement
from eoforge.methods.anneal.annotations import (
    Annotation,
    Annotations,
    Answer,
    Kind,
    Pair,
    read_annotations,
    record_batch,
)
from eoforge.methods.anneal.round_files import Round
from eoforge.methods.anneal.session_files import SessionFiles
from eoforge.nn.seeds import derive_seed
from eoforge.storage.addresses import open_table

if TYPE_CHECKING:
    import lance


class AnnotationSession(SessionFiles):
    """An annotation session; see the module.

    :meth:`create` or :meth:`open` gives one; :meth:`select_next` chooses the first batch, and each further one.
    """

    def batch(self, annotator: str, limit: int | None = None) -> list[Pair]:
        """Pairs that an annotator has still to answer, at most ``limit``.

        Pairs of older batches come first. Within a batch every annotator has an order of its own, so that two people
        who work at the same time rarely get the same pair.
        """
        annotations = self.annotations()
        found: list[Pair] = []
        for each in self.rounds():
            waiting = (p for p in each.pairs if self.settings.is_open(p, annotations))
            mine = [pair for pair in waiting if annotator not in annotations.votes.get(pair, ())]
            found += sorted(mine, key=lambda p: derive_seed("order", annotator, p.first, p.second))
        return found[:limit]

    def answer(self, pair: Pair, answer: str, annotator: str, seconds: float, request_id: str) -> Annotation:
        """The stored answer; a call that is repeated with its ``request_id`` stores nothing and returns the first.

        A second answer of the same annotator about a pair replaces the first. An answer is kept even when somebody
        else answered the pair meanwhile.

        Args:
            pair: A pair of a batch.
            answer: "similar", "dissimilar" or "skip".
            annotator: Name of the annotator.
            seconds: Time that the annotator took.
            request_id: Id of the call, chosen by the caller once per click.

        Raises:
            UsageError: A value is malformed, or the pair is of no batch.
            ConflictError: The ``request_id`` was used for another answer.
        """
        chosen = _answer(answer)
        number = self._iteration_of(pair)
        return self._write(Kind.ANSWER, pair, chosen, annotator, seconds, request_id, number)

    def undo(self, annotator: str, request_id: str | None = None) -> Annotation | None:
        """The annotator's last answer, withdrawn; None if there is none.

        Args:
            annotator: Name of the annotator.
            request_id: Id of the call; repeated with it, the call withdraws nothing further and returns the same.
        """
        request_id = request_id or f"undo-{derive_seed('undo', annotator, _now().isoformat())}"
        withdrawn: list[Annotation | None] = []

        def decide(annotations: Annotations) -> Annotation | None:
            earlier = annotations.by_request.get(request_id)
            if earlier is not None and (earlier.kind is not Kind.UNDO or earlier.who != annotator):
                raise ConflictError(f"request_id {request_id} was used for another call")
            last = annotations.by_request[earlier.undoes] if earlier else annotations.last_of(annotator)
            withdrawn[:] = [last]
            if earlier is not None or last is None:
                return None
            return Annotation(
                request_id, last.pair, last.answer, annotator, _now(), 0.0, last.iteration, last.model, Kind.UNDO,
                last.request_id,
            )  # fmt: skip

        self._append(decide)
        return withdrawn[0]

    def disagreements(self) -> Agreement:
        """Pairs in dispute, and Cohen's kappa of every two annotators."""
        return agreement(self.annotations())

    def adjudicate(self, pair: Pair, answer: str, adjudicator: str, request_id: str) -> Annotation:
        """The stored final answer about a pair in dispute; "skip" takes the pair out of training.

        Raises:
            UsageError: A value is malformed.
            WrongState: Nobody disagrees about the pair.
            ConflictError: The ``request_id`` was used for another answer.
        """
        chosen = _answer(answer)
        if all(disputed.pair != pair for disputed in self.disagreements().pairs):
            raise WrongState(f"annotators do not disagree about {pair.first} and {pair.second}")
        return self._write(Kind.ADJUDICATION, pair, chosen, adjudicator, 0.0, request_id, self._newest())

    def record_feedback(self, query: str, hit: str, liked: bool, annotator: str, request_id: str) -> Annotation:
        """The stored judgement of a search result ("thumbs up or down"), which trains like an answer.

        The pair need not be of a batch, and no budget counts it.

        Args:
            query: Patch id of the query.
            hit: Patch id of the result.
            liked: Whether the two are similar.
            annotator: Name of the annotator.
            request_id: As for :meth:`answer`.

        Raises:
            UsageError: A value is malformed, or the table has no such patches.
            ConflictError: The ``request_id`` was used for another answer.
        """
        pair = Pair.of(query, hit)
        self._require_patches(pair)
        answer = Answer.SIMILAR if liked else Answer.DISSIMILAR
        return self._write(Kind.FEEDBACK, pair, answer, annotator, 0.0, request_id, self._newest())

    def import_answers(self, rows: Iterable[Annotation]) -> int:
        """Number of answers from elsewhere that were new; all of them are stored in one version, or none.

        Raises:
            UsageError: A pair is of no batch, or two rows share a ``request_id``.
            ConflictError: A ``request_id`` was used for another answer.
        """
        given = list(rows)
        known = {pair: each for each in self.rounds() for pair in each.pairs}
        if strange := next((row.pair for row in given if row.pair not in known), None):
            raise UsageError(f"{strange.first} and {strange.second} are no pair of this session")
        if len({row.request_id for row in given}) < len(given):
            raise UsageError("expected a request_id of its own for every answer")
        fresh: list[Annotation] = []

        def decide(table: lance.LanceDataset) -> pa.RecordBatch | None:
            annotations = read_annotations(table)
            fresh[:] = [row for row in given if not _stored(annotations, row)]
            return record_batch(fresh) if fresh else None

        append(self.table, decide)
        return len(fresh)

    def select_next(self) -> Round:
        """The next batch, after training on the answers so far; the last one is empty and names the bundle.

        It needs the packages of training, and takes seconds to minutes; answers may come in meanwhile.

        Raises:
            WrongState: The newest batch has not enough answers.
            UsageError: The training split has too few patches for the budget.
        """
        from eoforge.methods.anneal.rounds import advance  # answering needs no scikit-learn

        return advance(self)

    def _newest(self) -> int:
        return max(len(self.rounds()) - 1, 0)

    def _iteration_of(self, pair: Pair) -> int:
        found = next((each.iteration for each in self.rounds() if pair in each.members), None)
        if found is None:
            raise UsageError(f"{pair.first[:100]!r} and {pair.second[:100]!r} are no pair of this session")
        return found

    def _require_patches(self, pair: Pair) -> None:
        wanted = f"patch_id IN ({sql_list([pair.first, pair.second])})"
        if open_table(self.settings.patches).count_rows(wanted) < 2:
            raise UsageError(f"expected two patches of the table; got {pair.first[:100]!r} and {pair.second[:100]!r}")

    def _write(
        self, kind: Kind, pair: Pair, answer: Answer, who: str, seconds: float, request_id: str, iteration: int
    ) -> Annotation:
        rounds = self.rounds()
        model = rounds[iteration].model if iteration < len(rounds) else ""
        row = Annotation(request_id, pair, answer, who, _now(), seconds, iteration, model, kind)

        def decide(annotations: Annotations) -> Annotation | None:
            return None if _stored(annotations, row) else row

        return self._append(decide).by_request[request_id]

    def _append(self, decide: Callable[[Annotations], Annotation | None]) -> Annotations:
        def rows(table: lance.LanceDataset) -> pa.RecordBatch | None:
            row = decide(read_annotations(table))
            return None if row is None else record_batch([row])

        return self.annotations(append(self.table, rows))


def _answer(text: str) -> Answer:
    try:
        return Answer(text)
    except ValueError:
        raise UsageError(f"an answer is one of {', '.join(Answer)}; got {str(text)[:100]!r}") from None


def _stored(annotations: Annotations, row: Annotation) -> bool:
    earlier = annotations.by_request.get(row.request_id)
    if earlier is not None and not earlier.same_call(row):
        raise ConflictError(f"request_id {row.request_id} was used for another answer; choose a new one per click")
    return earlier is not None


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
