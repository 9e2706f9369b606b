"""Scalar indexes of ``patches.lance``, for the columns of filters and look-ups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import stamina

from eoforge.errors import ConflictError, StoreError
from eoforge.storage.addresses import TableRef, address_of, normalise, open_table, plain

if TYPE_CHECKING:
    import lance

INDEXES: dict[str, Literal["BTREE", "BITMAP", "LABEL_LIST"]] = {
    "patch_id": "BTREE",
    "split": "BITMAP",
    "country": "BITMAP",
    "labels": "LABEL_LIST",
}
_ATTEMPTS = 20


def ensure_indexes(table: str) -> int:
    """Update of the scalar indexes; makes no version if they cover all rows.

    Returns:
        The newest version.

    Raises:
        ConflictError: Other writers committed first in every attempt.
        StoreError: The store cannot be reached, or may not be written.
    """
    uri = normalise(table)
    try:
        # Lance reports a concurrent write as an OSError; the next attempt finds the index of the other writer.
        for attempt in stamina.retry_context(
            on=_is_conflict, attempts=_ATTEMPTS, timeout=None, wait_initial=0.05, wait_max=2.0
        ):
            with attempt:
                return _ensure(open_table(TableRef(uri)))
    except OSError as error:
        if not _is_conflict(error):
            raise StoreError(f"cannot index {uri}: {plain(error)}") from error
        raise ConflictError(
            f"other writers of {uri} committed first, {_ATTEMPTS} times, while the table was indexed: {error}"
        ) from error
    raise AssertionError("unreachable: the retry loop returns or raises")


def _ensure(table: lance.LanceDataset) -> int:
    rows = table.count_rows()
    indexed = {d.field_names[0]: d for d in table.describe_indices()}
    if rows == 0:
        return table.version
    for column, kind in INDEXES.items():
        if column not in indexed:
            table.create_scalar_index(column, kind, name=f"{column}_idx", replace=False)
    stale = [d.name for c, d in indexed.items() if c in INDEXES and d.num_rows_indexed < rows]
    if stale:
        table.optimize.optimize_indices(index_names=stale)
    return open_table(TableRef(address_of(table))).version


def _is_conflict(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, OSError) and ("conflict" in text or "already exists" in text)
