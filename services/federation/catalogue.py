"""Which runs there are, and which of them have ended: names on the store, so that nobody reads every journal."""

from __future__ import annotations

import time
from collections.abc import Collection

import structlog
from google.protobuf import json_format

from eoforge.errors import EoforgeError, NotFound
from eoforge.federated.run.journal import Journal
from eoforge.storage.objects import ObjectStore

log = structlog.get_logger("coordinator")


class Catalogue:
    """Names of runs below ``index/`` in the order of their creation; of those that are over, and cleaned, ``ended/``.

    Args:
        store: The coordinator's store.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def add(self, run_id: str) -> None:
        """Names a run, before it is made: what is not named would never be found."""
        self._store.put(f"index/{time.time_ns():020d}.{run_id}", b"")

    def names(self) -> list[str]:
        """Names of all runs, newest first."""
        names = (key.split(".", 1)[1] for key in reversed(list(self._store.list("index"))))
        return list(dict.fromkeys(names))

    def close(self, run_id: str) -> None:
        """Notes that a run has ended and nothing is left to do for it."""
        self._store.put(f"ended/{run_id}", b"")

    def open(self, known: Collection[str]) -> list[Journal]:
        """Journals of runs that somebody must act for, but those that are ``known``.

        One that has ended is among them until it is closed: whoever ended it may have died before it deleted the run's
        secret and what silos sent.
        """
        over = {key.removeprefix("ended/") for key in self._store.list("ended")}
        found = []
        for run_id in self.names():
            if run_id in known or run_id in over:
                continue
            journal = Journal(self._store, run_id)
            try:
                journal.load()
            except NotFound:
                continue  # its creation was cut short
            except (EoforgeError, json_format.ParseError):
                log.exception("a run's journal cannot be read; the others go on", run=run_id)
                continue
            found.append(journal)
        return found
