"""One run in the coordinator that acts for it: every change is an event, stored before anyone hears of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import structlog

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.data.memory import return_free_memory
from eoforge.errors import EoforgeError, LeaseLost, StoreError, UsageError
from eoforge.federated import privacy, rounds
from eoforge.federated.files import Offer, RunFiles
from eoforge.federated.journal import Journal
from eoforge.federated.result import plain, write_result
from eoforge.federated.spec import MIN_MASKED_SILOS
from eoforge.federated.state import ended
from eoforge.federated.strategy import SiloInfo, Strategy
from eoforge.methods.fl_rs.strategies import make_strategy
from services.federation.signals import Signal
from services.federation.tasks import Standing
from services.federation.telemetry import EPSILON, PHASE_SECONDS, ROUNDS, STRAGGLERS

RETRY_SECONDS = 2.0
"""Pause after the store could not be reached."""

log = structlog.get_logger("run")


class Surroundings(Protocol):
    """What an actor needs of the coordinator around it."""

    instance: str
    bundles_uri: str
    retain_rounds: int
    signal: Signal
    io: ThreadPoolExecutor
    compute: ThreadPoolExecutor

    def there(self, spec: pb.RunSpec) -> tuple[list[pb.Member], list[pb.Member]]:
        """All silos of a run, and those of them that are connected."""

    def lost(self, run_id: str) -> None:
        """Another coordinator acts for the run now."""


class RunActor:
    """Moves one run forward.

    Args:
        hub: The coordinator around it.
        journal: The run's journal; the lease must be held.
        store_files: The run's files.
    """

    def __init__(self, hub: Surroundings, journal: Journal, files: RunFiles) -> None:
        self._hub, self._journal, self.files = hub, journal, files
        self.strategy: Strategy = make_strategy(journal.run.spec.strategy, plain(journal.run.spec.strategy_options))
        self._lock = asyncio.Lock()
        self._work: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._offers: dict[str, Offer] = {}
        self._offers_of: tuple[int, str] = (0, "")
        self._cut: dict[object, str] = {}
        self._changed = time.monotonic()
        self._standing: Standing | None = None
        self._stopped = False

    @property
    def run(self) -> pb.Run:
        """The run's state."""
        return self._journal.run

    def standing(self) -> Standing:
        """Who did what in the open round."""
        if self._standing is None or self._standing.sequence != self.run.sequence:
            self._standing = Standing(self.run)
        return self._standing

    @property
    def idle(self) -> bool:
        """Whether nothing is being done for the run."""
        return self._work is None and not self._lock.locked()

    def seconds_since_event(self) -> float:
        """Time since the run last changed here."""
        return time.monotonic() - self._changed

    async def write(self, actor: str, allowed: Callable[[pb.Run], bool] = lambda _: True, **event: Any) -> bool:
        """Appends an event and lets the run move on.

        Args:
            actor: Who caused it.
            allowed: Checked with the run locked; nothing is written if it says no.
            **event: The one event.

        Returns:
            Whether it was written.

        Raises:
            LeaseLost: Another coordinator acts for the run.
        """
        async with self._lock:
            if not allowed(self.run):
                return False
            try:
                await self._append(actor, **event)
            except LeaseLost:
                self._lose()  # or this coordinator would go on refusing whatever the run's silos send
                raise
        self.poke()
        return True

    def poke(self) -> None:
        """Moves the run on as far as it goes, in the background."""
        if not self._stopped:
            task = asyncio.get_running_loop().create_task(self._advance())
            task.add_done_callback(_report)

    def stop(self) -> None:
        """Ends all activity; the run stays as it is for whoever takes it."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._work is not None:
            self._work.cancel()

    async def offer(self, silo: str) -> Offer:
        """What the silo downloads in the current state of the run."""
        now = (self.run.round.number, "".join(sorted(self.run.objects.values())))
        if now != self._offers_of:
            self._offers, self._offers_of, self._cut = {}, now, {}
        if silo not in self._offers:
            run = pb.Run()
            run.CopyFrom(self.run)
            # One at a time, so that what several silos want alike is cut once.
            async with self._lock:
                made = await self._in_thread(self.files.offer, run, self.strategy, self._info(silo), self._cut)
            if now != self._offers_of:
                return made
            self._offers[silo] = made
        return self._offers[silo]

    def scalars(self, silo: str) -> dict[str, float]:
        """Numbers that the strategy gives to a silo."""
        return dict(self.strategy.task_scalars(self._info(silo), rounds.infos(self.run.round)))

    def _info(self, silo: str) -> SiloInfo:
        found = [info for info in rounds.infos(self.run.round) if info.id == silo]
        if not found:
            raise UsageError(f"{silo} is no silo of the current round")
        return found[0]

    async def _advance(self) -> None:
        structlog.contextvars.clear_contextvars()  # this is no part of the call that caused it
        try:
            async with self._lock:
                while not self._stopped and await self._step():
                    pass
        except LeaseLost:
            self._lose()
        except StoreError as error:
            log.warning("store unreachable, will try again", run=self.run.run_id, error=str(error))
            self._poke_in(RETRY_SECONDS)
        except Exception:
            log.exception("a run failed", run=self.run.run_id)
            async with self._lock:
                if not ended(self.run):
                    await self._fail("the coordinator failed; its log says why")

    async def _step(self) -> bool:
        """One transition, if one is due; the lock is held."""
        run, phase = self.run, self.run.round.phase
        if ended(run) or self._work is not None:
            return False
        if phase == pb.PHASE_UNSPECIFIED:
            return await self._open_or_finish()
        if phase == pb.PHASE_OPEN:
            return await self._seal_if_due()
        if phase == pb.PHASE_SEALED:
            if run.spec.privacy.secure_aggregation and len(run.round.unmasked) < rounds.survivors_needed(run):
                return await self._wait_for_survivors()
            self._start(self._reduce())
            return False
        if phase == pb.PHASE_EVALUATION:
            return await self._close_if_due()
        return await self._agree_if_due()

    async def _open_or_finish(self) -> bool:
        run = self.run
        spec = run.spec
        spent = privacy.exhausted(run)
        reached = bool(run.history) and rounds.target_reached(spec, dict(run.history[-1].evaluation))
        if run.round.number >= spec.policy.rounds or reached or spent:
            self._start(self._finish())
            return False
        if run.status == pb.RUN_STATUS_PAUSED:
            return False
        members, there = self._hub.there(spec)
        number = run.round.number + 1
        if self.strategy.closed and number > 1:  # or whoever enrols now would end the run
            members = list(run.round.members)
            there = [m for m in there if m.silo in {known.silo for known in members}]
        choice = rounds.choose(spec, number, there)
        if choice is None:
            return False
        objects: dict[str, str] = {}
        if number == 1:
            silos = tuple(SiloInfo(m.silo, m.samples, m.modality) for m in members)
            objects = await self._in_thread(self.files.begin, run, self.strategy, silos)
        opened = pb.RoundOpened(
            number=number,
            selected=choice.silos,
            wanted=choice.wanted,
            members=members,
            objects=objects,
            phase=pb.PHASE_KEYS if spec.privacy.secure_aggregation else pb.PHASE_OPEN,
        )
        await self._append(self._hub.instance, round_opened=opened)
        return True

    async def _seal_if_due(self) -> bool:
        run = self.run
        seconds = self._seconds_open()
        decision = rounds.verdict(run, seconds)
        if decision == "seal":
            silos = sorted({a.silo for a in run.round.accepted})
            await self._append(self._hub.instance, sealed=pb.Sealed(silos=silos))
            return True
        if decision == "fail":
            await self._fail(
                f"round {run.round.number} ended with {len(run.round.accepted)} of {rounds.quorum(run.spec)} updates "
                f"({len(run.round.refused)} refused, {len(run.round.dropped)} gave up)"
            )
            return True
        self._wake_at_deadline(seconds)
        return False

    async def _agree_if_due(self) -> bool:
        """Secure aggregation: goes on when all have sent keys or shares, or the deadline passed and enough have."""
        run, round_ = self.run, self.run.round
        agreeing = round_.phase == pb.PHASE_KEYS
        done = sorted(round_.mask_keys) if agreeing else sorted(round_.shared)
        seconds = self._seconds_open()
        deadline = run.spec.policy.deadline.ToTimedelta().total_seconds()
        waiting = set(round_.selected) - set(done) - set(round_.dropped)
        if waiting and not (deadline and seconds >= deadline):
            self._wake_at_deadline(seconds)
            return False
        needed = max(rounds.quorum(run.spec), rounds.survivors_needed(run), MIN_MASKED_SILOS)
        if len(done) < needed:
            await self._fail(f"round {round_.number}: {len(done)} of {needed} silos agreed on masks")
            return True
        phase = pb.PHASE_SHARES if agreeing else pb.PHASE_OPEN
        await self._append(self._hub.instance, phase_changed=pb.PhaseChanged(phase=phase, silos=done))
        return True

    async def _wait_for_survivors(self) -> bool:
        """Masked sums mean nothing before enough survivors have answered; fails when too few are left to do so."""
        round_, needed = self.run.round, rounds.survivors_needed(self.run)
        left = (set(round_.sealed) - set(round_.dropped)) | set(round_.unmasked)
        if len(left) >= needed:
            return False
        await self._fail(f"round {round_.number}: {len(left)} of {needed} silos are left to remove the masks")
        return True

    async def _close_if_due(self) -> bool:
        run = self.run
        waiting = set(run.round.evaluators) - {e.silo for e in run.round.evaluations} - set(run.round.dropped)
        seconds = time.time() - self._reduced_at()
        deadline = run.spec.policy.deadline.ToTimedelta().total_seconds()
        if waiting and not (deadline and seconds >= deadline):
            if deadline:
                self._poke_in(deadline - seconds)
            return False
        await self._append(self._hub.instance, round_closed=pb.RoundClosed(summary=self._summary(seconds)))
        await self._in_thread(self._journal.snapshot)
        self._start(self._clean_up())
        return False

    async def _reduce(self) -> None:
        collected, started = self._seconds_open(), time.perf_counter()
        run = pb.Run()
        run.CopyFrom(self.run)
        combiner = await self._in_thread(privacy.combiner, run, self.files)
        objects = await self._in_thread(self.files.reduce, run, self.strategy, combiner)
        seconds = time.perf_counter() - started
        every = run.spec.policy.evaluate_every
        evaluators = list(run.round.selected) if every and run.round.number % every == 0 else []
        epsilon = privacy.epsilon(run.spec, len(run.history) + 1)
        reduced = pb.Reduced(
            objects=objects,
            evaluators=evaluators,
            collect_seconds=collected,
            reduce_seconds=seconds,
            epsilon=epsilon,
        )
        await self._in_thread(return_free_memory)
        async with self._lock:
            if not ended(self.run):
                await self._append(self._hub.instance, reduced=reduced)
        PHASE_SECONDS.labels("collect").observe(collected)
        PHASE_SECONDS.labels("reduce").observe(seconds)
        ROUNDS.inc()
        if epsilon:
            EPSILON.labels(run.run_id).set(epsilon)

    async def _finish(self) -> None:
        uri = await self._in_thread(write_result, self.files.objects, self.run, self._hub.bundles_uri)
        async with self._lock:
            if not ended(self.run):
                changed = pb.StatusChanged(status=pb.RUN_STATUS_FINISHED, bundle_uri=uri)
                await self._append(self._hub.instance, status_changed=changed)
        await self._in_thread(self._journal.snapshot)

    async def _clean_up(self) -> None:
        await self._in_thread(self.files.discard_rounds, self.run.round.number + 1 - self._hub.retain_rounds)

    async def _fail(self, reason: str) -> None:
        await self._append(
            self._hub.instance, status_changed=pb.StatusChanged(status=pb.RUN_STATUS_FAILED, reason=reason)
        )
        await self._in_thread(self._journal.snapshot)

    def _start(self, work: Any) -> None:
        """Runs ``work`` beside the lock, so that the run can be asked and cancelled meanwhile."""

        async def guarded() -> None:
            try:
                await work
            except LeaseLost:
                self._lose()
            except StoreError as error:
                log.warning("store unreachable, will try again", run=self.run.run_id, error=str(error))
                self._poke_in(RETRY_SECONDS)
                return
            except EoforgeError as error:
                async with self._lock:
                    if not ended(self.run):
                        await self._fail(str(error))
            except Exception:
                log.exception("a run failed", run=self.run.run_id)
                async with self._lock:
                    if not ended(self.run):
                        await self._fail("the coordinator failed; its log says why")
            finally:
                self._work = None
            self.poke()

        self._work = asyncio.get_running_loop().create_task(guarded())
        self._work.add_done_callback(_report)

    async def _append(self, actor: str, **event: Any) -> pb.RunEvent:
        written = await self._in_thread(self._journal.append, pb.RunEvent(**event), actor)
        log.info("event", run=self.run.run_id, sequence=written.sequence, kind=next(iter(event)), actor=actor)
        self._changed = time.monotonic()
        self._hub.signal.notify()
        return written

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._hub.io, function, *arguments)

    def _lose(self) -> None:
        self.stop()
        self._hub.lost(self.run.run_id)

    def _summary(self, evaluate_seconds: float) -> pb.RoundSummary:
        run, round_ = self.run, self.run.round
        counted = [a for a in round_.accepted if a.silo in round_.sealed]
        missing = sorted(set(round_.selected) - set(round_.sealed))
        STRAGGLERS.inc(len(missing))
        return pb.RoundSummary(
            number=round_.number,
            model=run.objects["model"],
            updates=len(counted),
            refused=len(round_.refused),
            stragglers=missing,
            training=rounds.averaged((a.samples, dict(a.metrics)) for a in counted),
            evaluation=rounds.averaged((e.samples, dict(e.metrics)) for e in round_.evaluations),
            bytes_up=sum(a.size for a in counted),
            seconds={**dict(round_.seconds), "evaluate": evaluate_seconds if round_.evaluators else 0.0},
            epsilon=run.epsilon,
            silos=round_.sealed,
            late={a.silo: a.round for a in counted if a.round != round_.number},
        )

    def _seconds_open(self) -> float:
        return time.time() - self.run.round.opened_at.ToNanoseconds() / 1e9

    def _reduced_at(self) -> float:
        opened = self.run.round.opened_at.ToNanoseconds() / 1e9
        return opened + self.run.round.seconds["collect"] + self.run.round.seconds["reduce"]

    def _wake_at_deadline(self, seconds_open: float) -> None:
        policy = self.run.spec.policy
        if policy.HasField("deadline"):
            left = policy.deadline.ToTimedelta().total_seconds() - seconds_open
            if left > 0:
                self._poke_in(left)

    def _poke_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(max(seconds, 0.01), self.poke)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a run's step failed", exc_info=task.exception())
