"""Reader of CSV files with a number per patch: duplicates and missing values are counted, all else is refused."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import structlog

from eoforge.data.csv_table import MAX_BYTES, read_rows
from eoforge.errors import DataRefused
from eoforge.storage.addresses import normalise
from eoforge.storage.objects import ObjectStore

ID = "patch_id"
_MISSING = {"", "nan", "na", "n/a", "null", "none"}
log = structlog.get_logger("targets")


@dataclass(frozen=True)
class FileCounts:
    """Counts of a file.

    Attributes:
        rows: Rows with an id.
        duplicates: Rows beyond the first of their patch; the mean of a patch's values is taken.
        missing: Patches without any value.
        unknown: Patches that are not in the table.
        other_splits: Patches of other splits than the one that was asked for.
    """

    rows: int
    duplicates: int
    missing: int
    unknown: int = 0
    other_splits: int = 0


def file_digest(file: str) -> str:
    """SHA-256 of a file, by which a run recognises it.

    Raises:
        NotFound: There is no such file.
    """
    return hashlib.sha256(_bytes(file)).hexdigest()


def read_target_file(file: str, column: str, digest: str = "") -> tuple[dict[str, float], FileCounts]:
    """Patch id -> value of a column, in the order of the file, and the counts.

    Args:
        file: Path or ``s3://`` URI of a CSV file with a header.
        column: Name of the column; another column is ``patch_id``.
        digest: SHA-256 that the file must have; empty for any.

    Raises:
        NotFound: There is no such file.
        DataRefused: It is no such CSV file, a value is no number, or it has another digest.
        LimitExceeded: It has too many columns or rows.
    """
    data = _bytes(file)
    if digest and hashlib.sha256(data).hexdigest() != digest:
        raise DataRefused(f"{file} is another file than the one that was trained on: its SHA-256 is not {digest}")
    seen: dict[str, list[float]] = {}
    rows = duplicates = 0
    for line, row in read_rows(data, file, (ID, column)):
        name, value = row[ID].strip(), row[column].strip()
        if not name:
            raise DataRefused(f"line {line} of {file} has no {ID}")
        rows += 1
        duplicates += name in seen
        seen.setdefault(name, []).extend(_numbers(value, column, f"line {line} of {file}"))
    found = {name: sum(values) / len(values) for name, values in seen.items() if values}
    counts = FileCounts(rows, duplicates, len(seen) - len(found))
    if duplicates:
        log.warning(f"{duplicates} rows of {file} repeat a patch; the mean of its values is taken")
    if counts.missing:
        log.warning(f"{counts.missing} patches of {file} have no value of {column} and are left out")
    return found, counts


def _numbers(text: str, column: str, where: str) -> list[float]:
    """The number of a cell as a list of one, or an empty list for a missing value."""
    if text.lower() in _MISSING:
        return []
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise DataRefused(f"{column} in {where} must be a finite number or empty; got {text[:80]!r}")
    return [value]


def _bytes(file: str) -> bytes:
    folder, _, name = normalise(file).rpartition("/")
    return ObjectStore(folder or "/").get(name, limit=MAX_BYTES)
