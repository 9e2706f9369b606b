"""Who did what: one object per entry, created and never touched again."""

from __future__ import annotations

import datetime as dt
import json
import secrets
from concurrent.futures import ThreadPoolExecutor

import structlog

from eoforge.data.store import ObjectStore

log = structlog.get_logger("audit")


class Audit:
    """Writes the audit log below ``audit/``; what happens inside a run is in the run's journal, with who caused it.

    Args:
        store: The coordinator's store.
        pool: Where writing happens.
    """

    def __init__(self, store: ObjectStore, pool: ThreadPoolExecutor) -> None:
        self._store, self._pool = store, pool

    def note(self, actor: str, action: str, subject: str, outcome: str = "done") -> None:
        """Adds an entry; a store that is down costs the entry on the store, not the one in the log."""
        now = dt.datetime.now(dt.UTC)
        entry = {"at": now.isoformat(), "actor": actor, "action": action, "subject": subject, "outcome": outcome}
        log.info("audit", **entry)
        key = f"audit/{now:%Y-%m-%d}/{now:%H%M%S.%f}-{secrets.token_hex(4)}.json"
        self._pool.submit(self._write, key, json.dumps(entry).encode())

    def _write(self, key: str, data: bytes) -> None:
        try:
            self._store.put_if_absent(key, data)
        except Exception:
            log.exception("audit entry not stored", key=key)
