"""Quarantine of damaged objects: each is set aside once, with a log line and a metric, and everything else goes on."""

from __future__ import annotations

import structlog

from eoforge.errors import NotFound
from eoforge.storage.objects import ObjectStore
from services.federation.telemetry import QUARANTINED

MAX_REASON = 1000
_FOLDER = "quarantine"

log = structlog.get_logger("quarantine")


class Quarantine:
    """Markers of runs below ``quarantine/runs/`` and damaged registrations below ``quarantine/silos/``.

    A marker holds the reason. A run with a marker has no actor, and its objects stay as they are; after a repair, the
    marker is deleted by hand and the run goes on.

    Args:
        store: Store of the coordinators.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def runs(self) -> set[str]:
        """Names of runs in quarantine; blocks."""
        keys = list(self._store.list(_FOLDER))
        QUARANTINED.set(len(keys))
        prefix = f"{_FOLDER}/runs/"
        return {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}

    def add_run(self, run_id: str, error: Exception) -> None:
        """Puts a run into quarantine; blocks."""
        log.error("a run is damaged and set aside; the others go on", run=run_id, error=str(error), exc_info=error)
        self._store.put(f"{_FOLDER}/runs/{run_id}", f"{type(error).__name__}: {error}"[:MAX_REASON].encode())
        self.runs()

    def move(self, key: str, error: Exception) -> None:
        """Moves a damaged object that will be written anew; blocks."""
        log.error("a damaged object is set aside", key=key, error=str(error))
        try:
            self._store.put(f"{_FOLDER}/{key}", self._store.get(key))
        except NotFound:
            return
        self._store.delete(key)
        self.runs()
