"""Registry of silos: registrations on the store, connections and heartbeats in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from google.protobuf import json_format

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DamagedObject, LimitExceeded, NotFound
from eoforge.federated.run.rounds import opening
from eoforge.federated.store.messages import from_json
from eoforge.storage.objects import ObjectStore
from services._runtime.errors import Overloaded
from services.federation.quarantine import Quarantine
from services.federation.telemetry import CONNECTED

SILENT_HEARTBEATS = 4
"""Number of missed heartbeats after which a silo is not selected."""
MAX_STREAMS = 4
"""Task streams of one silo: one in use, and lost ones that the server has not detected yet."""
RETRY_SECONDS = 1.0
MAX_ACTIVITY = 200
_OBSERVED: tuple[Literal["connected", "last_seen", "activity", "progress"], ...] = (
    "connected",
    "last_seen",
    "activity",
    "progress",
)
"""Fields of a silo that it did not register."""


class Registry:
    """Registered silos, and those of them that are connected.

    Args:
        store: Store of the coordinator.
        heartbeat_seconds: Interval of heartbeats.
        limit: Largest number of registered silos.
        changed: Called when the set of connected silos changes.

    Attributes:
        known: Registered silos by id.
    """

    def __init__(self, store: ObjectStore, heartbeat_seconds: float, limit: int, changed: Callable[[], None]) -> None:
        self._store, self._silence, self._limit = store, SILENT_HEARTBEATS * heartbeat_seconds, limit
        self._changed = changed
        self._quarantine = Quarantine(store)
        self.known: dict[str, pb.Silo] = {}
        self._streams: dict[str, int] = {}
        self._last_heartbeat: dict[str, float] = {}

    def load(self) -> dict[str, pb.Silo]:
        """Registrations on the store; damaged ones are set aside, and their silos register again; blocks."""
        found: dict[str, pb.Silo] = {}
        for key in list(self._store.list("silos")):
            try:
                silo = from_json(self._store.get(key), pb.Silo(), key)
                if key != _key(silo.silo_id):
                    raise DamagedObject(f"{key} is the registration of {silo.silo_id!r:.80}")
            except NotFound:
                continue
            except DamagedObject as error:
                self._quarantine.move(key, error)
                continue
            found[silo.silo_id] = silo
        return found

    def check_room(self, silo_id: str) -> None:
        """Refuses a new silo beyond the limit.

        Raises:
            LimitExceeded: The limit is reached.
        """
        if silo_id not in self.known and len(self.known) >= self._limit:
            raise LimitExceeded(f"the limit of {self._limit} registered silos is reached")

    def knows(self, silo: pb.Silo) -> bool:
        """Whether an equal registration of the silo is known already."""
        known = self.known.get(silo.silo_id)
        if known is None:
            return False
        stored = pb.Silo()
        stored.CopyFrom(known)
        for name in _OBSERVED:
            stored.ClearField(name)
        return stored == silo

    def save(self, silo: pb.Silo) -> None:
        """Writes a registration to the store; blocks."""
        silo.last_seen.GetCurrentTime()
        self._store.put(_key(silo.silo_id), json_format.MessageToJson(silo).encode())

    def delete(self, silo_id: str) -> None:
        """Deletes a registration from the store; blocks."""
        self._store.delete(_key(silo_id))

    def add(self, silo: pb.Silo) -> None:
        """Adds a silo to the known ones."""
        self.known[silo.silo_id] = silo
        self.record_heartbeat(silo.silo_id)

    def discard(self, silo_id: str) -> None:
        """Removes a silo from the known ones."""
        self.known.pop(silo_id, None)
        self._last_heartbeat.pop(silo_id, None)
        self._changed()

    def record_heartbeat(self, silo_id: str, activity: str = "", progress: float = 0.0) -> None:
        """Records a sign of life of a silo, and its activity."""
        silo = self.known.get(silo_id)
        if silo is not None:
            self._last_heartbeat[silo_id] = time.monotonic()
            silo.last_seen.GetCurrentTime()
            silo.activity = activity[:MAX_ACTIVITY] if activity.isprintable() else ""
            silo.progress = progress if 0 <= progress <= 1 else 0.0

    def count_stream(self, silo_id: str, change: int) -> None:
        """Counts a task stream that opened (+1) or closed (-1).

        Raises:
            Overloaded: The silo has too many streams.
        """
        count = self._streams.get(silo_id, 0) + change
        if count > MAX_STREAMS:
            raise Overloaded(f"{MAX_STREAMS} task streams of {silo_id} are open already", RETRY_SECONDS)
        self._streams[silo_id] = count
        if not count:
            del self._streams[silo_id]
        CONNECTED.set(len(self._streams))
        self.record_heartbeat(silo_id)
        self._changed()

    def connected(self, silo_id: str) -> bool:
        """Whether a silo has an open task stream and a recent heartbeat."""
        return silo_id in self._streams and time.monotonic() - self._last_heartbeat.get(silo_id, -1e9) < self._silence

    def eligible_silos(self, spec: pb.RunSpec) -> tuple[list[pb.Member], list[pb.Member]]:
        """Members of a run, and those of them that are connected."""
        members = opening.members(spec, self.known.values())
        return members, [m for m in members if self.connected(m.silo)]


def _key(silo_id: str) -> str:
    return f"silos/{silo_id}.json"
