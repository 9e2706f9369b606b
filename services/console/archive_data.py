"""Contents and footprints of table versions, kept for the versions that were looked at last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from eoforge.data.tables.commit import table_identity
from eoforge.data.tables.contents import TableContents, table_contents
from eoforge.data.tables.footprints import FootprintMap
from eoforge.storage.addresses import TableRef, address_of

if TYPE_CHECKING:
    import lance

KEPT = 3
Made = TypeVar("Made")


class PerVersion(Generic[Made]):
    """What one function makes of a version of a table; each version is read once, by one thread.

    Args:
        make: The function; its result must not change.
    """

    def __init__(self, make: Callable[[lance.LanceDataset], Made]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._kept: OrderedDict[tuple[str, int, str], Made] = OrderedDict()

    def of(self, table: lance.LanceDataset) -> Made:
        """What the function makes of a table."""
        # A new table at an old address starts at version 1 again; its identity is another.
        key = (address_of(table), table.version, table_identity(table))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._make(table)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]


def _contents(table: lance.LanceDataset) -> TableContents:
    return table_contents(TableRef(address_of(table), table.version))


CONTENTS: PerVersion[TableContents] = PerVersion(_contents)
FOOTPRINTS: PerVersion[FootprintMap] = PerVersion(FootprintMap)
