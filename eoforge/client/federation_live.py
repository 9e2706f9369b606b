"""Live events of several federated runs over one connection, for a page that shows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.api.federation.v1 import federation_pb2_grpc
from eoforge.client.federation import FederationClient

MAX_RUNS = 16
"""Largest number of runs that one connection watches."""
_QUEUE = 256


class LiveRuns:
    """Events of watched runs as they happen; made by :func:`live_runs`."""

    def __init__(self, client: FederationClient, channel: grpc.aio.Channel) -> None:
        self._client = client
        self._stub = federation_pb2_grpc.FederationServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        self._events: asyncio.Queue[tuple[str, pb.RunEvent]] = asyncio.Queue(_QUEUE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failed: grpc.RpcError | None = None

    def watch(self, after: Mapping[str, int]) -> None:
        """Starts to watch runs, each after a sequence number; runs that are watched or beyond ``MAX_RUNS`` are not."""
        for run_id, sequence in after.items():
            if run_id not in self._tasks and len(self._tasks) < MAX_RUNS:
                self._tasks[run_id] = asyncio.create_task(self._follow(run_id, sequence))

    async def next(self, seconds: float) -> list[tuple[str, pb.RunEvent]]:
        """Names of runs and their events that came within ``seconds``, at least one if any comes; else none.

        Raises:
            RemoteError: The service refused a run, or the connection was lost.
        """
        try:
            found = [await asyncio.wait_for(self._events.get(), seconds)]
        except TimeoutError:
            found = []
        while not self._events.empty():
            found.append(self._events.get_nowait())
        if not found and self._failed is not None:
            raise self._client.translate(self._failed) from self._failed
        return found

    @property
    def ended(self) -> bool:
        """Whether all watched runs have ended and all their events were taken."""
        return self._events.empty() and all(task.done() for task in self._tasks.values())

    async def _follow(self, run_id: str, sequence: int) -> None:
        request = pb.WatchRunRequest(run_id=run_id, after=sequence)
        try:
            async for message in self._stub.WatchRun(request, metadata=self._client.metadata):
                await self._events.put((run_id, message.event))
        except grpc.RpcError as error:
            self._failed = error

    async def close(self) -> None:
        """Ends all streams."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


@asynccontextmanager
async def live_runs(client: FederationClient) -> AsyncIterator[LiveRuns]:
    """Watcher of runs with the rights of a client, on a connection that is closed with the block."""
    channel = client.open_async()
    live = LiveRuns(client, channel)
    try:
        yield live
    finally:
        await live.close()
        await channel.close(None)
