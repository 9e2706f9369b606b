"""Client of the federation service for operators: runs, silos, models.

Models are transferred in chunks that are checked on arrival; an interrupted transfer resumes with the missing chunks.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import grpc

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.api.federation.v1 import federation_pb2_grpc
from eoforge.client.federation_base import (
    TRANSFER_TIMEOUT_S,
    FederationServiceClient,
    leads_elsewhere,
    transient,
)
from eoforge.errors import DataRefused
from eoforge.storage.chunks import check_chunk, file_chunks, file_manifest


class FederationClient(FederationServiceClient):
    """Synchronous, thread-safe client for operators; arguments as for :class:`FederationServiceClient`."""

    def _stub_on(self, channel: grpc.Channel) -> Any:
        return federation_pb2_grpc.FederationServiceStub(channel)  # type: ignore[no-untyped-call]  # generated

    def put_model(self, path: str) -> pb.Manifest:
        """Uploads a safetensors file for :meth:`create_run`; sends only chunks that the server lacks."""
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
        """Creates a run. Retries of the call never make a second one; with a ``run_id`` neither do repeated calls."""
        request_id = "" if run_id else str(uuid.uuid4())
        return self._ask("CreateRun", pb.CreateRunRequest(run_id=run_id, spec=spec, request_id=request_id)).run

    def run(self, run_id: str) -> pb.Run:
        """Run with its whole history, fetched in pages."""
        page = self._ask("GetRun", pb.GetRunRequest(run_id=run_id))
        run, rounds = page.run, list(page.run.history)
        while page.more_history:
            page = self._ask("GetRun", pb.GetRunRequest(run_id=run_id, history_before=rounds[0].number))
            rounds = [*page.run.history, *rounds]
        del run.history[:]
        run.history.extend(rounds)
        return run

    def state(self, run_id: str) -> pb.Run:
        """Run with the newest rounds of its history, by one call."""
        return self._ask("GetRun", pb.GetRunRequest(run_id=run_id)).run

    def runs(self, status: Any = pb.RUN_STATUS_UNSPECIFIED) -> Iterator[pb.Run]:
        """Runs visible to the caller, newest first."""
        for page in self._pages("ListRuns", pb.ListRunsRequest(status=status)):
            yield from page.runs

    def silos(self) -> Iterator[pb.Silo]:
        """Registered silos."""
        for page in self._pages("ListSilos", pb.ListSilosRequest()):
            yield from page.silos

    def _pages(self, name: str, request: Any) -> Iterator[Any]:
        while True:
            page = self._ask(name, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def cancel(self, run_id: str, reason: str = "") -> pb.Run:
        """Cancels a run."""
        return self._ask("CancelRun", pb.CancelRunRequest(run_id=run_id, reason=reason)).run

    def pause(self, run_id: str, reason: str = "") -> pb.Run:
        """Pauses a run: no further round opens."""
        return self._ask("PauseRun", pb.PauseRunRequest(run_id=run_id, reason=reason)).run

    def resume(self, run_id: str) -> pb.Run:
        """Resumes a paused run."""
        return self._ask("ResumeRun", pb.ResumeRunRequest(run_id=run_id)).run

    def estimate(self, request: pb.EstimateRunRequest) -> pb.EstimateRunResponse:
        """Estimate of the cost of a run."""
        return self._ask("EstimateRun", request)

    def watch(self, run_id: str, after: int = 0) -> Iterator[pb.RunEvent]:
        """Events of a run until its end; resumes at its position after a lost connection.

        Raises:
            RemoteError: The server refuses, or cannot be reached in any attempt.
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
                    raise self.translate(error) from error
            run = self.state(run_id)  # retries until the server is back
            if run.status not in (pb.RUN_STATUS_RUNNING, pb.RUN_STATUS_PAUSED) and position[0] >= run.sequence:
                return

    def get_model(self, run_id: str, path: str, *, round: int = 0, initial: bool = False, object: str = "") -> int:
        """Downloads the model of a round to a safetensors file, which appears when complete; returns the round.

        Raises:
            DataRefused: The received chunks differ from the manifest.
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
