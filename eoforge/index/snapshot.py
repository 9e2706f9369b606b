"""Opening of an index by the engine that its table was made for."""

from __future__ import annotations

from dataclasses import dataclass

from eoforge.errors import UsageError
from eoforge.index.cache.folder import IndexCache
from eoforge.index.catalog import IndexSnapshot
from eoforge.index.ivf.search import DEFAULT_MEMORY, IvfSnapshot
from eoforge.index.ivf.table import IVF, engine_of
from eoforge.storage.addresses import TableRef, open_table

Snapshot = IndexSnapshot | IvfSnapshot
"""Opened version of an index; both answer searches and give codes and metadata of rows."""


@dataclass(frozen=True)
class Opening:
    """How indexes are opened.

    Attributes:
        device: Torch device of the exact search; None for the CPU.
        store: Local cache of exact indexes; None for the default.
        memory: Bytes that Lance may keep of an IVF index.
        min_recall: Recall that searches will ask for by default.
    """

    device: str | None = None
    store: IndexCache | None = None
    memory: int = DEFAULT_MEMORY
    min_recall: float = 1.0


def open_snapshot(codes: TableRef, how: Opening, previous: Snapshot | None = None) -> Snapshot:
    """Snapshot of a table of codes.

    Args:
        codes: Table of codes.
        how: Cache, device and limits.
        previous: Opened version, whose rows are shared if the codes have only grown since.

    Raises:
        NotFound: The table, its version, or its version of the patches does not exist.
        DataRefused: The table is no table of codes, or codes differ from their checksums.
        StoreError: The local cache cannot be used, or has no room.
        UsageError: No measured setting of the index has the default recall.
    """
    if engine_of(open_table(codes).schema) != IVF:
        return IndexSnapshot.open(
            codes, how.device, how.store, previous if isinstance(previous, IndexSnapshot) else None
        )
    opened = IvfSnapshot.open(codes, how.memory)
    if how.min_recall < 1 and opened.ivf is not None:
        try:
            opened.ivf.probes_for(how.min_recall)
        except UsageError as error:
            raise UsageError(f"EOFORGE_MIN_RECALL cannot be kept with {codes}: {error}") from error
    return opened
