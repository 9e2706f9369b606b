"""The silos' API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.api.federation.v1 import federation_pb2_grpc
from eoforge.client.chunk_messages import with_chunk
from eoforge.errors import DataRefused, LimitExceeded, NotFound, UsageError, WrongState
from eoforge.federated.checks import check_names
from eoforge.federated.privacy import policy as privacy
from eoforge.federated.run.rounds import most_samples
from eoforge.federated.run.state import ended
from services._runtime.errors import PermissionDenied, duration
from services.federation.actor import RunActor
from services.federation.coordinator import Coordinator
from services.federation.identity import Identities
from services.federation.silos import masking
from services.federation.silos.assignments import assignment
from services.federation.silos.updates import Updates, dropped, verdict
from services.federation.tasks import Due, due
from services.federation.telemetry import BYTES, UPDATES
from services.federation.uploads import Uploads, pieces

MAX_LIST = 64
MAX_TEXT = 200
APPEARS_SECONDS = 600.0
"""How long a silo waits for a run that does not exist yet, unless it says otherwise."""

Context = grpc.aio.ServicerContext


class SiloServicer(federation_pb2_grpc.SiloServiceServicer):
    """Answers the calls of ``SiloService``; raised errors become statuses in the runtime's interceptor.

    Args:
        coordinator: The coordinator.
        identities: Says which silo calls.
        uploads: Receives chunks.
    """

    def __init__(self, coordinator: Coordinator, identities: Identities, uploads: Uploads) -> None:
        self._coordinator, self._identities, self._uploads = coordinator, identities, uploads
        self._updates = Updates(coordinator, uploads)

    async def Register(self, request: pb.RegisterRequest, context: Context[Any, Any]) -> pb.RegisterResponse:
        """See the proto."""
        silo_id = self._identities.silo(context)
        if max(len(request.modalities), len(request.methods), len(request.labels)) > MAX_LIST:
            raise LimitExceeded(f"a silo may name {MAX_LIST} modalities, methods and labels")
        words = (*request.modalities, *request.methods, *request.labels, *request.labels.values(), request.version)
        if any(len(word) > MAX_TEXT for word in words):
            raise LimitExceeded(f"what a silo says of itself may have {MAX_TEXT} characters each")
        if not all(word.isprintable() for word in words):
            raise DataRefused("what a silo says of itself must be printable: operators read it")
        silo = pb.Silo(
            silo_id=silo_id,
            modalities=sorted(set(request.modalities)),
            samples=request.samples,
            methods=request.methods,
            labels=request.labels,
            version=request.version,
        )
        await self._coordinator.register(silo)
        self._coordinator.audit.note(silo_id, "register", silo_id)
        return pb.RegisterResponse(silo_id=silo_id, heartbeat=duration(self._coordinator.settings.heartbeat_seconds))

    async def WatchTasks(
        self, request: pb.WatchTasksRequest, context: Context[Any, Any]
    ) -> AsyncIterator[pb.WatchTasksResponse]:
        """See the proto. Sleeps until something changes; nothing here polls."""
        silo = self._identities.silo(context)
        self._coordinator.require_lead()
        if silo not in self._coordinator.silos.known:
            raise WrongState("register before watching for tasks")
        told: dict[str, Due] = {}
        waits_for = _Awaited(self._coordinator, request)
        self._coordinator.silos.connect(silo, +1)
        try:
            while not self._coordinator.draining:
                wake = self._coordinator.signal.current()
                self._coordinator.require_lead()  # the silo must come to the coordinator that acts now
                more = False
                for actor in self._coordinator.acting():
                    run_id = actor.run.run_id
                    last, asks = told.get(run_id), run_id == request.until_end_of
                    now = actor.round_view().next_for(silo, last, asks)
                    if now is None:
                        continue
                    task = await assignment(self._coordinator, actor, silo, now)
                    more = True  # after what was withdrawn there may be something else to do
                    # The run may have moved on meanwhile: then the task says what is no longer true.
                    if actor.round_view().next_for(silo, last, asks) == now:
                        self._identities.silo(context)  # a certificate may have been revoked since
                        told[run_id] = now
                        yield pb.WatchTasksResponse(task=task)
                        if now.kind == pb.TASK_KIND_TRAIN:
                            actor.record_delivery(now.round)
                if more:
                    continue
                end = await waits_for.ended()
                if end is not None:
                    now = Due(end.kind, end.round)
                    if told.get(end.run_id) != now:
                        told[end.run_id] = now
                        yield pb.WatchTasksResponse(task=end)
                await waits_for.next(wake)
        finally:
            self._coordinator.silos.connect(silo, -1)

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context[Any, Any]) -> pb.HeartbeatResponse:
        """See the proto."""
        self._coordinator.silos.record_heartbeat(self._identities.silo(context), request.activity, request.progress)
        return pb.HeartbeatResponse()

    async def Leave(self, request: pb.LeaveRequest, context: Context[Any, Any]) -> pb.LeaveResponse:
        """See the proto."""
        silo = self._identities.silo(context)
        await self._coordinator.forget(silo)
        self._coordinator.audit.note(silo, "leave", silo)
        for actor in self._coordinator.acting():
            gone = pb.Dropped(silo=silo, reason=request.reason[:MAX_TEXT] or "left")
            await actor.write(silo, lambda run: due(run, silo) is not None, dropped=gone)
        return pb.LeaveResponse()

    async def Download(self, request: pb.DownloadRequest, context: Context[Any, Any]) -> AsyncIterator[bytes]:
        """See the proto; answers are serialised already."""
        silo = self._identities.silo(context)
        actor = await self._actor(request.run_id, silo)
        offer = await actor.offer(silo)
        objects = next((where for where, digest in offer.values() if digest == request.digest), None)
        if objects is None:
            raise NotFound(f"{request.digest!r:.80} is not what {silo} is to download in this round; see its task")
        manifest = await self._coordinator.in_thread(objects.manifest, request.digest)
        for index in request.chunks:
            if index >= len(manifest.chunks):
                raise UsageError(f"chunk {index} of {len(manifest.chunks)}: count from 0")
            data = await self._coordinator.in_thread(objects.chunk, manifest.chunks[index])
            BYTES.labels("down").inc(len(data))
            message = with_chunk(pb.DownloadResponse(), index, data)
            del data  # while it is sent there is one copy
            yield message

    async def PrepareUpdate(
        self, request: pb.PrepareUpdateRequest, context: Context[Any, Any]
    ) -> pb.PrepareUpdateResponse:
        """See the proto."""
        silo = self._identities.silo(context)
        actor = await self._actor(request.run_id, silo)
        missing = await self._updates.announce(actor, silo, request.round, request.manifest)
        return pb.PrepareUpdateResponse(missing=missing)

    async def PutUpdate(
        self, requests: AsyncIterator[pb.PutUpdateRequest], context: Context[Any, Any]
    ) -> pb.PutUpdateResponse:
        """See the proto."""
        silo = self._identities.silo(context)
        first = await anext(requests, None)
        if first is None:
            raise UsageError("expected chunks; the stream is empty")
        actor = await self._actor(first.run_id, silo)
        self._updates.check_wanted(actor.run, first.round, silo)
        objects = actor.files.update(first.round, silo)
        digest = first.digest
        manifest = await self._coordinator.in_thread(objects.manifest, digest)
        chunks = pieces(first, requests)
        del first
        squares = privacy.needs_norms(actor.run.spec)
        stored = await self._uploads.receive(objects, manifest, digest, chunks, squares)
        self._coordinator.silos.record_heartbeat(silo, "uploading")
        return pb.PutUpdateResponse(stored=stored)

    async def Answer(self, request: pb.AnswerRequest, context: Context[Any, Any]) -> pb.AnswerResponse:
        """See the proto."""
        silo = self._identities.silo(context)
        actor = await self._actor(request.run_id, silo)
        self._coordinator.silos.record_heartbeat(silo)
        kind = request.WhichOneof("answer")
        if kind == "update":
            answer = await self._updates.hand_in(actor, silo, request.round, request.update)
            UPDATES.labels(pb.Verdict.Name(answer.verdict).removeprefix("VERDICT_").lower()).inc()
            return answer
        if kind == "evaluation":
            return await self._evaluation(actor, silo, request.round, request.evaluation)
        if kind == "failure":
            gave_up = pb.Dropped(silo=silo, reason=request.failure.reason[:MAX_TEXT])
            written = await actor.write(silo, lambda run: _open_task(run, silo, request.round), dropped=gave_up)
            return verdict(pb.VERDICT_ACCEPTED if written else pb.VERDICT_DROPPED)
        if kind in ("keys", "shares", "unmask"):
            return await self._masking(actor, silo, request.round, kind, request)
        raise UsageError("an answer needs one of update, evaluation, keys, shares, unmask and failure")

    async def _evaluation(
        self, actor: RunActor, silo: str, number: int, answer: pb.EvaluationAnswer
    ) -> pb.AnswerResponse:
        check_names(answer.metrics)
        run = actor.run
        most = most_samples(run.spec.data, [m.samples for m in run.round.members])
        if answer.samples > most:  # its weight in what may end the run
            raise DataRefused(f"an evaluation of this run may claim {most} samples; got {answer.samples}")
        evaluation = pb.Evaluation(silo=silo, samples=answer.samples, metrics=answer.metrics)
        wanted = Due(pb.TASK_KIND_EVALUATE, number)
        if await actor.write(silo, lambda run: due(run, silo) == wanted, evaluated=evaluation):
            return verdict(pb.VERDICT_ACCEPTED)
        if actor.run.round.number == number and silo in {e.silo for e in actor.run.round.evaluations}:
            return verdict(pb.VERDICT_ACCEPTED)
        return dropped("the round went on without it")

    async def _masking(
        self, actor: RunActor, silo: str, number: int, kind: str, request: pb.AnswerRequest
    ) -> pb.AnswerResponse:
        """Takes a silo's part in secure aggregation: stored first, then an event; given once."""
        run = actor.run
        wanted = Due(masking.TASKS[kind], number)
        if due(run, silo) != wanted:
            there = run.round.number == number and silo in masking.answered(run.round, kind)
            return verdict(pb.VERDICT_ACCEPTED) if there else dropped("the round went on without it")
        masking.check(run.round, silo, kind, request)
        event = masking.event(silo, kind, request)
        await self._coordinator.in_thread(masking.store, run.round, silo, kind, request, actor.files)
        await actor.write(silo, lambda run: due(run, silo) == wanted, **event)
        return verdict(pb.VERDICT_ACCEPTED)

    async def _actor(self, run_id: str, silo: str) -> RunActor:
        run = await self._coordinator.read(run_id)
        if silo not in {m.silo for m in run.round.members}:
            raise PermissionDenied(f"{silo} is no silo of run {run_id}")
        if ended(run):
            raise WrongState(f"run {run_id} has ended: {pb.RunStatus.Name(run.status)}")
        return self._coordinator.actor(run)


