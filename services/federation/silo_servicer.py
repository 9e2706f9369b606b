"""The silos' API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.api.federation.v1 import federation_pb2_grpc
from eoforge.errors import DataRefused, LimitExceeded, NotFound, UsageError, WrongState
from eoforge.federated import privacy
from eoforge.federated.checks import check_facts, check_names, check_numbers, check_tensors
from eoforge.federated.files import full_specs
from eoforge.federated.objects import Objects, check_manifest, digest_of
from eoforge.federated.state import ended
from eoforge.federated.strategy import SiloInfo, Specs
from eoforge.federated.tensorfile import CHUNK_BYTES, Layout
from eoforge.nn.seeds import derive_seed
from services._runtime.errors import PermissionDenied, duration
from services.federation import masking
from services.federation.actor import RunActor
from services.federation.hub import Hub
from services.federation.identity import Identities
from services.federation.tasks import TOLD, Due, due
from services.federation.telemetry import BYTES, UPDATES
from services.federation.uploads import Uploads

MAX_LIST = 64
MAX_TEXT = 200
MAX_REASON = 500
MAX_ANNOUNCED = 8
"""Different updates that a silo may announce in one round: what it can make the store hold."""

Context = grpc.aio.ServicerContext


class SiloServicer(federation_pb2_grpc.SiloServiceServicer):
    """Answers the calls of ``SiloService``; raised errors become statuses in the runtime's interceptor.

    Args:
        hub: The coordinator.
        identities: Says which silo calls.
        uploads: Receives chunks.
    """

    def __init__(self, hub: Hub, identities: Identities, uploads: Uploads) -> None:
        self._hub, self._identities, self._uploads = hub, identities, uploads

    async def Register(self, request: pb.RegisterRequest, context: Context[Any, Any]) -> pb.RegisterResponse:
        """See the proto."""
        silo_id = self._identities.silo(context)
        if max(len(request.modalities), len(request.methods), len(request.labels)) > MAX_LIST:
            raise LimitExceeded(f"a silo may name {MAX_LIST} modalities, methods and labels")
        words = (*request.modalities, *request.methods, *request.labels, *request.labels.values(), request.version)
        if any(len(word) > MAX_TEXT for word in words):
            raise LimitExceeded(f"what a silo says of itself may have {MAX_TEXT} characters each")
        silo = pb.Silo(
            silo_id=silo_id,
            modalities=sorted(set(request.modalities)),
            samples=request.samples,
            methods=request.methods,
            labels=request.labels,
            version=request.version,
        )
        await self._hub.register(silo)
        self._hub.audit.note(silo_id, "register", silo_id)
        return pb.RegisterResponse(silo_id=silo_id, heartbeat=duration(self._hub.settings.heartbeat_seconds))

    async def WatchTasks(
        self, request: pb.WatchTasksRequest, context: Context[Any, Any]
    ) -> AsyncIterator[pb.WatchTasksResponse]:
        """See the proto. Sleeps until something changes; nothing here polls."""
        silo = self._identities.silo(context)
        if silo not in self._hub.silos:
            raise WrongState("register before watching for tasks")
        told: dict[str, Due] = {}
        self._hub.connect(silo, +1)
        try:
            while not self._hub.draining:
                wake = self._hub.signal.current()
                for actor in self._hub.acting():
                    standing, run = actor.standing(), actor.run
                    now = standing.due(silo) or standing.follow_up(silo, told.get(run.run_id))
                    if now is None or told.get(run.run_id) == now:
                        continue
                    task = await self._task(actor, silo, now)
                    # The run may have moved on meanwhile: then the task says what is no longer true.
                    if actor.standing().due(silo) == (None if now.kind in TOLD else now):
                        self._identities.silo(context)  # a certificate may have been revoked since
                        told[run.run_id] = now
                        yield pb.WatchTasksResponse(task=task)
                await wake.wait()
        finally:
            self._hub.connect(silo, -1)

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context[Any, Any]) -> pb.HeartbeatResponse:
        """See the proto."""
        self._hub.hear(self._identities.silo(context), request.activity, request.progress)
        return pb.HeartbeatResponse()

    async def Leave(self, request: pb.LeaveRequest, context: Context[Any, Any]) -> pb.LeaveResponse:
        """See the proto."""
        silo = self._identities.silo(context)
        self._hub.audit.note(silo, "leave", silo)
        await self._hub.forget(silo)
        for actor in self._hub.acting():
            dropped = pb.Dropped(silo=silo, reason=request.reason[:MAX_TEXT] or "left")
            await actor.write(silo, lambda run: due(run, silo) is not None, dropped=dropped)
        return pb.LeaveResponse()

    async def Download(
        self, request: pb.DownloadRequest, context: Context[Any, Any]
    ) -> AsyncIterator[pb.DownloadResponse]:
        """See the proto."""
        silo = self._identities.silo(context)
        actor = await self._actor(request.run_id, silo)
        offer = await actor.offer(silo)
        objects = next((where for where, digest in offer.values() if digest == request.digest), None)
        if objects is None:
            raise NotFound(f"{request.digest!r:.80} is not what {silo} is to download in this round; see its task")
        manifest = await self._hub.in_thread(objects.manifest, request.digest)
        for index in request.chunks:
            if index >= len(manifest.chunks):
                raise UsageError(f"chunk {index} of {len(manifest.chunks)}: count from 0")
            data = await self._hub.in_thread(objects.chunk, manifest.chunks[index])
            BYTES.labels("down").inc(len(data))
            yield pb.DownloadResponse(chunk=pb.Chunk(index=index, data=data))

    async def PrepareUpdate(
        self, request: pb.PrepareUpdateRequest, context: Context[Any, Any]
    ) -> pb.PrepareUpdateResponse:
        """See the proto. The size is known before anything is stored: it is that of the tensors asked for."""
        silo = self._identities.silo(context)
        actor = await self._actor(request.run_id, silo)
        self._wanted(actor.run, request.round, silo)
        expected = await self._expected(actor, silo)
        most = Layout.of(expected).length + CHUNK_BYTES
        check_manifest(request.manifest, min(most, self._hub.settings.max_model_bytes))
        objects = actor.files.update(request.round, silo)
        known = await self._hub.in_thread(objects.announced)
        if len(known) >= MAX_ANNOUNCED and digest_of(request.manifest) not in known:
            raise LimitExceeded(f"a silo may announce {MAX_ANNOUNCED} updates in a round; hand one of them in")
        await self._hub.in_thread(objects.put_manifest, request.manifest)
        return pb.PrepareUpdateResponse(missing=await self._hub.in_thread(objects.missing, request.manifest))

    async def PutUpdate(
        self, requests: AsyncIterator[pb.PutUpdateRequest], context: Context[Any, Any]
    ) -> pb.PutUpdateResponse:
        """See the proto."""
        silo = self._identities.silo(context)
        first = await anext(aiter(requests), None)
        if first is None:
            raise UsageError("expected chunks; the stream is empty")
        actor = await self._actor(first.run_id, silo)
        self._wanted(actor.run, first.round, silo)
        objects = actor.files.update(first.round, silo)
        manifest = await self._hub.in_thread(objects.manifest, first.digest)

        async def chunks() -> AsyncIterator[pb.Chunk]:
            if first.HasField("chunk"):
                yield first.chunk
            async for request in requests:
                yield request.chunk

        squares = privacy.needs_norms(actor.run.spec)
        stored = await self._uploads.receive(objects, manifest, first.digest, chunks(), squares)
        self._hub.hear(silo, "uploading")
        return pb.PutUpdateResponse(stored=stored)

    async def Answer(self, request: pb.AnswerRequest, context: Context[Any, Any]) -> pb.AnswerResponse:
        """See the proto."""
        silo = self._identities.silo(context)
        actor = await self._actor(request.run_id, silo)
        self._hub.hear(silo)
        kind = request.WhichOneof("answer")
        if kind == "update":
            answer = await self._update(actor, silo, request.round, request.update)
            UPDATES.labels(pb.Verdict.Name(answer.verdict).removeprefix("VERDICT_").lower()).inc()
            return answer
        if kind == "evaluation":
            return await self._evaluation(actor, silo, request.round, request.evaluation)
        if kind == "failure":
            dropped = pb.Dropped(silo=silo, reason=request.failure.reason[:MAX_TEXT])
            written = await actor.write(silo, lambda run: _open_task(run, silo, request.round), dropped=dropped)
            return _verdict(pb.VERDICT_ACCEPTED if written else pb.VERDICT_DROPPED)
        if kind in ("keys", "shares", "unmask"):
            return await self._masking(actor, silo, request.round, kind, request)
        raise UsageError("an answer needs one of update, evaluation, keys, shares, unmask and failure")

    async def _update(self, actor: RunActor, silo: str, number: int, answer: pb.UpdateAnswer) -> pb.AnswerResponse:
        run = actor.run
        before = _counted(run, silo, number)
        if before is not None:
            same = before in (answer.digest, "")
            return _verdict(pb.VERDICT_ACCEPTED) if same else _dropped("this round has another update of yours already")
        late = _lateness(run, silo, number, self._hub.retain_rounds)
        if late is not None:
            return late
        for refused in run.round.refused:
            if (refused.silo, refused.round, refused.digest) == (silo, number, answer.digest):
                return _verdict(pb.VERDICT_REFUSED, refused.reason)
        objects = actor.files.update(number, silo)
        try:
            accepted = await self._judge(actor, objects, silo, number, answer)
        except (DataRefused, LimitExceeded) as error:
            reason = str(error)[:MAX_REASON]
            refused = pb.Refused(silo=silo, round=number, digest=answer.digest, reason=reason)
            if not await actor.write(silo, lambda run: _may_count(run, silo), refused=refused):
                return _dropped("the round went on without it")
            return _verdict(pb.VERDICT_REFUSED, reason)
        finally:
            self._uploads.forget(objects, answer.digest)

        def still(run: pb.Run) -> bool:
            return _may_count(run, silo) and _lateness(run, silo, number, self._hub.retain_rounds) is None

        if not await actor.write(silo, still, accepted=accepted):
            if _counted(actor.run, silo, number) == answer.digest:  # the same answer, sent twice at the same time
                return _verdict(pb.VERDICT_ACCEPTED)
            return _dropped("the round went on without it")
        return _verdict(pb.VERDICT_ACCEPTED if number == actor.run.round.number else pb.VERDICT_FOLDED)

    async def _judge(
        self, actor: RunActor, objects: Objects, silo: str, number: int, answer: pb.UpdateAnswer
    ) -> pb.Accepted:
        spec = actor.run.spec
        try:
            manifest = await self._hub.in_thread(objects.manifest, answer.digest)
        except NotFound as error:
            raise NotFound("this update was never announced; call PrepareUpdate first") from error
        missing = await self._hub.in_thread(objects.missing, manifest)
        if missing:
            raise WrongState(f"{len(missing)} of {len(manifest.chunks)} chunks are missing; send them, then answer")
        check_names(answer.metrics)
        expected = await self._expected(actor, silo)
        start = await self._hub.in_thread(objects.chunk, manifest.chunks[0]) if manifest.chunks else b""
        check_tensors(Layout.parse(start, manifest.length).specs, expected)
        registered = next((m.samples for m in actor.run.round.members if m.silo == silo), 0)
        check_numbers(answer.samples, registered, dict(answer.scalars))
        squares = privacy.needs_norms(spec)
        facts = await self._hub.in_thread(self._uploads.facts, objects, manifest, answer.digest, squares)
        norm = check_facts(facts, spec.data.max_update_norm)
        return pb.Accepted(
            silo=silo,
            round=number,
            digest=answer.digest,
            samples=answer.samples,
            steps=answer.steps,
            size=manifest.length,
            scalars=answer.scalars,
            metrics=answer.metrics,
            norm=norm,
        )

    async def _evaluation(
        self, actor: RunActor, silo: str, number: int, answer: pb.EvaluationAnswer
    ) -> pb.AnswerResponse:
        check_names(answer.metrics)
        evaluation = pb.Evaluation(silo=silo, samples=answer.samples, metrics=answer.metrics)
        wanted = Due(pb.TASK_KIND_EVALUATE, number)
        if await actor.write(silo, lambda run: due(run, silo) == wanted, evaluated=evaluation):
            return _verdict(pb.VERDICT_ACCEPTED)
        if actor.run.round.number == number and silo in {e.silo for e in actor.run.round.evaluations}:
            return _verdict(pb.VERDICT_ACCEPTED)
        return _dropped("the round went on without it")

    async def _masking(
        self, actor: RunActor, silo: str, number: int, kind: str, request: pb.AnswerRequest
    ) -> pb.AnswerResponse:
        """Takes a silo's part in secure aggregation: stored first, then an event; given once."""
        run = actor.run
        wanted = Due(masking.TASKS[kind], number)
        if due(run, silo) != wanted:
            there = run.round.number == number and silo in masking.answered(run.round, kind)
            return _verdict(pb.VERDICT_ACCEPTED) if there else _dropped("the round went on without it")
        masking.check(run.round, silo, kind, request)
        event = masking.event(silo, kind, request)
        if kind != "keys":
            data = getattr(request, kind).SerializeToString()
            await self._hub.in_thread(actor.files.put, number, f"_{kind}/{silo}", data)
        await actor.write(silo, lambda run: due(run, silo) == wanted, **event)
        return _verdict(pb.VERDICT_ACCEPTED)

    async def _task(self, actor: RunActor, silo: str, now: Due) -> pb.Task:
        run = actor.run
        task = pb.Task(kind=now.kind, run_id=run.run_id, round=now.round, status=run.status)
        if now.kind in (pb.TASK_KIND_END, pb.TASK_KIND_ABANDON):
            return task
        spec = run.spec
        for group, (objects, digest) in (await actor.offer(silo)).items():
            manifest = await self._hub.in_thread(objects.manifest, digest)
            task.objects.append(pb.TaskObject(name=group, digest=digest, manifest=manifest))
        task.method, task.strategy = spec.method, spec.strategy
        task.config.CopyFrom(spec.config)
        task.strategy_options.CopyFrom(spec.strategy_options)
        task.privacy.CopyFrom(spec.privacy)
        task.data.CopyFrom(spec.data)
        task.seed = derive_seed(spec.seed, "silo", silo, now.round)
        task.selected = len(run.round.selected)
        task.quorum = spec.policy.quorum or spec.policy.min_silos
        if spec.privacy.secure_aggregation:
            await self._hub.in_thread(masking.fill, task, run, silo, actor.files)
        for name, value in actor.scalars(silo).items():
            task.scalars[name] = value
        if spec.policy.HasField("deadline"):
            task.deadline.FromNanoseconds(run.round.opened_at.ToNanoseconds() + spec.policy.deadline.ToNanoseconds())
        return task

    async def _actor(self, run_id: str, silo: str) -> RunActor:
        run = await self._hub.read(run_id)
        if silo not in {m.silo for m in run.round.members}:
            raise PermissionDenied(f"{silo} is no silo of run {run_id}")
        if ended(run):
            raise WrongState(f"run {run_id} has ended: {pb.RunStatus.Name(run.status)}")
        return self._hub.actor(run)

    async def _expected(self, actor: RunActor, silo: str) -> Specs:
        member = next(m for m in actor.run.round.members if m.silo == silo)
        state = full_specs(await self._hub.in_thread(actor.files.state, actor.run))
        expected = actor.strategy.upload(SiloInfo(silo, member.samples, member.modality), state)
        if actor.run.spec.privacy.secure_aggregation:
            return {name: replace(tensor, dtype="uint64") for name, tensor in expected.items()}
        return expected

    def _wanted(self, run: pb.Run, number: int, silo: str) -> None:
        """Refuses uploads that nobody asked for, before they cost anything."""
        late = _lateness(run, silo, number, self._hub.retain_rounds)
        if late is not None:
            raise WrongState(late.reason)
        if number == run.round.number and silo not in run.round.selected:
            raise PermissionDenied(f"{silo} was not asked in round {number}")


