"""Health of the process and of its services: ``grpc.health.v1``.

gRPC's own asyncio servicer forgets the other watchers of a service when one of them ends, and waits for a watcher that
does not read while it changes a status: one stranger could then hold up the end of the process.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eoforge.errors import NotFound
from services._runtime.errors import abort, describe

Status = health_pb2.HealthCheckResponse
Context = grpc.aio.ServicerContext


class Health(health_pb2_grpc.HealthServicer):
    """Status by name; the process has the empty name."""

    def __init__(self) -> None:
        self._serving = {"": True}
        self._draining = self._ended = False
        self._changed = asyncio.Event()

    def set(self, name: str, serving: bool) -> None:
        """Sets whether a service is answered here."""
        self._serving[name] = serving
        self._notify()

    def drain(self) -> None:
        """Reports NOT_SERVING for all names from now on."""
        self._draining = True
        self._notify()

    def end(self) -> None:
        """Ends the watches, each after its last status."""
        self._ended = True
        self._notify()

    async def Check(self, request: Any, context: Context[Any, Any]) -> Any:
        """See ``grpc.health.v1``."""
        if request.service not in self._serving:
            await abort(context, describe(NotFound("there is no service of this name"), ""))
        return Status(status=self._status(request.service))

    async def Watch(self, request: Any, context: Context[Any, Any]) -> None:
        """See ``grpc.health.v1``."""
        sent = None
        while True:
            changed = self._changed  # taken before the status is looked at, so that no change is missed
            status = self._status(request.service)
            if status != sent:
                await context.write(Status(status=status))
                sent = status
            elif self._ended:
                return
            else:
                await changed.wait()

    def _status(self, name: str) -> Any:
        if name not in self._serving:
            return Status.SERVICE_UNKNOWN
        return Status.SERVING if self._serving[name] and not self._draining else Status.NOT_SERVING

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
