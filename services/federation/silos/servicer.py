"""Servicer of ``SiloService``: registration, tasks, downloads, uploads and answers of silos."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.api.federation.v1 import federation_pb2_grpc
from eoforge.client.chunk_messages import with_chunk
from eoforge.errors import DataRefused, LeaseLost, LimitExceeded, NotFound, StoreError, UsageError, WrongState
from eoforge.federated.checks import check_names, check_scalars
from eoforge.federated.privacy import policy as privacy
from eoforge.federated.run.rounds.opening import sample_limit
from eoforge.federated.run.rounds.tasks import TaskKey, open_task
from eoforge.federated.run.rounds.updates import answer, closed_task_verdict
from eoforge.federated.run.state import ended
from services._runtime.errors import PermissionDenied, duration
from services.federation.actor import RunActor
from services.federation.coordinator import Coordinator
from services.federation.identity import Identities
from services.federation.silos import masking
from services.federation.silos.assignments import assignment
from services.federation.silos.end_of_run import EndOfRun
from services.federation.silos.updates import Updates
from services.federation.telemetry import BYTES, UPDATES
from services.federation.uploads import Uploads, chunks_of

MAX_LIST = 64
MAX_TEXT = 200

Context = grpc.aio.ServicerContext


class SiloServicer(federation_pb2_grpc.SiloServiceServicer):
    """Answers the calls of ``SiloService``; the runtime's interceptor turns errors into statuses.

    Args:
        coordinator: Runs and silos of this process.
        identities: Identities of callers.
        uploads: Receiver of chunks.
    """

    def __init__(self, coordinator: Coordinator, identities: Identities, uploads: Uploads) -> None:
        self._coordinator, self._identities, self._uploads = coordinator, identities, uploads
        self._updates = Updates(coordinator, uploads)

    async def Register(self, request: pb.RegisterRequest, context: Context[Any, Any]) -> pb.RegisterResponse:
        """See the proto."""
        silo_id = self._identities.silo(context)
        if max(len(request.modalities), len(request.methods), len(request.labels)) > MAX_LIST:
            raise LimitExceeded(f"a silo may name {MAX_LIST} modalities, methods and labels")
        words = (
            *request.modalities,
            *request.methods,
            *request.labels,
            *request.labels.values(),
            request.version,
            request.data_version,
        )
        if any(len(word) > MAX_TEXT for word in words):
            raise LimitExceeded(f"texts of a registration may have {MAX_TEXT} characters each")
        if not all(word.isprintable() for word in words):
            raise DataRefused("texts of a registration must be printable: operators read them")
        silo = pb.Silo(
            silo_id=silo_id,
            modalities=sorted(set(request.modalities)),
            samples=request.samples,
            methods=request.methods,
            labels=request.labels,
            version=request.version,
            data_version=request.data_version,
        )
        if request.HasField("validation_samples"):
            silo.validation_samples = request.validation_samples
        if await self._coordinator.register(silo):
            self._coordinator.audit.note(silo_id, "register", silo_id, seldom=True)
        return pb.RegisterResponse(silo_id=silo_id, heartbeat=duration(self._coordinator.settings.heartbeat_seconds))

    async def WatchTasks(
        self, request: pb.WatchTasksRequest, context: Context[Any, Any]
    ) -> AsyncIterator[pb.WatchTasksResponse]:
        """See the proto. Waits for changes without polling."""
        silo = self._identities.silo(context)
        self._coordinator.require_lead()
        if silo not in self._coordinator.silos.known:
            raise WrongState("register before watching for tasks")
        sent: dict[str, TaskKey] = {}
        end_of_run = EndOfRun(self._coordinator, request)
        self._coordinator.silos.count_stream(silo, +1)
        try:
            while not self._coordinator.draining:
                change = self._coordinator.signal.current_task()
                self._coordinator.require_lead()  # or the silo would wait where nothing happens any more
                more = False
                for actor in self._coordinator.all_actors():
                    run_id = actor.run.run_id
                    last, until_end = sent.get(run_id), run_id == request.until_end_of
                    key = actor.round_view().next_task(silo, last, until_end)
                    if key is None:
                        continue
                    sequence = actor.run.sequence
                    try:
                        task = await assignment(self._coordinator, actor, silo, key)
                    except (LeaseLost, StoreError):
                        raise
                    except Exception as error:
                        if actor.run.sequence == sequence:  # damaged files of one run: the silo's other runs go on
                            await actor.fail(error)
                        more = True  # else the run has moved on, and the task is outdated
                        continue
                    more = True  # a cancelled task may be followed by another one
                    # The run may have changed meanwhile: then the task is outdated.
                    if actor.round_view().next_task(silo, last, until_end) == key:
                        self._identities.silo(context)  # a certificate may have been revoked since
                        sent[run_id] = key
                        yield pb.WatchTasksResponse(task=task)
                        if key.kind == pb.TASK_KIND_TRAIN:
                            actor.record_delivery(key.round)
                if more:
                    continue
                end = await end_of_run.task()
                if end is not None:
                    key = TaskKey(end.kind, end.round)
                    if sent.get(end.run_id) != key:
                        sent[end.run_id] = key
                        yield pb.WatchTasksResponse(task=end)
                await end_of_run.wait(change)
        finally:
            self._coordinator.silos.count_stream(silo, -1)

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context[Any, Any]) -> pb.HeartbeatResponse:
        """See the proto."""
        self._coordinator.silos.record_heartbeat(self._identities.silo(context), request.activity, request.progress)
        return pb.HeartbeatResponse()

    async def Leave(self, request: pb.LeaveRequest, context: Context[Any, Any]) -> pb.LeaveResponse:
        """See the proto."""
        silo = self._identities.silo(context)
        if await self._coordinator.unregister(silo):
            self._coordinator.audit.note(silo, "leave", silo, seldom=True)
        for actor in self._coordinator.all_actors():
            dropped = pb.Dropped(silo=silo, reason=request.reason[:MAX_TEXT] or "left")
            try:
                await actor.write(silo, lambda run: open_task(run, silo) is not None, dropped=dropped)
            except LeaseLost:
                continue  # the other runs must learn of it too
        return pb.LeaveResponse()

    async def Download(self, request: pb.DownloadRequest, context: Context[Any, Any]) -> AsyncIterator[bytes]:
        """See the proto; answers are serialised already."""
        silo = self._identities.silo(context)
        actor = await self._actor(request.run_id, silo)
        download_set = await actor.download_set(silo)
        chunks = next((where for where, digest in download_set.values() if digest == request.digest), None)
        if chunks is None:
            raise NotFound(f"{request.digest!r:.80} is not what {silo} is to download in this round; see its task")
        manifest = await self._coordinator.in_thread(chunks.manifest, request.digest)
        for index in request.chunks:
            if index >= len(manifest.chunks):
                raise UsageError(f"chunk {index} of {len(manifest.chunks)}: count from 0")
            data = await self._coordinator.in_thread(chunks.chunk, manifest.chunks[index])
            BYTES.labels("down").inc(len(data))
            message = with_chunk(pb.DownloadResponse(), index, data)
            del data  # one copy while the message is sent
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
        store = actor.files.update(first.round, silo)
        digest = first.digest
        manifest = await self._coordinator.in_thread(store.manifest, digest)
        chunks = chunks_of(first, requests)
        del first
        squares = privacy.needs_norms(actor.run.spec)
        stored = await self._uploads.receive(store, manifest, digest, chunks, squares)
        self._coordinator.silos.record_heartbeat(silo, "uploading")
        return pb.PutUpdateResponse(stored=stored)

    async def Answer(self, request: pb.AnswerRequest, context: Context[Any, Any]) -> pb.AnswerResponse:
        """See the proto."""
        silo = self._identities.silo(context)
        actor = await self._actor(request.run_id, silo)
        self._coordinator.silos.record_heartbeat(silo)
        kind = request.WhichOneof("answer")
        if kind == "update":
            given = await self._updates.submit(actor, silo, request.round, request.update)
            UPDATES.labels(pb.Verdict.Name(given.verdict).removeprefix("VERDICT_").lower()).inc()
            return given
        if kind == "evaluation":
            return await self._evaluation(actor, silo, request.round, request.evaluation)
        if kind == "failure":
            return await self._failure(actor, silo, request.round, request.failure)
        if kind in masking.TASKS:
            return await self._masking(actor, silo, TaskKey(masking.TASKS[kind], request.round), kind, request)
        raise UsageError("an answer needs one of update, evaluation, keys, shares, unmask and failure")

    async def _evaluation(
        self, actor: RunActor, silo: str, number: int, given: pb.EvaluationAnswer
    ) -> pb.AnswerResponse:
        check_names(given.metrics)
        check_scalars(given.metrics)
        run = actor.run
        limit = sample_limit(run.spec.data, [m.samples for m in run.round.members])
        if given.samples > limit:  # its weight in the decision that ends the run
            raise DataRefused(f"an evaluation of this run may claim {limit} samples; got {given.samples}")
        evaluation = pb.Evaluation(silo=silo, samples=given.samples, metrics=given.metrics)
        task = TaskKey(pb.TASK_KIND_EVALUATE, number)
        await actor.write(silo, lambda run: open_task(run, silo) == task, evaluated=evaluation)
        same = all(stored == evaluation for stored in actor.run.round.evaluations if stored.silo == silo)
        return closed_task_verdict(actor.run, silo, task, same)

    async def _failure(self, actor: RunActor, silo: str, number: int, given: pb.FailureAnswer) -> pb.AnswerResponse:
        def is_open(run: pb.Run) -> bool:
            task = open_task(run, silo)
            return task is not None and task.round == number

        written = await actor.write(silo, is_open, dropped=pb.Dropped(silo=silo, reason=given.reason[:MAX_TEXT]))
        return answer(pb.VERDICT_ACCEPTED if written else pb.VERDICT_DROPPED)

    async def _masking(
        self, actor: RunActor, silo: str, task: TaskKey, kind: str, request: pb.AnswerRequest
    ) -> pb.AnswerResponse:
        """Answer of secure aggregation: stored first, then an event."""
        run = actor.run
        if open_task(run, silo) != task:
            same = await self._coordinator.in_thread(masking.is_stored, run.round, silo, kind, request, actor.files)
            return closed_task_verdict(run, silo, task, same)
        masking.check(run.round, silo, kind, request)
        event = masking.event(silo, kind, request)
        await self._coordinator.in_thread(masking.store, run.round, silo, kind, request, actor.files)
        await actor.write(silo, lambda run: open_task(run, silo) == task, **event)
        return answer(pb.VERDICT_ACCEPTED)

    async def _actor(self, run_id: str, silo: str) -> RunActor:
        run = await self._coordinator.read(run_id)
        if silo not in {m.silo for m in run.round.members}:
            raise PermissionDenied(f"{silo} is no silo of run {run_id}")
        if ended(run):
            raise WrongState(f"run {run_id} has ended: {pb.RunStatus.Name(run.status)}")
        return self._coordinator.actor(run)
