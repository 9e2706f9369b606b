"""The coordinator: its runs, the silos it knows, and its lease on both."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from google.protobuf import json_format

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.data.store import ObjectStore, join
from eoforge.errors import ConflictError, EoforgeError, LeaseLost, LimitExceeded, NotFound
from eoforge.federated import rounds
from eoforge.federated.files import RunFiles
from eoforge.federated.journal import Beacon, Journal
from eoforge.federated.spec import RUN_ID
from eoforge.federated.state import ended
from services.federation.actor import RunActor
from services.federation.audit import Audit
from services.federation.settings import FederationSettings
from services.federation.signals import Signal
from services.federation.telemetry import CONNECTED, LEASES_LOST, RUNS

COMPUTE_THREADS = 2
SILENT_HEARTBEATS = 4
"""A silo that missed this many heartbeats is not selected."""
_BEATS_PER_LEASE = 3
ENDED_SECONDS = 600.0
"""How long silos that come back are told that a run has ended."""

log = structlog.get_logger("coordinator")


class Hub:
    """Everything that outlives a call.

    Args:
        settings: All settings.
    """

    def __init__(self, settings: FederationSettings) -> None:
        self.settings, self.instance = settings, settings.instance or socket.gethostname()
        self.retain_rounds = settings.retain_rounds
        self.bundles_uri = settings.bundles_uri or join(settings.federation_uri, "bundles")
        self.store = ObjectStore(settings.federation_uri)
        self.signal = Signal()
        self.io = ThreadPoolExecutor(settings.workers, "io")
        self.compute = ThreadPoolExecutor(COMPUTE_THREADS, "compute")
        self.audit = Audit(self.store, self.io)
        self.actors: dict[str, RunActor] = {}
        self.silos: dict[str, pb.Silo] = {}
        self.draining = False
        self._connections: dict[str, int] = {}
        self._heard: dict[str, float] = {}
        self._beacon = Beacon(self.store, self.instance, settings.lease_seconds)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Loads silos, takes the runs that nobody else acts for, and goes on looking for such."""
        await self.in_thread(self._beacon.beat)
        for key in await self.in_thread(lambda: list(self.store.list("silos"))):
            silo = json_format.Parse(await self.in_thread(self.store.get, key), pb.Silo())
            self.silos[silo.silo_id] = silo
        await self._take_free()
        self._tasks.append(asyncio.create_task(self._keep_lease()))

    async def stop(self) -> None:
        """Lets go; another coordinator can take the runs at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for actor in list(self.actors.values()):
            actor.stop()
        self.io.shutdown(wait=True, cancel_futures=True)
        self.compute.shutdown(wait=True, cancel_futures=True)

    def drain(self) -> None:
        """Ends streams that have no end of their own."""
        self.draining = True
        self.signal.notify()

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs what blocks."""
        return await asyncio.get_running_loop().run_in_executor(self.io, function, *arguments)

    # Runs

    async def create(self, run_id: str, spec: pb.RunSpec, model: str, creator: str) -> pb.Run:
        """Creates a run and acts for it; repeating the same is harmless.

        Raises:
            ConflictError: Another run has that name.
            LimitExceeded: There are too many unfinished runs.
        """
        if run_id in self.actors:
            return _same(self.actors[run_id].run, spec, creator)
        if self._unfinished_here() >= self.settings.max_runs:
            raise LimitExceeded(f"{self.settings.max_runs} runs are unfinished; end some before creating more")
        journal = Journal(self.store, run_id)
        await self.in_thread(self.store.put, f"index/{time.time_ns():020d}.{run_id}", b"")
        created = pb.RunEvent(created=pb.Created(run_id=run_id, spec=spec, model=model))
        try:
            await self.in_thread(journal.append, created, creator)
        except LeaseLost:
            return _same(await self.in_thread(Journal(self.store, run_id).load), spec, creator)
        files = RunFiles(self.store, run_id, self.compute)
        await self.in_thread(files.secret)
        await self._act(journal)
        return journal.run

    async def read(self, run_id: str) -> pb.Run:
        """The state of any run.

        Raises:
            NotFound: There is none of that name.
        """
        if run_id in self.actors:
            return self.actors[run_id].run
        if not RUN_ID.fullmatch(run_id):
            raise NotFound(f"there is no run {run_id!r:.80}")
        return await self.in_thread(Journal(self.store, run_id).load)

    def actor(self, run: pb.Run) -> RunActor:
        """The actor of an unfinished run.

        Raises:
            LeaseLost: Another coordinator acts for it.
        """
        if run.run_id not in self.actors:
            raise LeaseLost(f"run {run.run_id} is in the hands of coordinator {run.holder}; ask that one")
        return self.actors[run.run_id]

    def run_ids(self) -> list[str]:
        """Names of all runs, newest first."""
        names = (key.split(".", 1)[1] for key in reversed(list(self.store.list("index"))))
        return list(dict.fromkeys(names))

    def lost(self, run_id: str) -> None:
        """Another coordinator acts for the run now."""
        if self.actors.pop(run_id, None) is not None:
            log.warning("lease lost", run=run_id)
            LEASES_LOST.inc()
            RUNS.set(self._unfinished_here())
            self.signal.notify()

    # Silos

    async def register(self, silo: pb.Silo) -> None:
        """Remembers what a silo says of itself.

        Raises:
            LimitExceeded: There are too many silos.
        """
        if silo.silo_id not in self.silos and len(self.silos) >= self.settings.max_silos:
            raise LimitExceeded(f"{self.settings.max_silos} silos are registered; no more are taken")
        silo.last_seen.GetCurrentTime()
        data = json_format.MessageToJson(silo).encode()
        await self.in_thread(self.store.put, f"silos/{silo.silo_id}.json", data)
        self.silos[silo.silo_id] = silo
        self.hear(silo.silo_id)

    async def forget(self, silo_id: str) -> None:
        """Removes a silo that left."""
        await self.in_thread(self.store.delete, f"silos/{silo_id}.json")
        self.silos.pop(silo_id, None)
        self._poke_all()

    def hear(self, silo_id: str, activity: str = "", progress: float = 0.0) -> None:
        """A silo showed that it lives."""
        self._heard[silo_id] = time.monotonic()
        if silo_id in self.silos:
            silo = self.silos[silo_id]
            silo.last_seen.GetCurrentTime()
            silo.activity, silo.progress = activity[:200], progress

    def connect(self, silo_id: str, change: int) -> None:
        """A stream of tasks opened (+1) or closed (-1)."""
        self._connections[silo_id] = self._connections.get(silo_id, 0) + change
        CONNECTED.set(sum(count > 0 for count in self._connections.values()))
        self.hear(silo_id)
        self._poke_all()

    def connected(self, silo_id: str) -> bool:
        """Whether a silo watches for tasks and was heard lately."""
        silence = time.monotonic() - self._heard.get(silo_id, -1e9)
        return self._connections.get(silo_id, 0) > 0 and silence < SILENT_HEARTBEATS * self.settings.heartbeat_seconds

    def there(self, spec: pb.RunSpec) -> tuple[list[pb.Member], list[pb.Member]]:
        """All silos of a run, and those of them that are connected."""
        members = rounds.members(spec, self.silos.values())
        return members, [m for m in members if self.connected(m.silo)]

    # Leases

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self.settings.lease_seconds / _BEATS_PER_LEASE)
            try:
                await self.in_thread(self._beacon.beat)
                await self._take_free()
                self._settle()
            except EoforgeError as error:
                log.warning("cannot renew the lease", error=str(error))
            except Exception:
                log.exception("cannot renew the lease")  # and goes on: without it every run would be lost

    async def _take_free(self) -> None:
        async for journal in self._unfinished():
            if await self.in_thread(self._beacon.is_gone, journal.run.holder):
                try:
                    await self._act(journal)
                except LeaseLost:
                    continue  # yet another coordinator was faster

    async def _unfinished(self) -> Any:
        over = {key.removeprefix("ended/") for key in await self.in_thread(lambda: list(self.store.list("ended")))}
        for run_id in await self.in_thread(self.run_ids):
            if run_id in self.actors or run_id in over:
                continue
            journal = Journal(self.store, run_id)
            try:
                await self.in_thread(journal.load)
            except NotFound:
                continue  # its creation was cut short
            except (EoforgeError, json_format.ParseError):
                log.exception("a run's journal cannot be read; the others go on", run=run_id)
                continue
            if ended(journal.run):
                await self.in_thread(self.store.put, f"ended/{run_id}", b"")
            else:
                yield journal

    async def _act(self, journal: Journal) -> None:
        await self.in_thread(journal.take, self.instance)
        run = journal.run
        actor = RunActor(self, journal, RunFiles(self.store, run.run_id, self.compute))
        self.actors[run.run_id] = actor
        RUNS.set(self._unfinished_here())
        log.info("acting for run", run=run.run_id, term=run.term, round=run.round.number)
        actor.poke()
        self.signal.notify()

    def _settle(self) -> None:
        """Lets go of runs that have ended, once their silos have had time to hear of it."""
        for run_id, actor in list(self.actors.items()):
            if ended(actor.run) and actor.idle and actor.seconds_since_event() > ENDED_SECONDS:
                actor.stop()
                del self.actors[run_id]
        RUNS.set(self._unfinished_here())

    def _unfinished_here(self) -> int:
        return sum(not ended(actor.run) for actor in self.actors.values())

    def _poke_all(self) -> None:
        for actor in self.actors.values():
            actor.poke()
        self.signal.notify()

    def acting(self) -> Iterator[RunActor]:
        """Actors of all runs that this coordinator acts for."""
        return iter(list(self.actors.values()))


def _same(run: pb.Run, spec: pb.RunSpec, creator: str) -> pb.Run:
    if run.spec != spec or run.creator != creator:
        raise ConflictError(f"another run is called {run.run_id}; choose another run_id")
    return run
