"""Servicer of ``FederationService``: models, runs and silos, for operators."""

from __future__ import annotations

import base64
import hashlib
import itertools
import secrets
from collections.abc import AsyncIterator
from typing import Any

import grpc

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.api.federation.v1 import federation_pb2_grpc
from eoforge.client.chunk_messages import with_chunk
from eoforge.errors import DamagedObject, LimitExceeded, NotFound, UsageError, WrongState
from eoforge.federated.checks import check_model
from eoforge.federated.result import plain
from eoforge.federated.run.journal import Journal
from eoforge.federated.run.numbers import check_storable
from eoforge.federated.run.spec import RUN_ID, check_spec
from eoforge.federated.run.state import ended
from eoforge.federated.store.chunk_store import StoredFile
from eoforge.federated.store.run_files import RunFiles
from eoforge.federated.strategies.registry import make_strategy
from eoforge.storage.chunks import check_manifest, digest_of
from services._runtime.errors import PermissionDenied, argument
from services.federation.coordinator import Coordinator
from services.federation.estimate import estimate
from services.federation.identity import Identities, may_control
from services.federation.telemetry import BYTES
from services.federation.uploads import Uploads, chunks_of

DEFAULT_PAGE, MAX_PAGE = 50, 1000
MAX_HISTORY, MAX_HISTORY_BYTES = 100, 1 << 20
MAX_REASON = 500
EVENTS_AT_ONCE = 100

Context = grpc.aio.ServicerContext


