"""KServe's Open Inference Protocol V2 over gRPC and REST, loaded on first use if a service asks for that.

KServe's package brings pandas, the Kubernetes client and some seconds of imports: 140 MB of memory that a service which
answers other calls all day need not hold. What is loaded is in ``services/_runtime/oip/``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from fastapi import FastAPI

from eoforge.api.oip.v1 import oip_pb2
from services._runtime.admission import RESERVATION
from services._runtime.errors import Unimplemented
from services._runtime.wire import OIP_SERVICE

if TYPE_CHECKING:
    from kserve import Model

    from services._runtime.interceptor import Reception
    from services._runtime.oip.plane import Plane

_METHODS = ("ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer", "RepositoryIndex")
_YES, _NO = b"\x08\x01", b""
"""Serialised answers of ServerLive and ServerReady, which anyone may ask: nothing is loaded for a stranger."""


class OpenInference:
    """Protocol for the models of one service.

    Args:
        models: Maker of the models; called once, on a thread if that happens on demand.
        reception: Reception of messages.
        draining: Whether the service is draining, or waits for what it serves; readiness reports it.
    """

    def __init__(
        self, models: Callable[[], Sequence[Model]], reception: Reception, draining: Callable[[], bool]
    ) -> None:
        self._models, self._reception, self._draining = models, reception, draining
        self._plane: Plane | None = None
        self._mounted = False
        self._lock = threading.Lock()

    def load(self) -> Plane:
        """Loads KServe and the models unless that was done."""
        with self._lock:
            if self._plane is None:
                from services._runtime.oip.plane import Plane

                self._plane = Plane(self._models(), self._reception, self._draining)
            return self._plane

    def rpc_handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For a gRPC server; messages stay bytes until KServe's types, which are loaded on demand, read them."""
        handlers = {name: grpc.unary_unary_rpc_method_handler(partial(self._answer, name)) for name in _METHODS}
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        handlers["ServerLive"] = grpc.unary_unary_rpc_method_handler(self._live)
        handlers["ServerReady"] = grpc.unary_unary_rpc_method_handler(self._ready)
        for name in ("RepositoryModelLoad", "RepositoryModelUnload"):
            handlers[name] = grpc.unary_unary_rpc_method_handler(self._refused)
        return grpc.method_handlers_generic_handler(OIP_SERVICE, handlers)

    async def mount(self, app: FastAPI) -> None:
        """Adds the REST endpoints to ``app`` unless that was done."""
        plane = await self._loaded()
        if not self._mounted:
            self._mounted = True
            from services._runtime.oip.endpoints import add_endpoints

            add_endpoints(app, plane)

    async def _loaded(self) -> Plane:
        return await asyncio.to_thread(self.load) if self._plane is None else self._plane

    async def _answer(self, method: str, request: bytes, context: Any) -> bytes:
        if self._plane is None and method == "ModelInfer":  # what is too large is refused before KServe takes memory
            name, reservation = f"/{OIP_SERVICE}/{method}", RESERVATION.get()
            await self._reception.parse(name, request, oip_pb2.ModelInferRequest, reservation)
        return await (await self._loaded()).answer(method, request)

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async with aclosing((await self._loaded()).stream(requests)) as answers:
            async for answer in answers:
                yield answer

    async def _live(self, request: bytes, context: Any) -> bytes:
        return _YES

    async def _ready(self, request: bytes, context: Any) -> bytes:
        return _NO if self._draining() else _YES

    async def _refused(self, request: bytes, context: Any) -> bytes:
        raise Unimplemented("this service loads its models itself; they cannot be loaded or unloaded")
