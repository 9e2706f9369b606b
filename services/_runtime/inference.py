"""KServe's Open Inference Protocol V2 over gRPC and REST, loaded on first use if a service asks for that.

KServe's package brings pandas, the Kubernetes client and some seconds of imports: 140 MB of memory that a service which
answers other calls all day need not hold. What is loaded is in :mod:`services._runtime.kserve_plane`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from fastapi import FastAPI

from services._runtime.wire import OIP_SERVICE

if TYPE_CHECKING:
    from kserve import Model

    from services._runtime.interceptor import Reception
    from services._runtime.kserve_plane import Plane

_METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)


class OpenInference:
    """Protocol for the models of one service.

    Args:
        models: Maker of the models; called once, on a thread if that happens on demand.
        reception: Reception of messages.
    """

    def __init__(self, models: Callable[[], Sequence[Model]], reception: Reception) -> None:
        self._models, self._reception = models, reception
        self._plane: Plane | None = None
        self._mounted = False
        self._lock = threading.Lock()

    def load(self) -> Plane:
        """Loads KServe and the models unless that was done."""
        with self._lock:
            if self._plane is None:
                from services._runtime.kserve_plane import Plane

                self._plane = Plane(self._models(), self._reception)
            return self._plane

    def rpc_handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For a gRPC server; messages stay bytes until KServe's types, which are loaded on demand, read them."""
        handlers = {name: grpc.unary_unary_rpc_method_handler(partial(self._answer, name)) for name in _METHODS}
        return grpc.method_handlers_generic_handler(OIP_SERVICE, handlers)

    async def mount(self, app: FastAPI) -> None:
        """Adds the REST endpoints to ``app`` unless that was done."""
        plane = await self._loaded()
        if not self._mounted:
            self._mounted = True
            plane.mount(app)

    async def _loaded(self) -> Plane:
        return await asyncio.to_thread(self.load) if self._plane is None else self._plane

    async def _answer(self, method: str, request: bytes, context: Any) -> bytes:
        return await (await self._loaded()).answer(method, request, context)
