"""Wait for the end of a run by a silo that may take no part in it."""

from __future__ import annotations

import asyncio

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import NotFound
from eoforge.federated.run.numbers import seconds_of
from eoforge.federated.run.state import ended
from services.federation.coordinator import Coordinator

APPEARS_SECONDS = 600.0
"""Default time that a silo waits for a run that does not exist yet."""


class EndOfRun:
    """End of the run that a silo waits for: the run may have ended long ago, or not exist yet.

    Args:
        coordinator: Runs and silos of this process.
        request: Names the run, or none.

    Raises:
        UsageError: The time within which the run must appear is malformed.
    """

    def __init__(self, coordinator: Coordinator, request: pb.WatchTasksRequest) -> None:
        self._coordinator, self._run_id = coordinator, request.until_end_of
        seconds = seconds_of(request.appears_within, "appears_within") if request.HasField("appears_within") else 0.0
        self._within = seconds or APPEARS_SECONDS
        self._until = asyncio.get_running_loop().time() + self._within
        self._appeared = not self._run_id

    async def task(self) -> pb.Task | None:
        """End task of a run that has ended and has no actor any more; None for every other run."""
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

    async def wait(self, change: asyncio.Event) -> None:
        """Waits for a change.

        Raises:
            NotFound: The run has not appeared in time.
        """
        if self._appeared:
            await change.wait()
            return
        try:
            async with asyncio.timeout_at(self._until):
                await change.wait()
        except TimeoutError as error:
            raise NotFound(
                f"there is no run {self._run_id!r:.80}, and none was created in {self._within:g} s; check the name"
            ) from error
