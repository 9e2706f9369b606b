"""KServe itself: its data plane, gRPC servicer and REST endpoints, without what would harm a service of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request, Response
from kserve import InferRequest, Model, ModelRepository
from kserve.errors import ModelNotReady, ServerNotReady, model_not_ready_handler, server_not_ready_handler
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints

from eoforge.errors import LimitExceeded, UsageError
from services._runtime.admission import HOLD
from services._runtime.errors import Unimplemented
from services._runtime.wire import OIP_SERVICE, Limits, check_json

if TYPE_CHECKING:
    from services._runtime.interceptor import Reception

JSON_LENGTH = "inference-header-content-length"
REST_FACTOR = 8
"""JSON may be so many times larger than plain messages, and hold so many times more values than those have fields."""


class Servicer(InferenceServicer):
    """KServe's servicer without the two calls by which anyone could take the model away from everyone."""

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        """Refuses."""
        raise Unimplemented("this service loads its model itself")

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        """Refuses."""
        raise Unimplemented("this service cannot be unloaded")


class Plane:
    """The protocol for some models.

    Args:
        models: They.
        reception: How messages are taken.
    """

    def __init__(self, models: Sequence[Model], reception: Reception) -> None:
        repository = ModelRepository()
        for model in models:
            repository.update(model)
        self._reception = reception
        self._plane = DataPlane(model_registry=repository)
        self._servicer = Servicer(self._plane, ModelRepositoryExtension(model_registry=repository))

    async def answer(self, method: str, request: bytes, context: Any) -> bytes:
        """Answers one gRPC call."""
        kind = getattr(oip_pb2, f"{method}Request")
        parsed = await self._reception.parse(f"/{OIP_SERVICE}/{method}", request, kind, HOLD.get())
        del request
        answered = await getattr(self._servicer, method)(parsed, context)
        return await self._reception.pool.run(_serialized, answered)

    def mount(self, app: FastAPI) -> None:
        """Adds the REST endpoints; inference first, before KServe's own, which parses on the event loop."""
        app.add_api_route("/v2/models/{model_name}/infer", self._infer, methods=["POST"], response_model=None)
        register_v2_endpoints(app, self._plane, None)
        app.add_exception_handler(ModelNotReady, model_not_ready_handler)
        app.add_exception_handler(ServerNotReady, server_not_ready_handler)

    async def _infer(self, request: Request, model_name: str) -> Response:
        body = await request.body()
        length = request.headers.get(JSON_LENGTH, str(len(body)))
        if not length.isdecimal() or int(length) > len(body):
            raise UsageError(f"{JSON_LENGTH} must be the length of the JSON before the binary data")
        parsed = await self._reception.pool.run(self._parse, body, int(length), model_name, cost=int(length))
        del body
        answered, _ = await self._plane.infer(model_name=model_name, request=parsed, headers=dict(request.headers))
        content, headers = await self._reception.pool.run(self._encode, model_name, answered, dict(request.headers))
        return Response(content, media_type="application/json", headers=headers)

    def _parse(self, body: bytes, length: int, model_name: str) -> InferRequest:
        limits = Limits(REST_FACTOR * self._reception.limits.elements)
        if length > REST_FACTOR * self._reception.plain:
            raise LimitExceeded(
                f"the JSON of a request may have {REST_FACTOR * self._reception.plain} bytes; this one has {length}. "
                f"Send tensors as binary data (header {JSON_LENGTH})"
            )
        check_json(body[:length], limits)
        try:
            return InferRequest.from_bytes(body, length, model_name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                "expected an inference request of Open Inference Protocol V2: inputs, each with name, "
                "shape, datatype and data"
            ) from error

    def _encode(self, model_name: str, answered: Any, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        content, more = self._plane.encode(model_name, answered, headers, {})
        kept = {name: value for name, value in more.items() if name.lower() == JSON_LENGTH}
        return content if isinstance(content, bytes) else orjson.dumps(content), kept


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())
