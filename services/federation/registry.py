"""The silos that a coordinator knows, and which of them are there."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from google.protobuf import json_format

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import LimitExceeded, NotFound
from eoforge.federated.run import rounds
from eoforge.storage.objects import ObjectStore
from services._runtime.errors import Overloaded
from services.federation.telemetry import CONNECTED

SILENT_HEARTBEATS = 4
"""A silo that missed this many heartbeats is not selected."""
MAX_STREAMS = 4
"""Streams of tasks of one silo: one, and some that it lost and that are not known to be dead yet."""
RETRY_SECONDS = 1.0
MAX_ACTIVITY = 200

log = structlog.get_logger("coordinator")


class Registry:
    """What silos said of themselves, on the store, and when they were heard, here.

    Args:
        store: The coordinator's store.
        heartbeat_seconds: How often a silo must be heard.
        limit: Largest number of registered silos.
        changed: Called when other silos are there than before.

    Attributes:
        known: Registered silos by id.
    """

    def __init__(self, store: ObjectStore, heartbeat_seconds: float, limit: int, changed: Callable[[], None]) -> None:
        self._store, self._silence, self._limit = store, SILENT_HEARTBEATS * heartbeat_seconds, limit
        self._changed = changed
        self.known: dict[str, pb.Silo] = {}
        self._streams: dict[str, int] = {}
        self._heard: dict[str, float] = {}

    def load(self) -> dict[str, pb.Silo]:
        """The silos that are registered on the store; blocks. What cannot be read comes again with its silo."""
        found: dict[str, pb.Silo] = {}
        for key in list(self._store.list("silos")):
            try:
                silo = json_format.Parse(self._store.get(key), pb.Silo())
            except (NotFound, json_format.ParseError) as error:
                log.warning("a silo's registration cannot be read", key=key, error=str(error))
                continue
            found[silo.silo_id] = silo
        return found

    def check_room(self, silo_id: str) -> None:
        """Refuses one silo too many.

        Raises:
            LimitExceeded: There are too many.
        """
        if silo_id not in self.known and len(self.known) >= self._limit:
            raise LimitExceeded(f"{self._limit} silos are registered; no more are taken")

    def store(self, silo: pb.Silo) -> None:
        """Writes what a silo says of itself; blocks."""
        silo.last_seen.GetCurrentTime()
        self._store.put(f"silos/{silo.silo_id}.json", json_format.MessageToJson(silo).encode())

    def remove(self, silo_id: str) -> None:
        """Forgets a silo on the store; blocks."""
        self._store.delete(f"silos/{silo_id}.json")

    def enter(self, silo: pb.Silo) -> None:
        """A silo is registered from now on."""
        self.known[silo.silo_id] = silo
        self.record_heartbeat(silo.silo_id)

    def leave(self, silo_id: str) -> None:
        """A silo is registered no more."""
        self.known.pop(silo_id, None)
        self._heard.pop(silo_id, None)
        self._changed()

    def record_heartbeat(self, silo_id: str, activity: str = "", progress: float = 0.0) -> None:
        """A silo showed that it lives."""
        silo = self.known.get(silo_id)
        if silo is not None:
            self._heard[silo_id] = time.monotonic()
            silo.last_seen.GetCurrentTime()
            silo.activity, silo.progress = activity[:MAX_ACTIVITY] if activity.isprintable() else "", progress

    def connect(self, silo_id: str, change: int) -> None:
        """A stream of tasks opened (+1) or closed (-1).

        Raises:
            Overloaded: The silo has too many.
        """
        count = self._streams.get(silo_id, 0) + change
        if count > MAX_STREAMS:
            raise Overloaded(f"{MAX_STREAMS} streams of tasks are open for {silo_id} already", RETRY_SECONDS)
        self._streams[silo_id] = count
        if not count:
            del self._streams[silo_id]
        CONNECTED.set(len(self._streams))
        self.record_heartbeat(silo_id)
        self._changed()

    def connected(self, silo_id: str) -> bool:
        """Whether a silo watches for tasks and was heard lately."""
        return silo_id in self._streams and time.monotonic() - self._heard.get(silo_id, -1e9) < self._silence

    def there(self, spec: pb.RunSpec) -> tuple[list[pb.Member], list[pb.Member]]:
        """All silos of a run, and those of them that are connected."""
        members = rounds.members(spec, self.known.values())
        return members, [m for m in members if self.connected(m.silo)]
