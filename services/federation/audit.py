"""Who did what: one object per entry, created and never touched again, each with the digest of the one before it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import secrets
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import structlog

from eoforge.errors import EoforgeError
from eoforge.storage.objects import ObjectStore

MAX_WAITING = 10_000
"""Entries that are kept for a store that does not answer."""

log = structlog.get_logger("audit")


class Audit:
    """Writes the audit log below ``audit/``; what happens inside a run is in the run's journal, with who caused it.

    Each life of a coordinator has a folder with entries numbered from 1 without gaps. An entry names the SHA-256 of the
    one before it, so that none can be changed or taken out unseen. The first one names the newest entry of the life
    before (``follows``), so that neither that life's end nor all of it can. The newest entry of all is vouched for by
    the log alone, which has the SHA-256 of each.

    Args:
        store: The coordinator's store.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._folder = f"audit/{dt.datetime.now(dt.UTC):%Y-%m-%dT%H%M%S}-{secrets.token_hex(4)}"
        self._pool = ThreadPoolExecutor(1, "audit")  # one: entries have an order
        self._waiting: deque[dict[str, str]] = deque()
        self._number, self._previous = 0, ""
        self._follows: str | None = None

    def note(self, actor: str, action: str, subject: str, outcome: str = "done") -> None:
        """Adds an entry; while the store is down it waits, and the log has it."""
        now = dt.datetime.now(dt.UTC).isoformat()
        entry = {"at": now, "actor": actor, "action": action, "subject": subject, "outcome": outcome}
        log.info("audit", **entry)
        if len(self._waiting) >= MAX_WAITING:
            log.error("an audit entry is in this log alone: too many wait for the store", entries=MAX_WAITING)
            return
        self._waiting.append(entry)
        self._pool.submit(self._write)

    def close(self) -> None:
        """Writes what is left."""
        self._pool.shutdown(wait=True)

    def _write(self) -> None:
        try:
            if self._follows is None and self._waiting:
                self._follows, self._previous = self._life_before()
            while self._waiting:
                entry = {"number": self._number + 1, **self._waiting[0], "previous": self._previous}
                if not self._number:
                    entry["follows"] = self._follows
                data, key = json.dumps(entry).encode(), f"{self._folder}/{self._number + 1:09d}.json"
                self._store.put_if_absent(key, data)
                self._number, self._previous = self._number + 1, hashlib.sha256(data).hexdigest()
                self._waiting.popleft()
                log.info("audit entry stored", key=key, sha256=self._previous)
        except EoforgeError as error:
            log.warning("audit entries wait for the store", entries=len(self._waiting), error=str(error))

    def _life_before(self) -> tuple[str, str]:
        """The newest entry that is there, and its SHA-256; empty if there is none."""
        keys = list(self._store.list("audit"))
        return (keys[-1], hashlib.sha256(self._store.get(keys[-1])).hexdigest()) if keys else ("", "")
