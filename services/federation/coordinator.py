"""Coordinator: its runs, its silos, and its leadership."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import ConflictError, DamagedObject, EoforgeError, LeaseLost, LimitExceeded, NotFound, StoreError
from eoforge.federated.run.journal import Journal, encoded
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
_RENEWALS_PER_LEASE = 3
ENDED_SECONDS = 600.0
"""Time for which the actor of an ended run stays, so that silos that reconnect learn of the end."""

log = structlog.get_logger("coordinator")


class Coordinator:
    """State of the service that outlives a call.

    Args:
        settings: Settings of the service.
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
        self.report: Callable[[bool], Awaitable[None]] = _ignore_report
        self._leadership = Leadership(self.store, self.instance, settings.lease_seconds)
        self._leading, self._expire_at = False, 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Takes the lead if it is free, and with it all unfinished runs; keeps renewing it.

        Raises:
            StoreError: The store cannot be reached.
        """
        await self.in_thread(self._leadership.renew)
        await self._renew()
        self._tasks.append(asyncio.create_task(self._keep_lead()))

    async def stop(self) -> None:
        """Releases the lead, which another coordinator can take at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for actor in list(self.actors.values()):
            actor.stop()
        try:
            await self.in_thread(self._leadership.release)
        except EoforgeError as error:
            log.warning("cannot release the lead; it expires", error=str(error))
        await asyncio.to_thread(self.audit.close)
        self.io.shutdown(wait=True, cancel_futures=True)
        self.compute.shutdown(wait=True, cancel_futures=True)

    def drain(self) -> None:
        """Ends the streams of tasks and events."""
        self.draining = True
        self.signal.notify()

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Result of a blocking function, run on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.io, function, *arguments)

    # Runs

    async def create(self, run_id: str, spec: pb.RunSpec, model: str, creator: str) -> pb.Run:
        """Creates a run and its actor; a repeated call returns the same run.

        Raises:
            LeaseLost: Another coordinator leads.
            ConflictError: Another run has that name.
            LimitExceeded: Too many runs are unfinished, or the spec is too large.
        """
        self.require_lead()
        if run_id in self.actors:
            return _require_same(self.actors[run_id].run, spec, creator)
        if self._unfinished() >= self.settings.max_runs:
            raise LimitExceeded(f"{self.settings.max_runs} runs are unfinished; end some before creating more")
        try:
            return _require_same(await self.in_thread(Journal(self.store, run_id).load), spec, creator)
        except NotFound:
            pass  # the name is free: the run is created below
        except DamagedObject as error:
            raise ConflictError(f"a damaged run is called {run_id}; choose another run_id") from error
        journal, files = Journal(self.store, run_id), RunFiles(self.store, run_id, self.compute)
        created = pb.RunEvent(created=pb.Created(run_id=run_id, spec=spec, model=model))
        encoded(created)  # an event that cannot be stored must leave nothing behind
        await self.in_thread(files.chunks.copy_from, self.models, spec.initial_model)
        await self.in_thread(self.catalogue.add, run_id)
        try:
            await self.in_thread(journal.append, created, creator)
        except LeaseLost:
            return _require_same(await self.in_thread(Journal(self.store, run_id).load), spec, creator)
        await self.in_thread(files.secret)
        await self._start_actor(journal)
        return journal.run

    async def read(self, run_id: str) -> pb.Run:
        """State of any run.

        Raises:
            NotFound: No run has that name.
        """
        if run_id in self.actors:
            return self.actors[run_id].run
        if not RUN_ID.fullmatch(run_id):
            raise NotFound(f"there is no run {run_id!r:.80}")
        return await self.in_thread(Journal(self.store, run_id).load)

    def actor(self, run: pb.Run) -> RunActor:
        """Actor of an unfinished run.

        Raises:
            LeaseLost: Another coordinator acts for the run.
        """
        if run.run_id not in self.actors:
            raise LeaseLost(f"coordinator {run.holder} acts for run {run.run_id}; connect anew")
        return self.actors[run.run_id]

    def require_lead(self) -> None:
        """Refuses a call that only the leading coordinator can answer.

        Raises:
            LeaseLost: This coordinator stands by, or its lead has expired.
        """
        if not self._leading:
            holder = self._leadership.holder
            raise LeaseLost(f"this coordinator stands by; {holder or 'no other one'} acts: connect anew")

    def lease_lost(self, run_id: str) -> None:
        """Removes the actor of a run that another coordinator has taken."""
        if self.actors.pop(run_id, None) is not None:
            log.warning("lease lost", run=run_id)
            LEASES_LOST.inc()
            self._update_gauge()
            self.signal.notify()

    # Silos

    async def register(self, silo: pb.Silo) -> bool:
        """Registers a silo; whether that changes what was known of it.

        Raises:
            LeaseLost: Another coordinator leads.
            LimitExceeded: Too many silos are registered.
        """
        self.require_lead()
        self.silos.check_room(silo.silo_id)
        if self.silos.knows(silo):
            self.silos.record_heartbeat(silo.silo_id)
            return False
        await self.in_thread(self.silos.save, silo)
        self.silos.add(silo)
        return True

    async def unregister(self, silo_id: str) -> bool:
        """Removes a silo that left; whether it was registered.

        Raises:
            LeaseLost: Another coordinator leads.
        """
        self.require_lead()
        if silo_id not in self.silos.known:
            return False
        await self.in_thread(self.silos.delete, silo_id)
        self.silos.discard(silo_id)
        return True

    # The lead

    async def _keep_lead(self) -> None:
        """Renews the lead several times per lease, and steps down when it expires, even while the store hangs."""
        period = self.settings.lease_seconds / _RENEWALS_PER_LEASE
        renewal: asyncio.Task[None] | None = None
        while True:
            await asyncio.sleep(period)
            renewal = renewal or asyncio.create_task(self._renew())
            done, _ = await asyncio.wait({renewal}, timeout=period)
            renewal = None if done else renewal
            if self._leading and not self._leadership.is_valid():
                await self._step_down()

    async def _renew(self) -> None:
        try:
            if not await self.in_thread(self._leadership.renew):
                return
            if not self._leading:
                await self._take_lead()
            await self._take_runs()
            self._release_ended()
            await self._expire_uploads()
        except EoforgeError as error:
            log.warning("cannot renew the lead", error=str(error))
        except Exception:
            log.exception("cannot renew the lead")  # the loop must go on, or every run would be lost

    async def _expire_uploads(self) -> None:
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
        """Stops all actors: another coordinator acts, or may act, for their runs."""
        log.warning("lead lost", holder=self._leadership.holder)
        self._leading = False
        LEADS.set(0)
        for run_id, actor in list(self.actors.items()):
            actor.stop()
            self.lease_lost(run_id)
        self.signal.notify()
        await self.report(False)

    async def _take_runs(self) -> None:
        for journal in await self.in_thread(self.catalogue.open, frozenset(self.actors)):
            try:
                await self._start_actor(journal)
            except LeaseLost:
                continue  # another coordinator was faster
            except StoreError:
                raise
            except Exception as error:  # what the journal says cannot be acted on, such as an unknown strategy
                await self.in_thread(self.catalogue.quarantine.add_run, journal.run_id, error)

    async def _start_actor(self, journal: Journal) -> None:
        await self.in_thread(journal.take, self.instance)
        run = journal.run
        actor = RunActor(self, journal, RunFiles(self.store, run.run_id, self.compute))
        self.actors[run.run_id] = actor
        self._update_gauge()
        log.info("acting for run", run=run.run_id, term=run.term, round=run.round.number)
        actor.schedule_advance()
        self.signal.notify()

    def _release_ended(self) -> None:
        """Stops the actors of runs that ended :data:`ENDED_SECONDS` ago."""
        for run_id, actor in list(self.actors.items()):
            if ended(actor.run) and actor.idle and actor.seconds_since_event() > ENDED_SECONDS:
                actor.stop()
                del self.actors[run_id]
        self._update_gauge()

    def _update_gauge(self) -> None:
        RUNS.set(sum(actor.run.status == pb.RUN_STATUS_RUNNING for actor in self.actors.values()))

    def _unfinished(self) -> int:
        return sum(not ended(actor.run) for actor in self.actors.values())

    def _schedule_all(self) -> None:
        for actor in self.actors.values():
            actor.schedule_advance()

    def all_actors(self) -> list[RunActor]:
        """Actors of all runs, as a copy: the set may change while a caller waits."""
        return list(self.actors.values())


async def _ignore_report(leads: bool) -> None:
    """Report of the lead before a server listens: nothing."""


def _require_same(run: pb.Run, spec: pb.RunSpec, creator: str) -> pb.Run:
    if run.spec != spec or run.creator != creator:
        raise ConflictError(f"another run is called {run.run_id}; choose another run_id")
    return run
