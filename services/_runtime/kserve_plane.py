"""KServe itself: its data plane, gRPC servicer and REST endpoints, without what would harm a service of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from kserve import Model, ModelRepository
from kserve.errors import ModelNotReady, ServerNotReady, model_not_ready_handler, server_not_ready_handler
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints

from services._runtime.errors import Unimplemented


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
    """

    def __init__(self, models: Sequence[Model]) -> None:
        repository = ModelRepository()
        for model in models:
            repository.update(model)
        self._plane = DataPlane(model_registry=repository)
        self._servicer = Servicer(self._plane, ModelRepositoryExtension(model_registry=repository))

    async def answer(self, method: str, request: bytes, context: Any) -> bytes:
        """Answers one gRPC call."""
        parsed = getattr(oip_pb2, f"{method}Request").FromString(request)
        answered = await getattr(self._servicer, method)(parsed, context)
        return bytes(answered.SerializeToString())

    def mount(self, app: FastAPI) -> None:
        """Adds the REST endpoints."""
        register_v2_endpoints(app, self._plane, None)
        app.add_exception_handler(ModelNotReady, model_not_ready_handler)
        app.add_exception_handler(ServerNotReady, server_not_ready_handler)
