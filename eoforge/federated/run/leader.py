"""Leader election among coordinators that share a store: one leads, the others stand by.

The lead is a sequence of terms, each an object that one coordinator created by conditional PUT; the holder of the
newest term leads. Heartbeats decide who may try to take the next term. Clocks decide nothing else: a coordinator that
continues although it has lost the lead cannot write, because every position of a run's journal has one writer.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable

import structlog

from eoforge.errors import NotFound
from eoforge.storage.objects import ObjectStore

_TERMS = "leader"
_TERMS_KEPT = 8
NO_HOLDER = ""
_TERM = re.compile(rf"{_TERMS}/[0-9]{{12}}")
_NAME = re.compile(r"[\x21-\x7e]{1,255}")

log = structlog.get_logger("coordinator")


class Heartbeat:
    """Heartbeat of the leading coordinator: a counter in an object under its name.

    Another coordinator may take the lead when the counter has not changed for ``lease_seconds`` of the observer's own
    clock; clocks of machines are never compared.

    Args:
        store: Store of the coordinators.
        name: Name of this coordinator.
        lease_seconds: Silence after which a holder has expired.
        clock: Seconds from a monotonic clock.
    """

    def __init__(
        self, store: ObjectStore, name: str, lease_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._name, self._lease_seconds, self._clock = store, name, lease_seconds, clock
        self._count = 0
        self._seen: dict[str, tuple[bytes, float]] = {}

    def send(self) -> None:
        """Counts the object of this coordinator up."""
        self._count += 1
        self._store.put(f"coordinators/{self._name}", f"{time.time_ns()} {self._count}".encode())

    def has_expired(self, holder: str) -> bool:
        """Whether the counter of ``holder`` has not changed for ``lease_seconds``, as observed here."""
        try:
            value = self._store.get(f"coordinators/{holder}")
        except NotFound:
            value = b""
        before = self._seen.get(holder)
        if before is None or before[0] != value:
            self._seen[holder] = (value, self._clock())
            return False
        return self._clock() - before[1] >= self._lease_seconds


class Leadership:
    """Leadership of this coordinator; :meth:`renew` must be called several times within ``lease_seconds``.

    Args:
        store: Store of the coordinators.
        name: Name of this coordinator; a restart under the same name takes the lead back at once.
        lease_seconds: Silence after which a holder has expired.
        clock: Seconds from a monotonic clock.

    Attributes:
        holder: Coordinator that led at the last look at the store.
    """

    def __init__(
        self, store: ObjectStore, name: str, lease_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._name, self._lease_seconds, self._clock = store, name, lease_seconds, clock
        self._heartbeat = Heartbeat(store, name, lease_seconds, clock)
        self._process_id = secrets.token_hex(8)
        self._first = True
        self._until = float("-inf")
        self.holder = NO_HOLDER

    def renew(self) -> bool:
        """Renews the lead, or takes a free one; whether this coordinator leads.

        Raises:
            StoreError: The store cannot be reached; a lead that was held stays valid until it expires.
        """
        now = self._clock()  # before the store is read: observers count from what it showed them
        term, self.holder, process_id = self._newest()
        if process_id != self._process_id:
            self._until = float("-inf")
            restarted = self.holder == self._name and self._first
            if restarted or self.holder == NO_HOLDER or self._heartbeat.has_expired(self.holder):
                process_id = self._take(term + 1)
        self._first = False
        if process_id == self._process_id:
            # Only the leader sends heartbeats: those of a standby with the same name would hide the leader's death.
            self._heartbeat.send()
            self.holder, self._until = self._name, now + self._lease_seconds
        return self.is_valid()

    def is_valid(self) -> bool:
        """Whether this coordinator may act now: it holds the newest term and has renewed it within the lease."""
        return self._clock() < self._until

    def release(self) -> None:
        """Gives the lead up: the next coordinator takes it without waiting for the lease to expire."""
        term, _, process_id = self._newest()
        self._until = float("-inf")
        if process_id == self._process_id:
            self._store.put_if_absent(self._key(term + 1), b"")

    def _take(self, term: int) -> str:
        """Tries to take a term; returns the process id of its holder."""
        self._store.put_if_absent(self._key(term), f"{self._name} {self._process_id}".encode())
        for key in self._keys()[:-_TERMS_KEPT]:
            self._store.delete(key)
        _, self.holder, process_id = self._newest()
        return process_id

    def _newest(self) -> tuple[int, str, str]:
        """Newest term: its number, its holder, and the holder's process id."""
        keys = self._keys()
        if not keys:
            return 0, NO_HOLDER, ""
        text = self._store.get(keys[-1]).decode(errors="replace")
        holder, _, process_id = text.partition(" ")
        if text and not (_NAME.fullmatch(holder) and process_id):
            log.error("the newest term is damaged; it counts as given up", key=keys[-1])
            holder, process_id = NO_HOLDER, ""
        return int(keys[-1].rsplit("/", 1)[-1]), holder, process_id

    def _keys(self) -> list[str]:
        return [key for key in self._store.list(_TERMS) if _TERM.fullmatch(key)]

    def _key(self, term: int) -> str:
        return f"{_TERMS}/{term:012d}"
