"""Client of the federation service for silos: tasks in, updates out.

Models travel as chunks that are checked on arrival, and a transfer that was cut goes on with what is missing.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.api.federation.v1 import federation_pb2_grpc
from eoforge.client.base import RemoteError
from eoforge.client.chunk_messages import serialised, with_chunk
from eoforge.client.federation_base import (
    TRANSFER_TIMEOUT_S,
    FederationServiceClient,
    leads_elsewhere,
    unavailable,
)
from eoforge.storage.chunks import check_chunk, file_parts, holds_chunk
from eoforge.storage.tensorfile import CHUNK_BYTES

_SILO_SERVICE = pb.DESCRIPTOR.services_by_name["SiloService"].full_name
SILO_HEADER = "x-eoforge-silo"


class SiloClient(FederationServiceClient):
    """For silos; safe to share between threads."""

    def __init__(self, target: str, *, silo_id: str | None = None, **options: Any) -> None:
        """See :class:`ServiceClient`; ``silo_id`` names the silo to a server without authentication."""
        super().__init__(target, **options)
        self.silo_id = silo_id or ""
        if silo_id is not None:
            self._metadata = (*self._metadata, (SILO_HEADER, silo_id))

    def _stub_on(self, channel: grpc.Channel) -> Any:
        stub = federation_pb2_grpc.SiloServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        stub.PutUpdate = channel.stream_unary(
            f"/{_SILO_SERVICE}/PutUpdate",
            request_serializer=serialised,
            response_deserializer=pb.PutUpdateResponse.FromString,
        )
        return stub

    def register(self, **what: Any) -> pb.RegisterResponse:
        """Says what this silo holds; see ``RegisterRequest``. Remembers who the coordinator takes it for.

        Raises:
            RemoteError: The coordinator refuses this silo, or cannot be reached. In the latter case the next attempt
                connects anew, with the certificate that is there by then: the one of this connection may have expired.
        """
        channel = self._channel
        try:
            registered = self._ask("Register", pb.RegisterRequest(**what))
        except RemoteError as error:
            if error.code == grpc.StatusCode.UNAVAILABLE.name and not error.remote_reason:
                self.move_on(channel)
            raise
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
                wanted = [i for i in range(len(item.manifest.chunks)) if not holds_chunk(file, item.manifest, i)]
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
