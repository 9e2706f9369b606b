"""Handle of a table that worker processes open anew."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from eoforge.errors import UsageError
from eoforge.storage.addresses import TableRef, open_table

if TYPE_CHECKING:
    import lance


class ReopenedTable:
    """Table at one version, opened anew in each process that reads it.

    Spawned workers, and those of a fork server, get table and version and open it themselves. A forked worker is
    refused: Lance reads in threads, a fork copies none of them, and a table that the child opens anew works most of the
    time and waits for ever at others.

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
        self._opened: lance.LanceDataset | None = open_table(ref)
        self.ref = TableRef(ref.uri, int(self._opened.version))
        self._process = os.getpid()

    @property
    def here(self) -> lance.LanceDataset:
        """Table opened by this process.

        Raises:
            UsageError: This process is a fork of the one that opened it.
        """
        if self._opened is None:
            self._opened, self._process = open_table(self.ref), os.getpid()
        if self._process != os.getpid():
            raise UsageError(
                f"{self.ref} cannot be read in a forked process, because Lance reads in threads, which a fork does not "
                'copy. Start workers otherwise: DataLoader(..., multiprocessing_context="forkserver")'
            )
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return {"ref": self.ref, "_opened": None, "_process": 0}
