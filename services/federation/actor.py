"""Actor of one run: every change is an event, stored before any caller is told of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, cast

import structlog

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DamagedObject, EoforgeError, LeaseLost, StoreError
from eoforge.federated.result import plain
from eoforge.federated.run.journal import Journal
from eoforge.federated.run.rounds import steps
from eoforge.federated.run.rounds.opening import silo_info, silo_infos
from eoforge.federated.run.rounds.tasks import RoundView
from eoforge.federated.run.state import ended
from eoforge.federated.store.run_files import DownloadSet, RunFiles
from eoforge.federated.strategies.registry import make_strategy
from eoforge.federated.strategy import Strategy
from services.federation import telemetry
from services.federation.catalogue import Catalogue
from services.federation.download_sets import DownloadSets
from services.federation.registry import Registry
from services.federation.signals import Signal
from services.federation.work import Work

RETRY_SECONDS = 2.0
"""Pause before the next attempt while the store cannot be reached."""

log = structlog.get_logger("run")


class ActorContext(Protocol):
    """Parts of the coordinator that an actor uses."""

    instance: str
    bundles_uri: str
    retain_rounds: int
    signal: Signal
    io: ThreadPoolExecutor
    catalogue: Catalogue
    silos: Registry

    def lease_lost(self, run_id: str) -> None:
        """Removes the actor of a run that another coordinator has taken."""


class RunActor:
    """Single writer of one run: applies answers and advances the run.

    Args:
        context: The coordinator.
        journal: Journal of the run; the lease must be held.
        files: Files of the run.
    """

    def __init__(self, context: ActorContext, journal: Journal, files: RunFiles) -> None:
        self._context, self._journal, self.files = context, journal, files
        self.strategy: Strategy = make_strategy(journal.run.spec.strategy, plain(journal.run.spec.strategy_options))
        self._long = Work(files, self.strategy, context.bundles_uri, context.retain_rounds)
        self._lock = asyncio.Lock()
        self._work: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._download_sets, self._building = DownloadSets(files, self.strategy), asyncio.Lock()
        self._changed = time.monotonic()
        self._delivered: tuple[int, float] = (0, 0.0)
        self._round_view: RoundView | None = None
        self._cleaned = False
        self._stopped = False

    @property
    def run(self) -> pb.Run:
        """State of the run."""
        return self._journal.run

    def round_view(self) -> RoundView:
        """View of the current round, built once per event."""
        if self._round_view is None or self._round_view.sequence != self.run.sequence:
            self._round_view = RoundView(self.run)
        return self._round_view

    @property
    def idle(self) -> bool:
        """Whether no work is in progress for the run."""
        return self._work is None and not self._lock.locked()

    def seconds_since_event(self) -> float:
        """Time since the last event of the run in this process."""
        return time.monotonic() - self._changed

    def record_delivery(self, number: int) -> None:
        """Records the time at which a silo received its training task of a round."""
        self._delivered = (number, time.time())

    async def write(self, actor: str, allowed: Callable[[pb.Run], bool] = lambda _: True, **event: Any) -> bool:
        """Appends an event and schedules the next step of the run.

        Args:
            actor: Silo, operator or coordinator that caused the event.
            allowed: Condition on the locked run; the event is dropped if it is false.
            **event: The event, as one keyword of :class:`RunEvent`.

        Returns:
            Whether the event was written.

        Raises:
            LeaseLost: Another coordinator acts for the run.
        """
        async with self._lock:
            if self._stopped:
                raise LeaseLost(f"this coordinator no longer acts for run {self.run.run_id}; connect anew")
            if not allowed(self.run):
                return False
            try:
                await self._append(actor, **event)
            except LeaseLost:
                self._release()  # else this coordinator would refuse every further answer of the run's silos
                raise
        self.schedule_advance()
        return True

    def schedule_advance(self) -> None:
        """Schedules all steps that are due, in the background."""
        if not self._stopped:
            task = asyncio.get_running_loop().create_task(self._advance())
            task.add_done_callback(_report)

    async def fail(self, error: Exception) -> None:
        """Ends the run, whose files cannot be read, as failed."""
        await self._handle(error)

    def stop(self) -> None:
        """Ends all activity without a change of the run, which another coordinator may take."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._work is not None:
            self._work.cancel()

    async def download_set(self, silo: str) -> DownloadSet:
        """Files that the silo downloads in the current state of the run."""
        # A lock of its own: files that are equal for several silos are written once.
        async with self._building:
            return cast(DownloadSet, await self._in_thread(self._download_sets.of, self._copy(), silo))

    def scalars(self, silo: str) -> dict[str, float]:
        """Numbers of a silo's task that the strategy defines."""
        return dict(self.strategy.task_scalars(silo_info(self.run, silo), silo_infos(self.run.round.members)))

    async def _advance(self) -> None:
        structlog.contextvars.clear_contextvars()  # the step is no part of the call that caused it
        try:
            async with self._lock:
                while not self._stopped and self._work is None and await self._step():
                    pass
        except Exception as error:
            await self._handle(error)

    async def _step(self) -> bool:
        """Takes one step if one is due; the lock is held."""
        run = self.run
        step = steps.next_step(
            run, lambda: self._context.silos.eligible_silos(run.spec), self.strategy.closed, time.time()
        )
        if step.event is not None:
            opened = step.event.get("round_opened")
            if opened is not None and opened.number == 1:
                await self._in_thread(self._long.begin, self._copy(), opened)
            sealing, started = "sealed" in step.event, time.time()
            await self._append(self._context.instance, **step.event)
            if sealing:
                self._record_sealed(started)
            return True
        if step.failure is not None:
            await self._fail(step.failure)
            return True
        if step.work is not None:
            self._start({"reduce": self._reduce, "finish": self._finish, "close": self._close}[step.work]())
        elif ended(run) and not self._cleaned:
            self._cleaned = True
            self._start(self._clean_up())
        elif step.wake_in is not None:
            self._schedule_advance_in(step.wake_in)
        return False

    def _record_sealed(self, started: float) -> None:
        run = self.run
        opened = run.round.opened_at.ToNanoseconds() / 1e9
        number, delivered = self._delivered
        if number == run.round.number:
            telemetry.phase(run, "deliver", opened, delivered)
        telemetry.phase(run, "collect", opened, started)
        telemetry.phase(run, "seal", started, time.time())

    async def _reduce(self) -> None:
        started = time.time()
        reduced = await self._in_thread(self._long.reduce, self._copy(), steps.seconds_open(self.run, started))
        done = time.time()
        async with self._lock:
            if ended(self.run):
                return
            await self._append(self._context.instance, reduced=reduced)
        telemetry.phase(self.run, "reduce", started, done)
        telemetry.phase(self.run, "publish", done, time.time())
        telemetry.ROUNDS.inc()
        if reduced.epsilon:
            telemetry.EPSILON.labels(self.run.run_id).set(reduced.epsilon)

    async def _close(self) -> None:
        now, since = time.time(), steps.reduced_at(self.run)
        summary = steps.summary(self.run, now - since)
        async with self._lock:
            if ended(self.run):
                return
            if self.run.round.evaluators:
                telemetry.phase(self.run, "evaluate", since, now)
            await self._append(self._context.instance, round_closed=pb.RoundClosed(summary=summary))
            telemetry.STRAGGLERS.inc(len(summary.stragglers))
            await self._in_thread(self._journal.snapshot)
        await self._clean_up()

    async def _finish(self) -> None:
        changed = await self._in_thread(self._long.finish, self._copy())
        async with self._lock:
            if not ended(self.run):
                await self._append(self._context.instance, status_changed=changed)
                await self._in_thread(self._journal.snapshot)

    async def _clean_up(self) -> None:
        run = self._copy()
        await self._in_thread(self._long.clean_up, run)
        if ended(run):
            await self._in_thread(self._context.catalogue.close, run.run_id)

    async def _fail(self, reason: str) -> None:
        failed = pb.StatusChanged(status=pb.RUN_STATUS_FAILED, reason=reason)
        await self._append(self._context.instance, status_changed=failed)
        await self._in_thread(self._journal.snapshot)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts ``work`` without the lock, so that the run can be read and cancelled meanwhile."""

        async def guarded() -> None:
            advance = True
            try:
                await work
            except Exception as error:
                advance = await self._handle(error)
            finally:
                self._work = None
            if advance:
                self.schedule_advance()

        self._work = asyncio.get_running_loop().create_task(guarded())
        self._work.add_done_callback(_report)

    async def _handle(self, error: Exception) -> bool:
        """Handles an error of a step.

        Returns:
            Whether the run may advance at once.
        """
        if isinstance(error, LeaseLost):
            self._release()
            return False
        if isinstance(error, StoreError):
            log.warning("store unreachable, retry scheduled", run=self.run.run_id, error=str(error))
            self._cleaned = False
            self._schedule_advance_in(RETRY_SECONDS)
            return False
        reason = str(error)
        if not isinstance(error, EoforgeError) or isinstance(error, DamagedObject):
            log.error("a run failed", run=self.run.run_id, exc_info=error)
            reason = "the coordinator failed; see its log"
        try:
            async with self._lock:
                if not ended(self.run):
                    await self._fail(reason)
        except (LeaseLost, StoreError) as again:
            return await self._handle(again)
        return True

    async def _append(self, actor: str, **event: Any) -> pb.RunEvent:
        written: pb.RunEvent = await self._in_thread(self._journal.append, pb.RunEvent(**event), actor)
        log.info("event", run=self.run.run_id, sequence=written.sequence, kind=next(iter(event)), actor=actor)
        self._changed = time.monotonic()
        # An update of this round gives no silo another task: what follows from it is an event of its own. A late one
        # of an earlier round ends the task of its sender.
        accepted = event.get("accepted")
        self._context.signal.notify(tasks=accepted is None or accepted.round != self.run.round.number)
        return written

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._context.io, function, *arguments)

    def _copy(self) -> pb.Run:
        """Copy of the run's state for a thread, while events go on changing it here."""
        run = pb.Run()
        run.CopyFrom(self.run)
        return run

    def _release(self) -> None:
        self.stop()
        self._context.lease_lost(self.run.run_id)

    def _schedule_advance_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(max(seconds, 0.01), self.schedule_advance)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a step of a run failed", exc_info=task.exception())
