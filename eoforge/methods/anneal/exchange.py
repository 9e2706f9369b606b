"""Answers as CSV, for people who annotate with tools of their own, and annotations as CSV or Parquet."""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet

from eoforge.errors import NotFound, UsageError
from eoforge.methods.anneal.annotations import Annotation, Annotations, Answer, Pair, record_batch

OPEN_COLUMNS = ("first", "second", "answer")
_MAX_BYTES = 256 << 20


def write_annotations(annotations: Annotations, path: Path) -> None:
    """Writes all rows, in the columns of ``annotations.lance``; the suffix ``.csv`` or ``.parquet`` is the format.

    Raises:
        UsageError: The suffix is another one.
    """
    import pyarrow as pa

    table = pa.Table.from_batches([record_batch(annotations.rows)])
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        raise UsageError(f"annotations are written as .csv or .parquet; got {path}")


def write_open(pairs: Iterable[Pair], path: Path) -> None:
    """Writes pairs as CSV with an empty column ``answer``, for :func:`read_answers`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(OPEN_COLUMNS)
        writer.writerows((pair.first, pair.second, "") for pair in pairs)


def read_answers(path: Path, annotator: str, iteration_of: dict[Pair, tuple[int, str]]) -> list[Annotation]:
    """Answers from a CSV with the columns ``first``, ``second``, ``answer`` and optionally ``seconds``.

    Rows without an answer are left out. The ``request_id`` of an answer follows from its content, so that a file that
    is read twice, or again with more answers, stores nothing twice.

    Args:
        path: The file.
        annotator: Who answered.
        iteration_of: Number of the batch of each pair of the session, and the weights that chose it.

    Raises:
        NotFound: The file does not exist.
        UsageError: It is no such table, or names a pair that is not of the session.
    """
    if not path.is_file():
        raise NotFound(f"no file {path}")
    if path.stat().st_size > _MAX_BYTES:
        raise UsageError(f"{path} has {path.stat().st_size} bytes; at most {_MAX_BYTES} are read")
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is no CSV in UTF-8: {error}") from error
    if missing := set(OPEN_COLUMNS) - set(reader.fieldnames or ()):
        raise UsageError(f"{path} needs the columns {', '.join(OPEN_COLUMNS)}; it lacks {', '.join(sorted(missing))}")
    when = dt.datetime.now(dt.UTC)
    found = {}
    for number, row in enumerate(rows, start=2):
        if not (row["answer"] or "").strip():
            continue
        try:
            pair = Pair.of(row["first"] or "", row["second"] or "")
            answer = Answer(row["answer"].strip().lower())
            seconds = float(row.get("seconds") or 0.0)
        except ValueError as error:
            raise UsageError(f"line {number} of {path}: {error}; answers are {', '.join(Answer)}") from error
        except UsageError as error:
            raise UsageError(f"line {number} of {path}: {error}") from error
        if pair not in iteration_of:
            raise UsageError(
                f"line {number} of {path}: {pair.first[:100]!r} and {pair.second[:100]!r} are no pair of it"
            )
        request = _request_id((annotator, pair.first, pair.second, answer))
        found[request] = Annotation(request, pair, answer, annotator, when, seconds, *iteration_of[pair])
    return list(found.values())


def _request_id(parts: Sequence[str]) -> str:
    return "import-" + hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
