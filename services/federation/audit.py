"""Audit log: one immutable object per entry, each with the digest of the entry before it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import secrets
import time
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor

import structlog

from eoforge.errors import EoforgeError
from eoforge.storage.objects import ObjectStore

REPEAT_SECONDS = 3600.0
MAX_WAITING = 10_000
"""Limit of entries that wait for an unreachable store."""

log = structlog.get_logger("audit")


class Audit:
    """Audit log below ``audit/`` of actions outside runs; the journal of a run names the actors inside it.

    Each process of a coordinator has a folder with entries numbered from 1 without gaps. An entry names the SHA-256 of
    the entry before it, so that changes and removals are detectable. The first entry names the newest entry of the
    process before (``follows``), which protects the end of that folder and the whole of it. Only the log line with its
    SHA-256 protects the newest entry of all.

    Args:
        store: Store of the coordinator.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._folder = f"audit/{dt.datetime.now(dt.UTC):%Y-%m-%dT%H%M%S}-{secrets.token_hex(4)}"
        self._pool = ThreadPoolExecutor(1, "audit")  # one thread: entries have an order
        self._waiting: deque[dict[str, str]] = deque()
        self._number, self._previous = 0, ""
        self._recent: OrderedDict[tuple[str, str, str, str], float] = OrderedDict()
        self._follows: str | None = None

    def note(self, actor: str, action: str, subject: str, outcome: str = "done", *, seldom: bool = False) -> None:
        """Adds an entry, and logs it; while the store is down the entry waits.

        Args:
            actor: Who did it.
            action: What was done.
            subject: Run or silo that it was done to.
            outcome: ``done`` or ``denied``.
            seldom: Store it only if an equal entry is older than an hour: for actions that a caller can repeat without
                an effect, which must not fill the store. The log has each of them.
        """
        now = dt.datetime.now(dt.UTC).isoformat()
        entry = {"at": now, "actor": actor, "action": action, "subject": subject, "outcome": outcome}
        log.info("audit", **entry)
        if seldom and not self._is_new((actor, action, subject, outcome)):
            return
        if len(self._waiting) >= MAX_WAITING:
            log.error("audit entry only in this log: too many entries wait for the store", entries=MAX_WAITING)
            return
        self._waiting.append(entry)
        self._pool.submit(self._write)

    def _is_new(self, entry: tuple[str, str, str, str]) -> bool:
        now = time.monotonic()
        if now - self._recent.get(entry, -math.inf) < REPEAT_SECONDS:
            return False
        self._recent[entry] = now
        self._recent.move_to_end(entry)
        while len(self._recent) > MAX_WAITING:
            self._recent.popitem(last=False)
        return True

    def close(self) -> None:
        """Writes the waiting entries."""
        self._pool.shutdown(wait=True)

    def _write(self) -> None:
        try:
            if self._follows is None and self._waiting:
                self._follows, self._previous = self._newest_entry()
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

    def _newest_entry(self) -> tuple[str, str]:
        """Key and SHA-256 of the newest stored entry; empty strings for none."""
        keys = list(self._store.list("audit"))
        return (keys[-1], hashlib.sha256(self._store.get(keys[-1])).hexdigest()) if keys else ("", "")
