"""Client of the federation service for silos: tasks, downloads of models, uploads of updates.

Models are transferred in chunks that are checked on arrival; an interrupted transfer resumes with the missing chunks.
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
    """Synchronous, thread-safe client for silos."""

    def __init__(self, target: str, *, silo_id: str | None = None, **options: Any) -> None:
        """Arguments as for :class:`FederationServiceClient`; ``silo_id`` is for servers without authentication."""
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

    def register(self, **fields: Any) -> pb.RegisterResponse:
        """Registers this silo with the fields of ``RegisterRequest``, and keeps the assigned silo id.

        Raises:
            RemoteError: The coordinator refuses this silo, or cannot be reached. In the latter case the next attempt
                opens a new connection and reads the certificate again, because it may have expired.
        """
        channel = self._channel
        try:
            registered = self._ask("Register", pb.RegisterRequest(**fields))
        except RemoteError as error:
            if error.code == grpc.StatusCode.UNAVAILABLE.name and not error.remote_reason:
                self.move_on(channel)
            raise
        self.silo_id = registered.silo_id
        return registered

    def tasks(self, until_end_of: str = "", appears_within: float = 0.0) -> Iterator[pb.Task]:
        """Tasks of this silo, until the coordinator stops.

        Args:
            until_end_of: Run whose end is reported too, whether this silo participates or not.
            appears_within: Seconds to wait for the creation of this run; 0 for the coordinator's default.

        Raises:
            RemoteError: The coordinator refuses this silo, is lost, or does not find the run.
        """
        request = pb.WatchTasksRequest(until_end_of=until_end_of)
        if appears_within:
            request.appears_within.FromTimedelta(dt.timedelta(seconds=appears_within))
        channel = self._channel
        call = self._stream(self.stub.WatchTasks, request)  # registers the watch before the first task is read

        def read() -> Iterator[pb.Task]:
            try:
                for message in call:
                    yield message.task
            except grpc.RpcError as error:
                if leads_elsewhere(error) or unavailable(error):
                    self.move_on(channel)
                raise self.translate(error) from error

        return read()

    def heartbeat(self, activity: str, progress: float = 0.0) -> None:
        """Sends a heartbeat with the current activity and its progress (0 to 1)."""
        self._ask("Heartbeat", pb.HeartbeatRequest(activity=activity, progress=progress))

    def leave(self, reason: str = "") -> None:
        """Removes the silo from the federation."""
        self._ask("Leave", pb.LeaveRequest(reason=reason))

    def answer(self, run_id: str, number: int, **answer: Any) -> pb.AnswerResponse:
        """Sends the answer to a task, with retries until the server confirms its outcome."""
        request = pb.AnswerRequest(run_id=run_id, round=number, **answer)
        return self._again(lambda: self._stream(self.stub.Answer, request, self._timeout))

    def download(self, run_id: str, item: pb.TaskObject, path: Path) -> None:
        """Downloads an object to ``path``; chunks of an earlier attempt in ``.partial`` are kept.

        Raises:
            DataRefused: A chunk differs from the manifest.
        """
        if path.exists():
            return
        partial = path.with_suffix(".partial")

        def step() -> None:
            with open(partial, "r+b" if partial.exists() else "w+b") as file:
                missing = [i for i in range(len(item.manifest.chunks)) if not holds_chunk(file, item.manifest, i)]
                request = pb.DownloadRequest(run_id=run_id, digest=item.digest, chunks=missing)
                for message in self._stream(self.stub.Download, request, TRANSFER_TIMEOUT_S) if missing else ():
                    check_chunk(item.manifest, message.chunk)
                    file.seek(message.chunk.index * CHUNK_BYTES)
                    file.write(message.chunk.data)
                file.truncate(item.manifest.length)
            os.replace(partial, path)

        self._again(step)

    def upload(self, run_id: str, number: int, path: str, manifest: pb.Manifest, digest: str) -> None:
        """Uploads an update; after an interruption only missing chunks are sent."""

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