class FederationServicer(federation_pb2_grpc.FederationServiceServicer):
    """Answers the calls of ``FederationService``; the runtime's interceptor turns errors into statuses.

    Args:
        coordinator: Runs and silos of this process.
        identities: Identities of callers.
        uploads: Receiver of chunks.
    """

    def __init__(self, coordinator: Coordinator, identities: Identities, uploads: Uploads) -> None:
        self._coordinator, self._identities, self._uploads = coordinator, identities, uploads
        self._models = coordinator.models

    async def PrepareModel(
        self, request: pb.PrepareModelRequest, context: Context[Any, Any]
    ) -> pb.PrepareModelResponse:
        """See the proto."""
        self._identities.operator()
        with argument("manifest"):
            check_manifest(request.manifest, self._coordinator.settings.max_model_bytes)
        return pb.PrepareModelResponse(
            missing=await self._coordinator.in_thread(self._models.missing, request.manifest)
        )

    async def PutModel(
        self, requests: AsyncIterator[pb.PutModelRequest], context: Context[Any, Any]
    ) -> pb.PutModelResponse:
        """See the proto."""
        self._identities.operator()
        first = await anext(requests, None)
        if first is None or not first.HasField("manifest"):
            raise UsageError("the first message of a model must hold its manifest")
        with argument("manifest"):
            check_manifest(first.manifest, self._coordinator.settings.max_model_bytes)
        manifest = pb.Manifest.FromString(first.manifest.SerializeToString())
        chunks = chunks_of(first, requests)
        del first
        stored = await self._uploads.receive(self._models, manifest, digest_of(manifest), chunks, None)
        return pb.PutModelResponse(stored=stored)

    async def CreateRun(self, request: pb.CreateRunRequest, context: Context[Any, Any]) -> pb.CreateRunResponse:
        """See the proto."""
        operator = self._identities.operator()
        run_id = _run_id(request, operator)
        spec = request.spec
        with argument("spec"):
            check_storable(spec, "spec")
            strategy = make_strategy(spec.strategy, plain(spec.strategy_options))
            with argument("initial_model"):
                check_manifest(spec.initial_model, self._coordinator.settings.max_model_bytes)
        missing = await self._coordinator.in_thread(self._models.missing, spec.initial_model)
        if missing or not spec.initial_model.chunks:
            raise WrongState(f"{len(missing)} chunks of the initial model are missing; send them with PutModel first")
        model = await self._coordinator.in_thread(StoredFile, self._models, spec.initial_model)
        with argument("spec"):
            check_spec(spec, strategy, model.specs)
        await self._coordinator.in_thread(check_model, model, self._coordinator.compute)
        run = await self._coordinator.create(run_id, spec, digest_of(spec.initial_model), operator)
        self._coordinator.audit.note(operator, "create", run_id)
        return pb.CreateRunResponse(run=_page(run)[0])

    async def GetRun(self, request: pb.GetRunRequest, context: Context[Any, Any]) -> pb.GetRunResponse:
        """See the proto."""
        run, more = _page(await self._run(request.run_id), request.history_before)
        return pb.GetRunResponse(run=run, more_history=more)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context[Any, Any]) -> pb.ListRunsResponse:
        """See the proto."""
        operator = self._identities.operator()
        names = await self._coordinator.in_thread(self._coordinator.catalogue.names)
        start = _after(request.page_token, names)
        size = _page_size(request.page_size)
        found: list[pb.Run] = []
        for position in range(start, len(names)):
            if len(found) == size:
                return pb.ListRunsResponse(runs=found, next_page_token=_token(names[position - 1]))
            try:
                run = await self._coordinator.read(names[position])
            except (NotFound, DamagedObject):
                continue  # a run whose creation was interrupted, or one in quarantine
            if may_control(operator, run) and request.status in (pb.RUN_STATUS_UNSPECIFIED, run.status):
                short = pb.Run()
                short.CopyFrom(run)
                for field in ("spec", "history", "round"):
                    short.ClearField(field)
                short.spec.method, short.spec.strategy = run.spec.method, run.spec.strategy
                short.spec.policy.rounds = run.spec.policy.rounds
                short.round.number, short.round.phase = run.round.number, run.round.phase
                found.append(short)
        return pb.ListRunsResponse(runs=found)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context[Any, Any]) -> pb.CancelRunResponse:
        """See the proto."""
        return pb.CancelRunResponse(run=await self._change(request.run_id, pb.RUN_STATUS_CANCELLED, request.reason))

    async def PauseRun(self, request: pb.PauseRunRequest, context: Context[Any, Any]) -> pb.PauseRunResponse:
        """See the proto."""
        return pb.PauseRunResponse(run=await self._change(request.run_id, pb.RUN_STATUS_PAUSED, request.reason))

    async def ResumeRun(self, request: pb.ResumeRunRequest, context: Context[Any, Any]) -> pb.ResumeRunResponse:
        """See the proto."""
        return pb.ResumeRunResponse(run=await self._change(request.run_id, pb.RUN_STATUS_RUNNING, ""))

    async def WatchRun(
        self, request: pb.WatchRunRequest, context: Context[Any, Any]
    ) -> AsyncIterator[pb.WatchRunResponse]:
        """See the proto. Waits for changes without polling."""
        await self._run(request.run_id)
        journal, after = Journal(self._coordinator.store, request.run_id), request.after
        while not self._coordinator.draining:
            change = self._coordinator.signal.current()
            for event in await self._coordinator.in_thread(_events, journal, after):
                self._identities.operator()  # a certificate may have been revoked since
                after = event.sequence
                yield pb.WatchRunResponse(event=event)
            run = await self._coordinator.read(request.run_id)
            if ended(run):
                if after >= run.sequence:
                    return
                continue
            self._coordinator.actor(run)  # events of a run of another coordinator raise no signal here
            if after >= run.sequence:
                await change.wait()

    async def GetModel(
        self, request: pb.GetModelRequest, context: Context[Any, Any]
    ) -> AsyncIterator[pb.GetModelResponse | bytes]:
        """See the proto."""
        run = await self._run(request.run_id)
        number, digest = _wanted_object(run, request)
        chunks = RunFiles(self._coordinator.store, run.run_id, self._coordinator.compute).chunks
        manifest = await self._coordinator.in_thread(chunks.manifest, digest)
        yield pb.GetModelResponse(manifest=manifest, round=number)
        for index, chunk in enumerate(manifest.chunks):
            data = await self._coordinator.in_thread(chunks.chunk, chunk)
            BYTES.labels("down").inc(len(data))
            yield with_chunk(pb.GetModelResponse(), index, data)

    async def ListSilos(self, request: pb.ListSilosRequest, context: Context[Any, Any]) -> pb.ListSilosResponse:
        """See the proto."""
        self._identities.operator()
        self._coordinator.require_lead()  # other coordinators know no silos, or only former ones
        names = sorted(self._coordinator.silos.known)
        start, size = _after(request.page_token, names), _page_size(request.page_size)
        page = names[start : start + size]
        silos = []
        for name in page:
            silo = pb.Silo()
            silo.CopyFrom(self._coordinator.silos.known[name])
            silo.connected = self._coordinator.silos.connected(name)
            silos.append(silo)
        more = start + size < len(names)
        return pb.ListSilosResponse(silos=silos, next_page_token=_token(page[-1]) if more else "")

    async def EstimateRun(self, request: pb.EstimateRunRequest, context: Context[Any, Any]) -> pb.EstimateRunResponse:
        """See the proto."""
        self._identities.operator()
        if not request.silos:
            self._coordinator.require_lead()  # the estimate counts the silos that are registered
        return await self._coordinator.in_thread(estimate, self._coordinator, request)

    async def _run(self, run_id: str) -> pb.Run:
        operator = self._identities.operator()
        run = await self._coordinator.read(run_id)
        if not may_control(operator, run):
            self._coordinator.audit.note(operator, "read", run_id, "denied", seldom=True)
            raise PermissionDenied(f"run {run_id} belongs to others; its creator can add you to spec.operators")
        return run

    async def _change(self, run_id: str, status: Any, reason: str) -> pb.Run:
        run = await self._run(run_id)
        operator, name = self._identities.operator(), pb.RunStatus.Name(status)
        if len(reason) > MAX_REASON:
            raise LimitExceeded(f"a reason may have {MAX_REASON} characters")
        if run.status == status:
            return _page(run)[0]
        if ended(run):
            raise WrongState(f"run {run_id} has ended: {pb.RunStatus.Name(run.status)}")
        actor = self._coordinator.actor(run)
        changed = pb.StatusChanged(status=status, reason=reason or f"by {operator}")
        if not await actor.write(operator, lambda now: not ended(now), status_changed=changed):
            raise WrongState(f"run {run_id} has ended: {pb.RunStatus.Name(actor.run.status)}")
        self._coordinator.audit.note(operator, name.removeprefix("RUN_STATUS_").lower(), run_id)
        return _page(actor.run)[0]


