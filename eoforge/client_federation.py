"""Clients of the federation service: one for operators, one for silos.

They move bytes and messages only. Models travel as chunks that are checked on arrival, and a transfer that was cut goes
on with what is missing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import grpc
import stamina

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.api.federation.v1 import federation_pb2_grpc
from eoforge.client_base import RemoteError, ServiceClient, error_details, waits
from eoforge.errors import DataRefused
from eoforge.federated.objects import manifest_of
from eoforge.federated.tensorfile import CHUNK_BYTES, chunk_count, chunk_span
from eoforge.federated.wire import serialised, with_chunk

TRANSFER_TIMEOUT_S = 3600.0
_WAITS: dict[str, Any] = {"wait_initial": 0.1, "wait_max": 5.0}
_CUT = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED})
_SILO_SERVICE = pb.DESCRIPTOR.services_by_name["SiloService"].full_name
SILO_HEADER = "x-eoforge-silo"


class _Client(ServiceClient):
    """What both clients share: streams, steps that are repeated until they are done, and finding who acts."""

    stub: Any
    channel_options: ClassVar[tuple[tuple[str, int], ...]] = (
        # A stream of tasks is silent for hours: pings keep load balancers from cutting it and notice a dead peer.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A coordinator that restarts is back in seconds: gRPC would wait up to two minutes between attempts.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    )

    def __init__(self, target: str, **options: Any) -> None:
        """See :class:`ServiceClient`; ``target`` may name several coordinators, ``HOST:PORT,HOST:PORT``."""
        self._targets = [part.strip() for part in target.split(",") if part.strip()] or [target]
        self._moving, self._closed = threading.Lock(), False
        super().__init__(self._targets[0], **options)

    def move_on(self, channel: grpc.Channel) -> None:
        """Connects anew, to the next coordinator if several are known; no-op unless ``channel`` is still in use.

        A new connection matters for a single name too: behind it may be another coordinator by now.
        """
        with self._moving:
            if channel is not self._channel or self._closed:
                return
            self._targets.append(self._targets.pop(0))
            self._target = self._targets[0]
            self._channel = self._open(self._target)
            self._use(self._channel)
        channel.close()

    def _use(self, channel: grpc.Channel) -> None:
        """Calls go over ``channel`` from now on."""
        raise NotImplementedError

    def _stream(self, method: Callable[..., Any], request: Any, timeout: float | None = None) -> Any:
        try:
            return method(request, timeout=timeout, metadata=self._metadata)
        except ValueError as error:  # what gRPC raises for a closed channel
            code = "CANCELLED" if not self._closed else "CLOSED"  # another thread has moved on, or all is over
            raise RemoteError(f"the connection was closed: {error}", code) from error

    def close(self) -> None:
        """Ends the connection for good."""
        self._closed = True
        super().close()

    def _ask(self, name: str, request: Any) -> Any:
        """One unary call by name, repeated while the server is unavailable or another coordinator acts."""
        return self._again(lambda: self._stream(getattr(self.stub, name), request, self._timeout))

    def _again(self, step: Callable[[], Any]) -> Any:
        """Repeats a resumable step while the server is unavailable or overloaded, elsewhere if another one acts."""
        used: list[grpc.Channel] = []

        def worth_repeating(error: Exception) -> bool | float:
            if leads_elsewhere(error) or (len(self._targets) > 1 and unavailable(error)):
                self.move_on(used[-1])
                return True
            return transient(error)

        try:
            for attempt in stamina.retry_context(on=worth_repeating, attempts=self._attempts, timeout=None, **_WAITS):
                with attempt:
                    used.append(self._channel)
                    return step()
        except grpc.RpcError as error:
            raise self._translate(error) from error


class FederationClient(_Client):
    """For operators; safe to share between threads."""

    def __init__(self, target: str, **options: Any) -> None:
        super().__init__(target, **options)
        self._use(self._channel)

    def _use(self, channel: grpc.Channel) -> None:
        self.stub = federation_pb2_grpc.FederationServiceStub(channel)  # type: ignore[no-untyped-call]  # generated

    def put_model(self, path: str) -> pb.Manifest:
        """Stores a safetensors file for :meth:`create_run`; sends only chunks that are not there yet."""
        manifest = file_manifest(path)

        def step() -> pb.Manifest:
            prepared = self._stream(self.stub.PrepareModel, pb.PrepareModelRequest(manifest=manifest), self._timeout)

            def messages() -> Iterator[pb.PutModelRequest]:
                yield pb.PutModelRequest(manifest=manifest)
                for chunk in file_chunks(path, manifest, prepared.missing):
                    yield pb.PutModelRequest(chunk=chunk)

            if prepared.missing:
                self._stream(self.stub.PutModel, messages(), TRANSFER_TIMEOUT_S)
            return manifest

        return self._again(step)

    def create_run(self, spec: pb.RunSpec, run_id: str = "") -> pb.Run:
        """Creates a run. With a ``run_id`` the call is safe to repeat."""
        return self._ask("CreateRun", pb.CreateRunRequest(run_id=run_id, spec=spec)).run

    def run(self, run_id: str) -> pb.Run:
        """One run with its whole history, fetched in pages."""
        page = self._ask("GetRun", pb.GetRunRequest(run_id=run_id))
        run, rounds = page.run, list(page.run.history)
        while page.more_history:
            page = self._ask("GetRun", pb.GetRunRequest(run_id=run_id, history_before=rounds[0].number))
            rounds = [*page.run.history, *rounds]
        del run.history[:]
        run.history.extend(rounds)
        return run

    def runs(self, status: Any = pb.RUN_STATUS_UNSPECIFIED) -> Iterator[pb.Run]:
        """All runs that the caller may see, newest first."""
        request = pb.ListRunsRequest(status=status)
        while True:
            page = self._ask("ListRuns", request)
            yield from page.runs
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def silos(self) -> Iterator[pb.Silo]:
        """All registered silos."""
        request = pb.ListSilosRequest()
        while True:
            page = self._ask("ListSilos", request)
            yield from page.silos
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def cancel(self, run_id: str, reason: str = "") -> pb.Run:
        """Ends a run."""
        return self._ask("CancelRun", pb.CancelRunRequest(run_id=run_id, reason=reason)).run

    def pause(self, run_id: str, reason: str = "") -> pb.Run:
        """Opens no further round."""
        return self._ask("PauseRun", pb.PauseRunRequest(run_id=run_id, reason=reason)).run

    def resume(self, run_id: str) -> pb.Run:
        """Ends a pause."""
        return self._ask("ResumeRun", pb.ResumeRunRequest(run_id=run_id)).run

    def estimate(self, request: pb.EstimateRunRequest) -> pb.EstimateRunResponse:
        """What a run would cost."""
        return self._ask("EstimateRun", request)

    def watch(self, run_id: str, after: int = 0) -> Iterator[pb.RunEvent]:
        """Events of a run until it has ended; goes on where it was when the server comes back.

        Raises:
            RemoteError: The server refuses, or stays away for all attempts.
        """
        position = [after]

        def connected() -> Iterator[pb.RunEvent]:
            request = pb.WatchRunRequest(run_id=run_id, after=position[0])
            for message in self._stream(self.stub.WatchRun, request):
                position[0] = message.event.sequence
                yield message.event

        while True:
            channel = self._channel
            try:
                yield from connected()
            except grpc.RpcError as error:
                if leads_elsewhere(error):
                    self.move_on(channel)
                elif not transient(error):
                    raise self._translate(error) from error
            run = self._ask("GetRun", pb.GetRunRequest(run_id=run_id)).run  # waits for the server, with retries
            if run.status not in (pb.RUN_STATUS_RUNNING, pb.RUN_STATUS_PAUSED) and position[0] >= run.sequence:
                return

    def get_model(self, run_id: str, path: str, *, round: int = 0, initial: bool = False, object: str = "") -> int:
        """Writes the model of a round as a safetensors file and returns the round; the file appears when it is whole.

        Raises:
            DataRefused: What arrived is not what the manifest names.
        """
        request = pb.GetModelRequest(run_id=run_id, round=round, initial=initial, object=object)
        partial = f"{path}.partial"

        def step() -> int:
            messages = iter(self._stream(self.stub.GetModel, request, TRANSFER_TIMEOUT_S))
            head = next(messages)
            with open(partial, "wb") as file:
                for message in messages:
                    check_chunk(head.manifest, message.chunk)
                    file.write(message.chunk.data)
            if os.path.getsize(partial) != head.manifest.length:
                raise DataRefused(f"the model ended after {os.path.getsize(partial)} of {head.manifest.length} bytes")
            os.replace(partial, path)
            return int(head.round)

        return int(self._again(step))


class SiloClient(_Client):
    """For silos; safe to share between threads."""

    def __init__(self, target: str, *, silo_id: str | None = None, **options: Any) -> None:
        """See :class:`ServiceClient`; ``silo_id`` names the silo to a server without authentication."""
        super().__init__(target, **options)
        self.silo_id = silo_id or ""
        if silo_id is not None:
            self._metadata = (*self._metadata, (SILO_HEADER, silo_id))
        self._use(self._channel)

    def _use(self, channel: grpc.Channel) -> None:
        self.stub = federation_pb2_grpc.SiloServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        self.stub.PutUpdate = channel.stream_unary(
            f"/{_SILO_SERVICE}/PutUpdate",
            request_serializer=serialised,
            response_deserializer=pb.PutUpdateResponse.FromString,
        )

    def register(self, **what: Any) -> pb.RegisterResponse:
        """Says what this silo holds; see ``RegisterRequest``. Remembers who the coordinator takes it for."""
        registered = self._ask("Register", pb.RegisterRequest(**what))
        self.silo_id = registered.silo_id
        return registered

    def tasks(self, until_end_of: str = "", appears_within: float = 0.0) -> Iterator[pb.Task]:
        """Tasks as they come; ends when the coordinator ends.

        Args:
            until_end_of: A run whose end is told too, whether this silo takes part or not.
            appears_within: Seconds that this run may take to be created; 0 for the coordinator's default.

        Raises:
            RemoteError: The coordinator refuses this silo, went away, or knows no such run.
        """
        request = pb.WatchTasksRequest(until_end_of=until_end_of)
        if appears_within:
            request.appears_within.FromTimedelta(dt.timedelta(seconds=appears_within))
        channel = self._channel
        call = self._stream(self.stub.WatchTasks, request)  # connected from here on, read or not

        def read() -> Iterator[pb.Task]:
            try:
                for message in call:
                    yield message.task
            except grpc.RpcError as error:
                if leads_elsewhere(error) or unavailable(error):
                    self.move_on(channel)
                raise self._translate(error) from error

        return read()

    def heartbeat(self, activity: str, progress: float = 0.0) -> None:
        """Shows that the silo lives."""
        self._ask("Heartbeat", pb.HeartbeatRequest(activity=activity, progress=progress))

    def leave(self, reason: str = "") -> None:
        """Takes the silo out of the federation."""
        self._ask("Leave", pb.LeaveRequest(reason=reason))

    def answer(self, run_id: str, number: int, **answer: Any) -> pb.AnswerResponse:
        """Answers a task; repeated until the server has said what became of it."""
        request = pb.AnswerRequest(run_id=run_id, round=number, **answer)
        return self._again(lambda: self._stream(self.stub.Answer, request, self._timeout))

    def download(self, run_id: str, item: pb.TaskObject, path: Path) -> None:
        """Brings an object to ``path``; chunks that an earlier attempt left in ``.partial`` are not asked for again.

        Raises:
            DataRefused: A chunk is not what the manifest names.
        """
        if path.exists():
            return
        partial = path.with_suffix(".partial")

        def step() -> None:
            with open(partial, "r+b" if partial.exists() else "w+b") as file:
                wanted = [i for i in range(len(item.manifest.chunks)) if not _holds(file, item.manifest, i)]
                request = pb.DownloadRequest(run_id=run_id, digest=item.digest, chunks=wanted)
                for message in self._stream(self.stub.Download, request, TRANSFER_TIMEOUT_S) if wanted else ():
                    check_chunk(item.manifest, message.chunk)
                    file.seek(message.chunk.index * CHUNK_BYTES)
                    file.write(message.chunk.data)
                file.truncate(item.manifest.length)
            os.replace(partial, path)

        self._again(step)

    def upload(self, run_id: str, number: int, path: str, manifest: pb.Manifest, digest: str) -> None:
        """Stores an update; after a cut only what is missing is sent."""

        def step() -> None:
            announced = pb.PrepareUpdateRequest(run_id=run_id, round=number, manifest=manifest)
            prepared = self._stream(self.stub.PrepareUpdate, announced, self._timeout)

            def messages() -> Iterator[bytes]:
                head = pb.PutUpdateRequest(run_id=run_id, round=number, digest=digest)
                for index, data in file_parts(path, manifest, prepared.missing):
                    yield with_chunk(head, index, data)
                    head = pb.PutUpdateRequest()

            if prepared.missing:
                self._stream(self.stub.PutUpdate, messages(), TRANSFER_TIMEOUT_S)

        self._again(step)


def file_manifest(path: str) -> pb.Manifest:
    """The manifest of a file, read once."""
    with open(path, "rb") as file:
        parts = iter(lambda: file.read(CHUNK_BYTES), b"")
        return manifest_of(parts, os.path.getsize(path))


def file_parts(path: str, manifest: pb.Manifest, indexes: Any) -> Iterator[tuple[int, bytes]]:
    """Chunks of a file by position, one in memory at a time."""
    with open(path, "rb") as file:
        for index in indexes:
            first, last = chunk_span(index, manifest.length)
            file.seek(first)
            yield index, file.read(last - first)


def file_chunks(path: str, manifest: pb.Manifest, indexes: Any) -> Iterator[pb.Chunk]:
    """The same as messages."""
    return (pb.Chunk(index=index, data=data) for index, data in file_parts(path, manifest, indexes))


def check_chunk(manifest: pb.Manifest, chunk: pb.Chunk) -> None:
    """Compares a chunk with its digest.

    Raises:
        DataRefused: It is another one.
    """
    if chunk.index >= chunk_count(manifest.length):
        raise DataRefused(f"chunk {chunk.index} of {len(manifest.chunks)} arrived")
    if hashlib.sha256(chunk.data).digest() != manifest.chunks[chunk.index]:
        raise DataRefused(f"chunk {chunk.index} does not have the SHA-256 that the manifest names")


def transient(error: Exception) -> bool | float:
    """Besides what every client repeats: a transfer that a restart or a cut ended, which goes on where it was."""
    if isinstance(error, RemoteError):
        return error.retry_after is not None or error.code in ("UNAVAILABLE", *(code.name for code in _CUT))
    if isinstance(error, grpc.RpcError) and error.code() in _CUT:
        return True
    return waits(error)


def leads_elsewhere(error: Exception) -> bool:
    """Whether a coordinator says that another one acts."""
    return isinstance(error, grpc.RpcError) and error_details(error)[0] == "NOT_LEADER"


def unavailable(error: Exception) -> bool:
    """Whether nobody answers there."""
    return isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNAVAILABLE


def _holds(file: Any, manifest: pb.Manifest, index: int) -> bool:
    first, last = chunk_span(index, manifest.length)
    file.seek(first)
    return hashlib.sha256(file.read(last - first)).digest() == manifest.chunks[index]
