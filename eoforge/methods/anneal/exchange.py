"""Answers as CSV, for people who annotate with tools of their own, and annotations as CSV or Parquet."""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet

from eoforge.data.csv_table import MAX_BYTES, plain, read_rows
from eoforge.errors import DataRefused, NotFound, UsageError
from eoforge.methods.anneal.annotations import Annotation, Annotations, Answer, Pair, record_batch

OPEN_COLUMNS = ("first", "second", "answer")


def write_annotations(annotations: Annotations, path: Path) -> None:
    """Writes all rows, in the columns of ``annotations.lance``; the suffix ``.csv`` or ``.parquet`` is the format.

    Raises:
        UsageError: The suffix is another one.
    """
    import pyarrow as pa

    table = pa.Table.from_batches([record_batch(annotations.rows)])
    if path.suffix == ".csv":
        texts = [i for i, field in enumerate(table.schema) if pa.types.is_string(field.type)]
        for i in texts:  # an annotator chooses a name
            values = pa.array([plain(value) for value in table.column(i).to_pylist()], pa.string())
            table = table.set_column(i, table.field(i), values)
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
    if path.stat().st_size > MAX_BYTES:
        raise UsageError(f"{path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
    try:
        rows = list(read_rows(path.read_bytes(), str(path), OPEN_COLUMNS))
    except DataRefused as error:
        raise UsageError(str(error)) from error
    when = dt.datetime.now(dt.UTC)
    found = {}
    for number, row in rows:
        if not row["answer"].strip():
            continue
        try:
            pair = Pair.of(row["first"], row["second"])
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
        try:
            found[request] = Annotation(request, pair, answer, annotator, when, seconds, *iteration_of[pair])
        except UsageError as error:
            raise UsageError(f"line {number} of {path}: {error}") from error
    return list(found.values())


def _request_id(parts: Sequence[str]) -> str:
    return "import-" + hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
