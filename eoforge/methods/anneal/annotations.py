"""Annotations of pairs: the table ``annotations.lance``, an append-only list, and what follows from its rows.

A row never changes. An undo and an adjudication are rows too, so the table tells who said what, and when, for ever.
The order of the rows is the order of their commits.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from eoforge.data.tables.schema import PRIMARY_KEY
from eoforge.errors import DamagedObject, UsageError
from eoforge.storage.addresses import address_of

if TYPE_CHECKING:
    import lance

_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,128}")
_REQUEST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
MAX_SECONDS = 86_400.0


class Answer(StrEnum):
    """Answer about a pair."""

    SIMILAR = "similar"
    DISSIMILAR = "dissimilar"
    SKIP = "skip"


class Kind(StrEnum):
    """Kind of a row."""

    ANSWER = "answer"
    """By an annotator, about a pair of a batch."""
    UNDO = "undo"
    """Withdrawal of the row that ``undoes`` names."""
    ADJUDICATION = "adjudication"
    """Final answer about a pair on which annotators disagree."""
    FEEDBACK = "feedback"
    """About a query and a hit of a search; the pair need not be of a batch."""


@dataclass(frozen=True, order=True)
class Pair:
    """Unordered pair of patch ids, kept with ``first < second``."""

    first: str
    second: str

    @classmethod
    def of(cls, one: str, other: str) -> Pair:
        """The pair of two patches, in either order.

        Raises:
            UsageError: Both are the same patch, or one has no name.
        """
        if not one or not other or one == other:
            raise UsageError(f"a pair has two different patches; got {one[:100]!r} and {other[:100]!r}")
        return cls(min(one, other), max(one, other))


@dataclass(frozen=True)
class Annotation:
    """A row of ``annotations.lance``.

    Attributes:
        request_id: Id of the call that wrote it; a repeated call writes nothing.
        pair: The two patches.
        answer: The answer; for an undo that of the withdrawn row.
        who: Name of the annotator.
        when: Time of the call, UTC.
        seconds: Time that the annotator took.
        iteration: Number of the batch.
        model: Address of the weights that chose the pair, relative to the session; empty for the first batch.
        kind: See :class:`Kind`.
        undoes: For an undo, the ``request_id`` of the withdrawn row.
    """

    request_id: str
    pair: Pair
    answer: Answer
    who: str
    when: dt.datetime
    seconds: float
    iteration: int
    model: str
    kind: Kind = Kind.ANSWER
    undoes: str = ""

    def __post_init__(self) -> None:
        """Checks of what a caller may send.

        Raises:
            UsageError: A name or the time is malformed.
        """
        if not _REQUEST.fullmatch(self.request_id):
            raise UsageError(
                f"request_id has 1 to 128 letters, digits, '.', '_', ':' or '-'; got {self.request_id[:200]!r}"
            )
        if not _NAME.fullmatch(self.who):
            raise UsageError(f"an annotator's name has 1 to 128 printable characters; got {self.who[:200]!r}")
        if not (math.isfinite(self.seconds) and 0 <= self.seconds <= MAX_SECONDS):
            raise UsageError(f"seconds must be between 0 and {MAX_SECONDS:.0f}; got {self.seconds}")

    def same_call(self, other: Annotation) -> bool:
        """Whether both are rows of one call; time and duration of a repeated call may differ."""
        mine, theirs = ((a.pair, a.answer, a.who, a.kind, a.undoes) for a in (self, other))
        return mine == theirs


def _column(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


ANNOTATIONS: pa.Schema = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        _column("first", pa.string()),
        _column("second", pa.string()),
        _column("answer", pa.string()),
        _column("who", pa.string()),
        _column("when", pa.timestamp("us", tz="UTC")),
        _column("seconds", pa.float64()),
        _column("iteration", pa.int32()),
        _column("model", pa.string()),
        _column("kind", pa.string()),
        _column("undoes", pa.string()),
    ]
)
"""Schema of ``annotations.lance``; ``first`` and ``second`` are the pair."""
_OWN = ("request_id", "answer", "who", "when", "seconds", "iteration", "model", "kind", "undoes")


def record_batch(rows: Iterable[Annotation]) -> pa.RecordBatch:
    """Rows in the columns of ``ANNOTATIONS``."""
    values = [
        {"first": row.pair.first, "second": row.pair.second} | {name: getattr(row, name) for name in _OWN}
        for row in rows
    ]
    return pa.RecordBatch.from_pylist(values, schema=ANNOTATIONS)


def read_annotations(table: lance.LanceDataset) -> Annotations:
    """Rows of one version of the table, in the order of their commits.

    Raises:
        DamagedObject: It is no table of annotations.
    """
    rows = []
    try:
        for row in table.to_table().to_pylist():
            own = {name: row[name] for name in _OWN}
            own |= {"answer": Answer(row["answer"]), "kind": Kind(row["kind"])}
            rows.append(Annotation(pair=Pair(row["first"], row["second"]), **own))
    except (KeyError, ValueError, TypeError, UsageError) as error:
        raise DamagedObject(f"{address_of(table)} is no table of annotations: {error}") from error
    return Annotations(tuple(rows))


Votes = Mapping[Pair, Mapping[str, Annotation]]
"""Pair -> annotator -> row."""


@dataclass(frozen=True)
class Annotations:
    """All rows of a session, and what counts of them: of several answers of a person on a pair, the last."""

    rows: tuple[Annotation, ...]

    @cached_property
    def by_request(self) -> Mapping[str, Annotation]:
        """Row of each call."""
        return {row.request_id: row for row in self.rows}

    @cached_property
    def standing(self) -> tuple[Annotation, ...]:
        """Rows that no undo withdrew, without the undos."""
        undone = {row.undoes for row in self.rows if row.kind is Kind.UNDO}
        return tuple(row for row in self.rows if row.kind is not Kind.UNDO and row.request_id not in undone)

    @cached_property
    def votes(self) -> Votes:
        """Answers and feedback that stand."""
        found: dict[Pair, dict[str, Annotation]] = defaultdict(dict)
        for row in self.standing:
            if row.kind is not Kind.ADJUDICATION:
                found[row.pair][row.who] = row
        return found

    @cached_property
    def adjudicated(self) -> Mapping[Pair, Annotation]:
        """The last adjudication of each pair."""
        return {row.pair: row for row in self.standing if row.kind is Kind.ADJUDICATION}

    @cached_property
    def answers(self) -> tuple[Annotation, ...]:
        """The last answer of each person about each pair; feedback that came later changes the vote, not the count."""
        return tuple({(row.pair, row.who): row for row in self.standing if row.kind is Kind.ANSWER}.values())

    @property
    def decisions(self) -> int:
        """Number of decisions that a budget counts: answers and adjudications other than "skip", no feedback."""
        return sum(row.answer is not Answer.SKIP for row in (*self.answers, *self.adjudicated.values()))

    def last_of(self, who: str) -> Annotation | None:
        """The annotator's last answer that stands."""
        own = (row for row in reversed(self.standing) if row.who == who and row.kind is Kind.ANSWER)
        return next(own, None)

    def labels(self) -> dict[Pair, bool]:
        """Similar or not, for each pair with a result: its adjudication, else the majority; ties have none."""
        found: dict[Pair, bool] = {}
        for pair in sorted(self.votes.keys() | self.adjudicated.keys()):
            final = self.adjudicated.get(pair)
            rows = [final] if final else list(self.votes[pair].values())
            balance = sum({Answer.SIMILAR: 1, Answer.DISSIMILAR: -1, Answer.SKIP: 0}[row.answer] for row in rows)
            if balance:
                found[pair] = balance > 0
        return found