def _counted(run: pb.Run, silo: str, number: int) -> str | None:
    """Digest of the update that counts already, empty if the round is over and only that it counted is known."""
    for accepted in run.round.accepted:
        if (accepted.silo, accepted.round) == (silo, number):
            return accepted.digest
    if any(silo in summary.silos and summary.late.get(silo, summary.number) == number for summary in run.history):
        return ""
    return None


def _may_count(run: pb.Run, silo: str) -> bool:
    return run.round.phase == pb.PHASE_OPEN and silo not in {a.silo for a in run.round.accepted} and not ended(run)


def _lateness(run: pb.Run, silo: str, number: int, most: int) -> pb.AnswerResponse | None:
    """Why an update of that round cannot count any more, or None."""
    if number == run.round.number and run.round.phase == pb.PHASE_OPEN:
        return None
    if number > run.round.number or number == 0:
        return _dropped(f"round {number} has not begun")
    if run.spec.policy.late != pb.LATE_POLICY_FOLD:
        return _dropped(f"round {number} was sealed without it")
    if run.round.number - number >= most:
        return _dropped(f"round {number} is too long ago to fold its updates in")
    if not _may_count(run, silo):
        return _dropped("the open round takes no late update of this silo")
    if not any(summary.number == number and silo in summary.stragglers for summary in run.history):
        return _dropped(f"round {number} did not ask {silo}, or has its update already")
    return None


def _open_task(run: pb.Run, silo: str, number: int) -> bool:
    now = due(run, silo)
    return now is not None and now.round == number


def _dropped(reason: str) -> pb.AnswerResponse:
    return _verdict(pb.VERDICT_DROPPED, reason)


def _verdict(verdict: Any, reason: str = "") -> pb.AnswerResponse:
    return pb.AnswerResponse(verdict=verdict, reason=reason)
