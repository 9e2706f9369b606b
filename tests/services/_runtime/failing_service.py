"""A servicer that fails on demand, and servers of the runtime around it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import numpy as np
from kserve import InferRequest, Model

from eoforge import errors as library_errors
from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.errors import EoforgeError
from services._runtime import errors as service_errors
from services._runtime.errors import Retriable
from services._runtime.oip.answers import response
from services._runtime.oip.tensors import input_number, tensor
from services._runtime.server import Server, Service
from services._runtime.settings import RuntimeSettings

NAME = "eoforge.api.retrieval.v1.RetrievalService"
SECRET = "s3://bucket/secret-path"


def _error_types() -> dict[str, type[EoforgeError]]:
    found = {}
    for module in (library_errors, service_errors):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, EoforgeError):
                found[value.reason] = value
    return found


ERROR_TYPES = _error_types()


class OnDemand(retrieval_pb2_grpc.RetrievalServiceServicer):
    """GetPatch obeys its patch id: ``fail:REASON``, ``crash``, ``hold:NAME``, anything else is echoed.

    What is held waits until it is cancelled, or until the loop sets ``release``.
    """

    def __init__(self) -> None:
        self.held: list[str] = []
        self.cancelled: list[str] = []
        self.release = asyncio.Event()

    async def GetPatch(self, request: pb.GetPatchRequest, context: Any) -> pb.GetPatchResponse:
        order, _, value = request.patch_id.partition(":")
        if order == "fail":
            kind = ERROR_TYPES[value]
            raise kind(f"about {SECRET}", 1.5) if issubclass(kind, Retriable) else kind(f"about {SECRET}")
        if order == "crash":
            raise ZeroDivisionError(SECRET)
        if order == "hold":
            self.held.append(value)
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled.append(value)
                raise
        return pb.GetPatchResponse(patch=pb.PatchMetadata(patch_id=request.patch_id))

    async def SearchStream(
        self, requests: AsyncIterator[pb.SearchStreamRequest], context: Any
    ) -> AsyncIterator[pb.SearchStreamResponse]:
        async for request in requests:
            yield pb.SearchStreamResponse(correlation_id=request.correlation_id)


class Echo(Model):
    """The least model that KServe takes."""

    def __init__(self) -> None:
        super().__init__("echo")
        self.ready = True


class Counted(np.ndarray[Any, Any]):
    """Array that notes the thread in which its values become Python's numbers one by one."""

    threads: ClassVar[list[int]] = []

    def flatten(self, *args: Any) -> Any:
        self.threads.append(threading.get_ident())
        return np.ndarray.flatten(self, *args)


class Counting(Model):
    """Model of ``n``, INT32 [1], to the numbers below it, as FP32 and as texts; of -1, to one that is no number."""

    def __init__(self) -> None:
        super().__init__("counting")
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        return [tensor("n", "INT32", 1)]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [tensor("numbers", "FP32", -1, unit="m"), tensor("texts", "BYTES", -1)]

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> Any:
        n = int(input_number(payload, "n", "INT32") or 0)
        numbers = np.arange(n, dtype=np.float32) if n >= 0 else np.full(1, np.nan, np.float32)
        texts = np.empty(min(n, 10) if n >= 0 else 0, dtype=object)
        texts[:] = [f"é{number}" for number in range(len(texts))]
        return response(self.name, payload, {"numbers": numbers.view(Counted), "texts": texts})


async def _nothing() -> None:
    return None


def make(**values: Any) -> Server:
    defaults: dict[str, Any] = {"port": 0, "rest_port": 0, "drain_notice_seconds": 0.0, "drain_seconds": 5.0}
    servicer = OnDemand()
    service = Service(
        name=NAME,
        register=lambda server: retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(servicer, server),
        models=lambda: [Echo(), Counting()],
        start=_nothing,
        stop=_nothing,
    )
    server = Server(RuntimeSettings(**(defaults | values)), service)
    server.servicer = servicer  # type: ignore[attr-defined]  # for the test to look into
    return server


def get(stub: Any, patch_id: str, **options: Any) -> pb.GetPatchResponse:
    return stub.GetPatch(pb.GetPatchRequest(patch_id=patch_id), **({"timeout": 60} | options))
