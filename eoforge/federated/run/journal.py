"""Journal of a run: one object per event, each created by conditional PUT, so that every position has one writer.

No other coordination exists. A coordinator takes a run by writing a lease event; the holder before it finds the next
position taken, and stops. Clocks decide only who may try: see :mod:`eoforge.federated.run.leader`.
"""

from __future__ import annotations

from collections.abc import Iterator

import structlog
from google.protobuf import json_format

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DamagedObject, LeaseLost, LimitExceeded, NotFound
from eoforge.federated.run.state import apply
from eoforge.federated.store.messages import from_json
from eoforge.storage.objects import ObjectStore

MAX_EVENT_BYTES = 16 << 20
"""Largest event that is written, so that every event can be read."""
MAX_SNAPSHOT_BYTES = 256 << 20
"""Largest snapshot that is read; a larger one is passed over, since the journal holds every event."""
_SNAPSHOTS_KEPT = 2

log = structlog.get_logger("journal")


def encoded(event: pb.RunEvent) -> bytes:
    """Bytes of an event as they are stored.

    Raises:
        LimitExceeded: The event is too large.
    """
    data = json_format.MessageToJson(event, indent=None).encode()
    if len(data) > MAX_EVENT_BYTES:
        raise LimitExceeded(f"an event of a run may have {MAX_EVENT_BYTES} bytes; got {len(data)}")
    return data


class Journal:
    """Journal of one run, and the state after its events.

    Args:
        store: Store of the coordinators.
        run_id: Id of the run.

    Attributes:
        run_id: Id of the run.
        run: State after the last event that was read or written.
    """

    def __init__(self, store: ObjectStore, run_id: str) -> None:
        self._store, self.run_id, self._root = store, run_id, f"runs/{run_id}"
        self.run = pb.Run()

    def load(self) -> pb.Run:
        """Reads the newest snapshot and every event after it.

        Raises:
            NotFound: The run does not exist.
            DamagedObject: An event cannot be read.
        """
        if not self.run.sequence:
            self.run = self._newest_snapshot()
        while (event := self._find(self.run.sequence + 1)) is not None:
            try:
                apply(self.run, event)
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedObject(f"{self._key(self.run.sequence + 1)} is not the next event: {error}") from error
        if not self.run.sequence:
            raise NotFound(f"there is no run {self.run_id!r}")
        return self.run

    def append(self, event: pb.RunEvent, actor: str) -> pb.RunEvent:
        """Writes the next event, which is stored when the call returns.

        Raises:
            LeaseLost: Another coordinator has written that position; nothing was changed.
            LimitExceeded: The event is too large; nothing was changed.
        """
        event.sequence, event.actor = self.run.sequence + 1, actor
        event.term = event.term or self.run.term
        event.at.GetCurrentTime()
        data = encoded(event)
        key = self._key(event.sequence)
        # An object store that repeats a PUT after a lost answer finds the event of the first attempt.
        if not self._store.put_if_absent(key, data) and self._store.get(key, MAX_EVENT_BYTES) != data:
            raise LeaseLost("another coordinator has taken this run")
        apply(self.run, event)
        return event

    def take(self, holder: str) -> pb.RunEvent:
        """Takes the run for ``holder``, after which the former holder cannot write.

        Raises:
            LeaseLost: Another coordinator was faster.
        """
        self.load()
        event = pb.RunEvent(term=self.run.term + 1, lease_taken=pb.LeaseTaken(holder=holder))
        return self.append(event, holder)

    def snapshot(self) -> None:
        """Stores the state, so that :meth:`load` need not read every event; equal states give equal bytes."""
        folder = f"{self._root}/snapshots"
        data = json_format.MessageToJson(self.run, indent=None, sort_keys=True).encode()
        self._store.put(f"{folder}/{self.run.sequence:012d}.json", data)
        for key in list(self._store.list(folder))[:-_SNAPSHOTS_KEPT]:
            self._store.delete(key)

    def events(self, after: int) -> Iterator[pb.RunEvent]:
        """Stored events with greater sequence numbers, in order."""
        while (event := self._find(after + 1)) is not None:
            yield event
            after += 1

    def _newest_snapshot(self) -> pb.Run:
        """Newest readable snapshot; an empty state if there is none, since the journal holds every event."""
        for key in reversed(list(self._store.list(f"{self._root}/snapshots"))):
            try:
                return from_json(self._store.get(key, MAX_SNAPSHOT_BYTES), pb.Run(), key)
            except (DamagedObject, LimitExceeded) as error:
                log.warning("a snapshot cannot be read; an older one, or the journal, is", key=key, error=str(error))
        return pb.Run()

    def _find(self, sequence: int) -> pb.RunEvent | None:
        try:
            data = self._store.get(self._key(sequence), MAX_EVENT_BYTES)
        except NotFound:
            return None
        except LimitExceeded as error:
            raise DamagedObject(f"{self._key(sequence)} is larger than an event can be") from error
        return from_json(data, pb.RunEvent(), self._key(sequence))

    def _key(self, sequence: int) -> str:
        return f"{self._root}/journal/{sequence:012d}.json"