def _events(journal: Journal, after: int) -> list[pb.RunEvent]:
    return list(itertools.islice(journal.events(after), EVENTS_AT_ONCE))


def _wanted_object(run: pb.Run, request: pb.GetModelRequest) -> tuple[int, str]:
    done = run.history[-1].number if run.history else 0
    if request.object:
        if request.object not in run.objects:
            raise NotFound(f"run {run.run_id} has {', '.join(sorted(run.objects))}; there is no {request.object!r:.80}")
        return done, run.objects[request.object]
    if request.initial:
        return 0, run.initial_model
    if not request.round:
        return done, run.history[-1].model if run.history else run.initial_model
    for summary in run.history[-run.spec.keep_models :]:
        if summary.number == request.round:
            return summary.number, summary.model
    if run.spec.keep_models and 0 < request.round <= done:
        raise NotFound(f"run {run.run_id} keeps the models of its last {run.spec.keep_models} rounds (keep_models)")
    raise NotFound(f"run {run.run_id} has models of rounds 1 to {done}; there is none of round {request.round}")


def _page(run: pb.Run, before: int = 0) -> tuple[pb.Run, bool]:
    """A run with one page of its history, and whether earlier rounds remain: messages have a size limit."""
    page: list[pb.RoundSummary] = []
    size = 0
    for summary in reversed(run.history):
        if before and summary.number >= before:
            continue
        size += summary.ByteSize()
        if page and (len(page) >= MAX_HISTORY or size > MAX_HISTORY_BYTES):
            break
        page.append(summary)
    short = pb.Run()
    short.CopyFrom(run)
    del short.history[:]
    short.history.extend(reversed(page))
    return short, bool(page) and page[-1].number != run.history[0].number


def _run_id(request: pb.CreateRunRequest, operator: str) -> str:
    """Name of a new run: the one asked for, one that follows from caller and request_id, or a random one."""
    for field in ("run_id", "request_id"):
        given = getattr(request, field)
        with argument(field):
            if given and not RUN_ID.fullmatch(given):
                raise UsageError(f"a {field} has 1 to 64 letters, digits, '.', '_' or '-'; got {given!r:.80}")
    if request.run_id and request.request_id:
        with argument("request_id"):
            raise UsageError("run_id makes the call safe to repeat by itself; leave request_id out")
    if request.request_id:
        asked = f"{operator}\n{request.request_id}".encode()
        return f"run-{hashlib.sha256(asked).hexdigest()[:24]}"
    return request.run_id or f"run-{secrets.token_hex(6)}"


def _page_size(asked: int) -> int:
    if asked > MAX_PAGE:
        with argument("page_size"):
            raise LimitExceeded(f"page_size may be {MAX_PAGE}; got {asked}")
    return asked or DEFAULT_PAGE


def _token(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode("ascii")


def _after(token: str, names: list[str]) -> int:
    """Position after the item that a page token names."""
    if not token:
        return 0
    try:
        name = base64.urlsafe_b64decode(token.encode("ascii")).decode()
        return names.index(name) + 1
    except ValueError as error:
        with argument("page_token"):
            raise UsageError("page_token is not one of this service; pass next_page_token unchanged") from error