class _Awaited:
    """The run whose end a silo waits for: it may have ended long ago, or not exist yet.

    Args:
        coordinator: The coordinator.
        request: Names it.
    """

    def __init__(self, coordinator: Coordinator, request: pb.WatchTasksRequest) -> None:
        self._coordinator, self._run_id = coordinator, request.until_end_of
        seconds = request.appears_within.ToTimedelta().total_seconds() if request.HasField("appears_within") else 0.0
        self._within = seconds or APPEARS_SECONDS
        self._until = asyncio.get_running_loop().time() + self._within
        self._appeared = not self._run_id

    async def ended(self) -> pb.Task | None:
        """The task that says so, if it has ended and nobody acts for it any more."""
        if not self._run_id or self._run_id in self._coordinator.actors:
            self._appeared = True
            return None
        try:
            run = await self._coordinator.read(self._run_id)
        except NotFound:
            return None
        self._appeared = True
        if not ended(run):
            return None
        return pb.Task(kind=pb.TASK_KIND_END, run_id=run.run_id, round=run.round.number, status=run.status)

    async def next(self, wake: asyncio.Event) -> None:
        """Waits for a change.

        Raises:
            NotFound: The run has not appeared in time.
        """
        left = None if self._appeared else self._until - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(left):
                await wake.wait()
        except TimeoutError as error:
            raise NotFound(
                f"there is no run {self._run_id!r:.80}, and none was created in {self._within:g} s; check the name"
            ) from error


def _open_task(run: pb.Run, silo: str, number: int) -> bool:
    now = due(run, silo)
    return now is not None and now.round == number
