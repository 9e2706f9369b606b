"""Models behind the Open Inference Protocol V2, and its gRPC calls.

KServe's own data plane and servicer are not used: they build answers on the event loop, do not keep to the outputs that
were asked for, know no versions, and let callers load and unload models.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog
from kserve import InferRequest, InferResponse, Model
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2

from eoforge.api.oip.v1 import oip_pb2 as further_pb2
from eoforge.errors import NotFound, UsageError
from services._runtime.admission import RESERVATION
from services._runtime.errors import describe, forget, report
from services._runtime.oip import answers
from services._runtime.oip.requests import request_of_message
from services._runtime.oip.tensors import MAX_NAME
from services._runtime.ordered import in_order
from services._runtime.wire import OIP_SERVICE, field_head

if TYPE_CHECKING:
    from services._runtime.interceptor import Reception

STREAM_WINDOW = 16
"""Requests of one ModelStreamInfer that are worked on at the same time."""
_INFER_RESPONSE = further_pb2.ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number
SERVER = {"name": "eoforge", "version": version("eoforge"), "extensions": ["binary_tensor_data", "model_repository"]}


class Plane:
    """Models by name, and the gRPC calls that concern them.

    Args:
        models: Models.
        reception: Reception of messages; its threads also make the answers.
        closed: Whether the service is draining, or waits for what it serves; no model is ready then.
    """

    def __init__(self, models: Sequence[Model], reception: Reception, closed: Callable[[], bool]) -> None:
        self.reception, self._closed = reception, closed
        self._models = {model.name: model for model in models}
        self._calls: dict[str, tuple[Any, Callable[[Any], Any]]] = {
            "ServerMetadata": (oip_pb2.ServerMetadataRequest, lambda _: oip_pb2.ServerMetadataResponse(**SERVER)),
            "ModelReady": (oip_pb2.ModelReadyRequest, self._model_ready),
            "ModelMetadata": (oip_pb2.ModelMetadataRequest, self._model_metadata),
            "RepositoryIndex": (further_pb2.RepositoryIndexRequest, self._repository_index),
        }

    def model(self, name: str, asked: str = "") -> Model:
        """Model of a name and, unless that is left out, a version.

        Raises:
            NotFound: There is no such model or version.
        """
        if name not in self._models:
            raise NotFound(f"there is no model {name[:MAX_NAME]!r}; GET /v2/models lists the models")
        if asked not in ("", answers.VERSION):
            raise NotFound(f"model {name} has version {answers.VERSION}; got {asked[:MAX_NAME]!r}")
        return self._models[name]

    def ready(self, name: str, asked: str = "") -> bool:
        """Whether a model is ready.

        Raises:
            NotFound: There is no such model or version.
        """
        return bool(self.model(name, asked).ready and not self._closed())

    def names(self) -> list[str]:
        """Names of the models."""
        return list(self._models)

    def metadata(self, name: str, asked: str = "") -> dict[str, Any]:
        """Metadata of a model: versions, inputs and outputs, each with its parameters.

        Raises:
            NotFound: There is no such model or version.
        """
        model = self.model(name, asked)
        return {
            "name": name,
            "versions": [answers.VERSION],
            "platform": "",
            "inputs": model.get_input_types(),
            "outputs": model.get_output_types(),
        }

    def index(self, *, ready: bool) -> list[dict[str, str]]:
        """Entries of the repository's index; with ``ready``, of models that are."""
        states = {name: "READY" if self.ready(name) else "UNAVAILABLE" for name in self._models}
        return [
            {"name": name, "version": answers.VERSION, "state": state, "reason": ""}
            for name, state in states.items()
            if state == "READY" or not ready
        ]

    async def infer(
        self, request: InferRequest, make: Callable[[InferResponse, dict[str, bool]], Any]
    ) -> tuple[Any, int]:
        """Answer of a model, made in a thread after its bytes were reserved.

        Args:
            request: The request; its model's version is looked at, too.
            make: Function from the model's response and the forms of its outputs to the answer.

        Returns:
            The answer, and the bytes reserved for it.

        Raises:
            NotFound: There is no such model or version.
            UsageError: An input or output is unknown, or the model refuses the request.
            LimitExceeded: The answer is too large for JSON.
        """
        pool, settings = self.reception.pool, self.reception.settings
        model = self.model(request.model_name, request.model_version or "")
        known = [entry["name"] for entry in model.get_input_types()]
        given = [tensor.name for tensor in request.inputs]
        for name in given:
            if name not in known:
                raise UsageError(f"the model has no input {name[:MAX_NAME]!r}; it has {', '.join(known)}")
            if given.count(name) > 1:
                raise UsageError(f"input {name!r} is given twice")
        forms = answers.forms_of(request, [entry["name"] for entry in model.get_output_types()])
        answered, _ = await model(request)
        answers.require_made(answered, request)
        size = await pool.run(answers.bytes_needed, answered, forms, settings)
        await RESERVATION.get().take(size)
        return await pool.run(make, answered, forms, cost=size), size

    async def answer(self, method: str, request: bytes) -> bytes:
        """Answers one gRPC call."""
        if method == "ModelInfer":
            return await self._infer(await self._parsed(request))
        kind, function = self._calls[method]
        parsed = await self.reception.parse(f"/{OIP_SERVICE}/{method}", request, kind, RESERVATION.get())
        return bytes(function(parsed).SerializeToString())

    async def stream(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """ModelStreamInfer: answers in the order of the requests; a failed one does not end the stream."""
        async with aclosing(in_order(requests, self._infer_or_say_why, STREAM_WINDOW)) as found:
            async for one in found:
                yield one

    async def _parsed(self, request: bytes) -> InferRequest:
        kind, method = oip_pb2.ModelInferRequest, f"/{OIP_SERVICE}/ModelInfer"
        message = await self.reception.parse(method, request, kind, RESERVATION.get())
        return await self.reception.pool.run(request_of_message, message)

    async def _infer(self, request: InferRequest) -> bytes:
        made, _ = await self.infer(request, answers.grpc_message)
        RESERVATION.get().resize(len(made))
        return bytes(made)

    async def _infer_or_say_why(self, request: bytes) -> bytes:
        identifier = ""
        try:
            parsed = await self._parsed(request)
            identifier = parsed.id or ""
            made = await self._infer(parsed)
            return field_head(_INFER_RESPONSE, len(made)) + made
        except Exception as error:
            problem = describe(error, structlog.contextvars.get_contextvars().get("request_id", ""))
            report(problem, error)
            forget(error)
            answered = further_pb2.ModelStreamInferResponse(
                error_message=f"{problem.reason}: {problem.message}",
                infer_response=oip_pb2.ModelInferResponse(id=identifier).SerializeToString(),
            )
            return bytes(answered.SerializeToString())

    def _model_ready(self, request: Any) -> Any:
        return oip_pb2.ModelReadyResponse(ready=self.ready(request.name, request.version))

    def _model_metadata(self, request: Any) -> Any:
        found = self.metadata(request.name, request.version)
        message = further_pb2.ModelMetadataResponse(name=found["name"], versions=found["versions"])
        for side in ("inputs", "outputs"):
            for entry in found[side]:
                tensor = getattr(message, side).add(
                    name=entry["name"], datatype=entry["datatype"], shape=entry["shape"]
                )
                for key, value in entry["parameters"].items():
                    tensor.parameters[key].string_param = value
        return message

    def _repository_index(self, request: Any) -> Any:
        models = [further_pb2.ModelIndex(**entry) for entry in self.index(ready=request.ready)]
        return further_pb2.RepositoryIndexResponse(models=models)
