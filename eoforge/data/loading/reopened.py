"""Handle of a table that works in forked, spawned and pickled workers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from eoforge.storage.addresses import TableRef, open_table

if TYPE_CHECKING:
    import lance


class ReopenedTable:
    """Table at one version, opened anew in each process that reads it.

    Lance reads in threads, and a fork copies no threads: a read through the handle of the parent process never ends.
    The inherited handle is kept unused, because its end would wait for these threads, too.

    Attributes:
        ref: Table and version; without a version the newest is pinned.
    """

    def __init__(self, table: TableRef | str) -> None:
        """Handle of a table, opened in this process.

        Raises:
            NotFound: The table or the version does not exist.
            StoreError: The store cannot be reached or refuses access, or the table is damaged.
        """
        ref = TableRef.parse(table) if isinstance(table, str) else table
        opened = open_table(ref)
        self.ref = TableRef(ref.uri, int(opened.version))
        self._opened = {os.getpid(): opened}

    @property
    def here(self) -> lance.LanceDataset:
        """Table opened by this process."""
        process = os.getpid()
        if process not in self._opened:
            self._opened[process] = open_table(self.ref)
        return self._opened[process]

    def __getstate__(self) -> dict[str, Any]:
        return {"ref": self.ref, "_opened": {}}
