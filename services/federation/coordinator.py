"""The coordinator: its runs, the silos it knows, and whether it leads or stands by."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import ConflictError, EoforgeError, LeaseLost, LimitExceeded, NotFound
from eoforge.federated.run.journal import Journal
from eoforge.federated.run.leader import Leadership
from eoforge.federated.run.spec import RUN_ID
from eoforge.federated.run.state import ended
from eoforge.federated.store.chunk_store import ChunkStore
from eoforge.federated.store.run_files import RunFiles
from eoforge.storage.addresses import join
from eoforge.storage.objects import ObjectStore
from services.federation.actor import RunActor
from services.federation.audit import Audit
from services.federation.catalogue import Catalogue
from services.federation.registry import Registry
from services.federation.settings import FederationSettings
from services.federation.signals import Signal
from services.federation.telemetry import LEADS, LEASES_LOST, RUNS

COMPUTE_THREADS = 2
EXPIRE_EVERY_SECONDS = 3600.0
_BEATS_PER_LEASE = 3
ENDED_SECONDS = 600.0
"""How long silos that come back are told that a run has ended."""

log = structlog.get_logger("coordinator")


class Coordinator:
    """Everything that outlives a call.

    Args:
        settings: All settings.
    """

    def __init__(self, settings: FederationSettings) -> None:
        self.settings, self.instance = settings, settings.instance or socket.gethostname()
        self.retain_rounds = settings.retain_rounds
        self.bundles_uri = settings.bundles_uri or join(settings.federation_uri, "bundles")
        self.store = ObjectStore(settings.federation_uri, durable=settings.flush)
        self.models = ChunkStore(self.store, "uploads")
        self.signal = Signal()
        self.io = ThreadPoolExecutor(settings.workers, "io")
        self.compute = ThreadPoolExecutor(COMPUTE_THREADS, "compute")
        self.audit, self.catalogue = Audit(self.store), Catalogue(self.store)
        self.actors: dict[str, RunActor] = {}
        self.silos = Registry(self.store, settings.heartbeat_seconds, settings.max_silos, self._schedule_all)
        self.draining = False
        self.report: Callable[[bool], Awaitable[None]] = _to_nobody
        self._leadership = Leadership(self.store, self.instance, settings.lease_seconds)
        self._leading, self._expire_at = False, 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Takes the lead if nobody else has it, and with it all unfinished runs; goes on looking after it.

        Raises:
            StoreError: The store cannot be reached.
        """
        await self.in_thread(self._leadership.beat)
        await self._renew()
        self._tasks.append(asyncio.create_task(self._keep_lead()))

    async def stop(self) -> None:
        """Lets go; another coordinator can take the lead at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for actor in list(self.actors.values()):
            actor.stop()
        try:
            await self.in_thread(self._leadership.release)
        except EoforgeError as error:
            log.warning("cannot give the lead away; it runs out by itself", error=str(error))
        await asyncio.to_thread(self.audit.close)
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
        self.require_lead()
        if run_id in self.actors:
            return _same(self.actors[run_id].run, spec, creator)
        if self._unfinished_here() >= self.settings.max_runs:
            raise LimitExceeded(f"{self.settings.max_runs} runs are unfinished; end some before creating more")
        try:
            return _same(await self.in_thread(Journal(self.store, run_id).load), spec, creator)
        except NotFound:
            pass  # the name is free: the run is made below
        journal, files = Journal(self.store, run_id), RunFiles(self.store, run_id, self.compute)
        await self.in_thread(files.objects.adopt, self.models, spec.initial_model)
        await self.in_thread(self.catalogue.add, run_id)
        created = pb.RunEvent(created=pb.Created(run_id=run_id, spec=spec, model=model))
        try:
            await self.in_thread(journal.append, created, creator)
        except LeaseLost:
            return _same(await self.in_thread(Journal(self.store, run_id).load), spec, creator)
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
            raise LeaseLost(f"run {run.run_id} is in the hands of coordinator {run.holder}; connect anew")
        return self.actors[run.run_id]

    def require_lead(self) -> None:
        """For calls that only the coordinator that acts can answer.

        Raises:
            LeaseLost: This one stands by, or cannot tell any more that it leads.
        """
        if not self._leading:
            holder = self._leadership.holder
            raise LeaseLost(f"this coordinator stands by; {holder or 'no other one'} acts: connect anew")

    def lost(self, run_id: str) -> None:
        """Another coordinator acts for the run now."""
        if self.actors.pop(run_id, None) is not None:
            log.warning("lease lost", run=run_id)
            LEASES_LOST.inc()
            self._count()
            self.signal.notify()

    # Silos

    async def register(self, silo: pb.Silo) -> None:
        """Remembers what a silo says of itself.

        Raises:
            LeaseLost: Another coordinator acts.
            LimitExceeded: There are too many silos.
        """
        self.require_lead()
        self.silos.check_room(silo.silo_id)
        await self.in_thread(self.silos.store, silo)
        self.silos.enter(silo)

    async def forget(self, silo_id: str) -> None:
        """Removes a silo that left.

        Raises:
            LeaseLost: Another coordinator acts.
        """
        self.require_lead()
        await self.in_thread(self.silos.remove, silo_id)
        self.silos.leave(silo_id)

    def there(self, spec: pb.RunSpec) -> tuple[list[pb.Member], list[pb.Member]]:
        """All silos of a run, and those of them that are connected."""
        return self.silos.there(spec)

    # The lead

    async def _keep_lead(self) -> None:
        """Renews it well within its time, and steps down when that fails, even while the store does not answer."""
        period = self.settings.lease_seconds / _BEATS_PER_LEASE
        renewal: asyncio.Task[None] | None = None
        while True:
            await asyncio.sleep(period)
            renewal = renewal or asyncio.create_task(self._renew())
            done, _ = await asyncio.wait({renewal}, timeout=period)
            renewal = None if done else renewal
            if self._leading and not self._leadership.leads():
                await self._step_down()

    async def _renew(self) -> None:
        try:
            if not await self.in_thread(self._leadership.beat):
                return
            if not self._leading:
                await self._take_lead()
            await self._take_free()
            self._settle()
            await self._expire()
        except EoforgeError as error:
            log.warning("cannot renew the lead", error=str(error))
        except Exception:
            log.exception("cannot renew the lead")  # and goes on: without it every run would be lost

    async def _expire(self) -> None:
        if time.monotonic() >= self._expire_at:
            self._expire_at = time.monotonic() + min(self.settings.upload_seconds, EXPIRE_EVERY_SECONDS)
            await self.in_thread(self.models.expire, self.settings.upload_seconds)

    async def _take_lead(self) -> None:
        self.silos.known = await self.in_thread(self.silos.load)
        self._leading = True
        LEADS.set(1)
        await self.report(True)
        log.info("leading", instance=self.instance)

    async def _step_down(self) -> None:
        """Another coordinator acts, or may: nobody must wait here for what happens there."""
        log.warning("lead lost", holder=self._leadership.holder)
        self._leading = False
        LEADS.set(0)
        for run_id, actor in list(self.actors.items()):
            actor.stop()
            self.lost(run_id)
        self.signal.notify()
        await self.report(False)

    async def _take_free(self) -> None:
        for journal in await self.in_thread(self.catalogue.open, frozenset(self.actors)):
            try:
                await self._act(journal)
            except LeaseLost:
                continue  # another coordinator was faster

    async def _act(self, journal: Journal) -> None:
        await self.in_thread(journal.take, self.instance)
        run = journal.run
        actor = RunActor(self, journal, RunFiles(self.store, run.run_id, self.compute))
        self.actors[run.run_id] = actor
        self._count()
        log.info("acting for run", run=run.run_id, term=run.term, round=run.round.number)
        actor.schedule_advance()
        self.signal.notify()

    def _settle(self) -> None:
        """Lets go of runs that have ended, once their silos have had time to hear of it."""
        for run_id, actor in list(self.actors.items()):
            if ended(actor.run) and actor.idle and actor.seconds_since_event() > ENDED_SECONDS:
                actor.stop()
                del self.actors[run_id]
        self._count()

    def _count(self) -> None:
        RUNS.set(sum(actor.run.status == pb.RUN_STATUS_RUNNING for actor in self.actors.values()))

    def _unfinished_here(self) -> int:
        return sum(not ended(actor.run) for actor in self.actors.values())

    def _schedule_all(self) -> None:
        for actor in self.actors.values():
            actor.schedule_advance()
        self.signal.notify()

    def acting(self) -> Iterator[RunActor]:
        """Actors of all runs that this coordinator acts for."""
        return iter(list(self.actors.values()))


async def _to_nobody(answered: bool) -> None:
    """Before a server listens, nobody asks whether this coordinator acts."""


def _same(run: pb.Run, spec: pb.RunSpec, creator: str) -> pb.Run:
    if run.spec != spec or run.creator != creator:
        raise ConflictError(f"another run is called {run.run_id}; choose another run_id")
    return run
