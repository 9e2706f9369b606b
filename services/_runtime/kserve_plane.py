"""KServe's data plane, gRPC servicer and REST endpoints, without calls that load or unload models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request, Response
from kserve import InferRequest, InferResponse, Model, ModelRepository
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints

from eoforge.errors import LimitExceeded, UsageError
from services._runtime.admission import RESERVATION
from services._runtime.errors import Unimplemented
from services._runtime.oip import request_of
from services._runtime.wire import OIP_SERVICE, Limits, check_json

if TYPE_CHECKING:
    from services._runtime.interceptor import Reception

JSON_LENGTH = "inference-header-content-length"
REST_FACTOR = 8
"""Size of JSON relative to plain messages, and number of its values relative to their fields."""


class Servicer(InferenceServicer):
    """KServe's servicer without the two calls that load and unload models."""

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        """Refusal."""
        raise Unimplemented("this service loads its model itself")

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        """Refusal."""
        raise Unimplemented("this service cannot be unloaded")


class _ReadyPlane(DataPlane):
    """KServe's data plane, which is ready when its models are; KServe's own always says so."""

    async def ready(self) -> bool:
        """Whether all models are ready."""
        return all(model.ready for model in self.model_registry.get_models().values())


class Plane:
    """Protocol for models.

    Args:
        models: Models.
        reception: Reception of messages.
    """

    def __init__(self, models: Sequence[Model], reception: Reception) -> None:
        repository = ModelRepository()
        for model in models:
            repository.update(model)
        self._reception = reception
        self._plane = _ReadyPlane(model_registry=repository)
        self._servicer = Servicer(self._plane, ModelRepositoryExtension(model_registry=repository))

    async def answer(self, method: str, request: bytes, context: Any) -> bytes:
        """Answers one gRPC call."""
        kind = getattr(oip_pb2, f"{method}Request")
        parsed = await self._reception.parse(f"/{OIP_SERVICE}/{method}", request, kind, RESERVATION.get())
        del request
        answered = await getattr(self._servicer, method)(parsed, context)
        return await self._reception.pool.run(_serialized, answered)

    def mount(self, app: FastAPI) -> None:
        """Adds the REST endpoints; inference before KServe's own, which parses on the event loop."""
        app.add_api_route("/v2/models/{model_name}/infer", self._infer, methods=["POST"], response_model=None)
        for path in ("infer", "ready", ""):
            versions = f"/v2/models/{{model_name}}/versions/{{model_version}}/{path}".rstrip("/")
            app.add_api_route(versions, _no_versions, methods=["GET", "POST"], response_model=None)
        register_v2_endpoints(app, self._plane, None)

    async def _infer(self, request: Request, model_name: str) -> Response:
        body = await request.body()
        length = request.headers.get(JSON_LENGTH, str(len(body)))
        if not re.fullmatch("[0-9]{1,12}", length) or int(length) > len(body):
            raise UsageError(f"{JSON_LENGTH} must be the length of the JSON before the binary data")
        parsed = await self._reception.pool.run(self._parse, body, int(length), model_name, cost=int(length))
        del body
        answered, _ = await self._plane.infer(model_name=model_name, request=parsed, headers=dict(request.headers))
        content, headers = await self._reception.pool.run(_encoded, answered)
        return Response(content, media_type="application/json", headers=headers)

    def _parse(self, body: bytes, length: int, model_name: str) -> InferRequest:
        limits = Limits(REST_FACTOR * self._reception.limits.elements)
        limit = REST_FACTOR * self._reception.default_bytes
        if length > limit:
            raise LimitExceeded(
                f"the JSON of a request may have {limit} bytes; this one has {length}. "
                f"Send tensors as binary data (header {JSON_LENGTH})"
            )
        check_json(body[:length], limits)
        return request_of(body, length, model_name)


async def _no_versions() -> None:
    raise Unimplemented("models of this service have no versions; leave them out of the path")


def _encoded(answered: InferResponse) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a response; the caller's headers for cloud events are not followed."""
    content, length = answered.to_rest()
    headers = {} if length is None else {JSON_LENGTH: str(length)}
    return content if isinstance(content, bytes) else orjson.dumps(content), headers


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())
