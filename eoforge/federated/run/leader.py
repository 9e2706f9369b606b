"""Which of several coordinators acts: one leads, the others stand by, and a store is all that they share.

The lead is a sequence of terms, each an object that one coordinator created by conditional PUT; whoever holds the
newest one leads. Signs of life say who may try to take the next term: see :class:`Beacon`. Clocks decide nothing but
that. A coordinator that goes on although it has lost the lead cannot write: every run's journal has one writer per
position.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from eoforge.errors import NotFound
from eoforge.storage.objects import ObjectStore

_TERMS = "leader"
_TERMS_KEPT = 8
NOBODY = ""


class Beacon:
    """Signs of life of the coordinator that leads.

    It counts up an object under its name. Another one takes the lead when the count has not changed for
    ``lease_seconds`` of the watcher's own clock; clocks of machines are never compared.

    Args:
        store: The coordinator's store.
        name: This coordinator.
        lease_seconds: Silence after which a coordinator counts as gone.
        clock: Seconds from a monotonic clock.
    """

    def __init__(
        self, store: ObjectStore, name: str, lease_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._name, self._lease_seconds, self._clock = store, name, lease_seconds, clock
        self._count = 0
        self._seen: dict[str, tuple[bytes, float]] = {}

    def beat(self) -> None:
        """Shows that this coordinator lives."""
        self._count += 1
        self._store.put(f"coordinators/{self._name}", f"{time.time_ns()} {self._count}".encode())

    def is_gone(self, holder: str) -> bool:
        """Whether ``holder`` has been silent for long, as seen from here."""
        try:
            sign = self._store.get(f"coordinators/{holder}")
        except NotFound:
            sign = b""
        before = self._seen.get(holder)
        if before is None or before[0] != sign:
            self._seen[holder] = (sign, self._clock())
            return False
        return self._clock() - before[1] >= self._lease_seconds


class Leadership:
    """This coordinator's part in it; :meth:`beat` must be called several times within ``lease_seconds``.

    Args:
        store: The coordinator's store.
        name: This coordinator; a restart under the same name takes the lead back at once.
        lease_seconds: Silence after which a coordinator counts as gone.
        clock: Seconds from a monotonic clock.

    Attributes:
        holder: Who led when it was looked at last.
    """

    def __init__(
        self, store: ObjectStore, name: str, lease_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._name, self._lease_seconds, self._clock = store, name, lease_seconds, clock
        self._beacon = Beacon(store, name, lease_seconds, clock)
        self._life = secrets.token_hex(8)
        self._first = True
        self._until = float("-inf")
        self.holder = NOBODY

    def beat(self) -> bool:
        """Keeps or takes the lead if it may, and shows that the leader lives; whether it leads.

        Raises:
            StoreError: The store cannot be reached; what was known of the lead holds until it runs out.
        """
        now = self._clock()  # before the store is asked: others count from what it shows them
        term, self.holder, life = self._newest()
        if life != self._life:
            self._until = float("-inf")
            before = self.holder == self._name and self._first
            if before or self.holder == NOBODY or self._beacon.is_gone(self.holder):
                life = self._take(term + 1)
        self._first = False
        if life == self._life:
            # Who stands by shows nothing: were it a namesake of the leader, it would keep a dead one alive for ever.
            self._beacon.beat()
            self.holder, self._until = self._name, now + self._lease_seconds
        return self.leads()

    def leads(self) -> bool:
        """Whether this coordinator may act now: it holds the newest term and has shown so within the lease."""
        return self._clock() < self._until

    def release(self) -> None:
        """Gives the lead away: whoever looks next takes it without waiting for silence."""
        term, _, life = self._newest()
        self._until = float("-inf")
        if life == self._life:
            self._store.put_if_absent(self._key(term + 1), b"")

    def _take(self, term: int) -> str:
        """Tries to take a term; the life of whoever has it then."""
        self._store.put_if_absent(self._key(term), f"{self._name} {self._life}".encode())
        for key in self._keys()[:-_TERMS_KEPT]:
            self._store.delete(key)
        _, self.holder, life = self._newest()
        return life

    def _newest(self) -> tuple[int, str, str]:
        """The newest term: its number, its holder, and that one's life."""
        keys = self._keys()
        if not keys:
            return 0, NOBODY, ""
        holder, _, life = self._store.get(keys[-1]).decode().partition(" ")
        return int(keys[-1].rsplit("/", 1)[-1]), holder, life

    def _keys(self) -> list[str]:
        return list(self._store.list(_TERMS))

    def _key(self, term: int) -> str:
        return f"{_TERMS}/{term:012d}"
