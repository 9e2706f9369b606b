"""Rows of people and small events: appended one call at a time, exactly once under concurrent writers.

Bulk loads have jobs (:mod:`eoforge.data.tables.commit`). A click has none: the row is decided from the newest version,
written as a fragment, and committed by ``LanceOperation.Merge`` at that version. ``Merge`` conflicts with every
concurrent write, so a decision from an outdated version is refused and taken again. A process that is killed leaves
either the row or a data file that no version names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa
import stamina

from eoforge.data.tables.commit import COMMIT_ATTEMPTS, discard_fragments, write_fragments
from eoforge.errors import ConflictError
from eoforge.storage.addresses import TableRef, lance_uri, normalise, open_table, storage_options

if TYPE_CHECKING:
    import lance

COMPACT_FRAGMENTS = 64
"""Number of fragments from which :func:`compact` rewrites them as one; every call of :func:`append` adds one."""


def append(uri: str, decide: Callable[[lance.LanceDataset], pa.RecordBatch | None]) -> int:
    """Version of the table that holds the rows of ``decide``.

    Args:
        uri: A table.
        decide: Rows to append, as a function of the newest version, or None for none. It is called again after each
            conflict with another writer, so it must have no effect of its own.

    Raises:
        NotFound: There is no such table.
        ConflictError: Other writers committed first, ``COMMIT_ATTEMPTS`` times.
    """
    from lance.commit import CommitConflictError

    uri = normalise(uri)
    try:
        for attempt in stamina.retry_context(
            on=CommitConflictError, attempts=COMMIT_ATTEMPTS, timeout=None, wait_initial=0.02, wait_max=1.0
        ):
            with attempt:
                version = _append_once(uri, decide)
    except CommitConflictError as error:
        raise ConflictError(f"other writers of {uri} committed first, {COMMIT_ATTEMPTS} times; try again") from error
    return version


def _append_once(uri: str, decide: Callable[[lance.LanceDataset], pa.RecordBatch | None]) -> int:
    import lance
    from lance.commit import CommitConflictError

    table = open_table(TableRef(uri))
    rows = decide(table)
    if rows is None:
        return int(table.version)
    staged = write_fragments(uri, table.schema, [rows])
    fragments = [f.metadata for f in table.get_fragments()] + [lance.FragmentMetadata.from_json(s) for s in staged]
    transaction = lance.Transaction(table.version, lance.LanceOperation.Merge(fragments, table.schema))
    try:
        return int(lance.LanceDataset.commit(lance_uri(uri), transaction, storage_options=storage_options(uri)).version)
    except CommitConflictError:
        discard_fragments(uri, staged)
        raise


def compact(uri: str) -> None:
    """Rewrites the fragments of many small appends as one, in their order; left for a later call on a conflict."""
    from lance.commit import CommitConflictError

    table = open_table(TableRef(normalise(uri)))
    if len(table.get_fragments()) < COMPACT_FRAGMENTS:
        return
    try:
        table.optimize.compact_files(num_threads=1)
    except (CommitConflictError, OSError):  # another writer was faster; the rows are as they were
        return
