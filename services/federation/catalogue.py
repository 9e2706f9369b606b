"""Catalogue of runs, and of those that have ended, so that a start need not read every journal."""

from __future__ import annotations

import re
import time
from collections.abc import Collection

from eoforge.errors import DamagedObject, LimitExceeded, NotFound
from eoforge.federated.run.journal import Journal
from eoforge.federated.run.spec import RUN_ID
from eoforge.storage.objects import ObjectStore
from services.federation.quarantine import Quarantine

_ENTRY = re.compile(rf"index/[0-9]+\.({RUN_ID.pattern})")


class Catalogue:
    """Names of runs below ``index/`` in the order of their creation; ended and cleaned runs below ``ended/``.

    Args:
        store: Store of the coordinators.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store, self.quarantine = store, Quarantine(store)

    def add(self, run_id: str) -> None:
        """Adds the name of a run before its journal begins: a run without a name would never be found."""
        self._store.put(f"index/{time.time_ns():020d}.{run_id}", b"")

    def names(self) -> list[str]:
        """Names of all runs, newest first."""
        matches = (_ENTRY.fullmatch(key) for key in reversed(list(self._store.list("index"))))
        return list(dict.fromkeys(match[1] for match in matches if match))

    def close(self, run_id: str) -> None:
        """Marks a run that has ended and is cleaned up."""
        self._store.put(f"ended/{run_id}", b"")

    def open(self, known: Collection[str]) -> list[Journal]:
        """Journals of all runs that need an actor, except the ``known`` ones.

        An ended run is among them until it is closed: its coordinator may have died before it deleted the secret and
        the updates of the run.
        """
        left_out = {key.removeprefix("ended/") for key in self._store.list("ended")} | self.quarantine.runs()
        found = []
        for run_id in self.names():
            if run_id in known or run_id in left_out:
                continue
            journal = Journal(self._store, run_id)
            try:
                journal.load()
            except NotFound:
                continue  # a run whose creation was interrupted
            except (DamagedObject, LimitExceeded) as error:
                self.quarantine.add_run(run_id, error)
                continue
            found.append(journal)
        return found
