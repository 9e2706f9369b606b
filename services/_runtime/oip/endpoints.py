"""REST endpoints of the Open Inference Protocol V2, with its extensions for binary data and the repository's index."""

from __future__ import annotations

import re
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from kserve import InferRequest

from eoforge.errors import LimitExceeded, UsageError
from services._runtime.admission import RESERVATION
from services._runtime.oip import answers
from services._runtime.oip.plane import SERVER, Plane
from services._runtime.oip.requests import request_of
from services._runtime.rest_coding import accepted, encoded
from services._runtime.wire import Limits, check_json

JSON_LENGTH = "inference-header-content-length"
JSON, BINARY = "application/json", "application/octet-stream"
MODEL = "/v2/models/{name}"


def add_endpoints(app: FastAPI, plane: Plane) -> None:
    """Adds the endpoints of a plane's models to an application."""
    endpoints = _Endpoints(plane)
    for path in (MODEL, MODEL + "/versions/{version}"):
        app.add_api_route(path, endpoints.metadata, methods=["GET"], response_model=None)
        app.add_api_route(f"{path}/ready", endpoints.ready, methods=["GET"], response_model=None)
        app.add_api_route(f"{path}/infer", endpoints.infer, methods=["POST"], response_model=None)
    app.add_api_route("/v2", endpoints.server, methods=["GET"], response_model=None)
    app.add_api_route("/v2/models", endpoints.models, methods=["GET"], response_model=None)
    app.add_api_route("/v2/repository/index", endpoints.index, methods=["POST"], response_model=None)


class _Endpoints:
    def __init__(self, plane: Plane) -> None:
        self._plane, self._reception = plane, plane.reception

    async def server(self) -> dict[str, Any]:
        return SERVER

    async def models(self) -> dict[str, Any]:
        return {"models": self._plane.names()}

    async def metadata(self, request: Request) -> dict[str, Any]:
        return self._plane.metadata(*_model(request))

    async def ready(self, request: Request) -> Response:
        name, version = _model(request)
        ready = self._plane.ready(name, version)
        return Response(orjson.dumps({"name": name, "ready": ready}), 200 if ready else 503, media_type=JSON)

    async def index(self, request: Request) -> list[dict[str, str]]:
        body = await request.body()
        if len(body) > answers.PIECE:
            raise LimitExceeded(f"a request for the index may have {answers.PIECE} bytes; this one has {len(body)}")
        try:
            asked = orjson.loads(body) if body else {}
        except orjson.JSONDecodeError as error:
            raise UsageError("the body is no JSON") from error
        ready = asked.get("ready", False) if isinstance(asked, dict) else None
        if not isinstance(ready, bool):
            raise UsageError('expected an empty body, or {"ready": true}')
        return self._plane.index(ready=ready)

    async def infer(self, request: Request) -> Response:
        pool, reservation = self._reception.pool, RESERVATION.get()
        parsed = await self._request(request)
        (content, length), size = await self._plane.infer(parsed, answers.rest_body)
        del parsed
        headers = {} if length is None else {JSON_LENGTH: str(length)}
        coding = accepted(request.headers.get("accept-encoding", ""), len(content))
        if coding is not None:
            headers["content-encoding"] = coding
            content = await pool.run(encoded, content, coding, cost=size)
        reservation.resize(len(content))
        return Response(content, media_type=JSON if length is None else BINARY, headers=headers)

    async def _request(self, request: Request) -> InferRequest:
        body = b"".join([part async for part in request.stream()])  # unlike body(), it leaves none in the request
        length = request.headers.get(JSON_LENGTH, str(len(body)))
        if not re.fullmatch("[0-9]{1,12}", length) or int(length) > len(body):
            raise UsageError(f"{JSON_LENGTH} must be the length of the JSON before the binary data")
        box = [body]
        del body
        return await self._reception.pool.run(self._parse, box, int(length), *_model(request), cost=int(length))

    def _parse(self, box: list[bytes], length: int, name: str, version: str) -> InferRequest:
        settings, body = self._reception.settings, box.pop()
        if length > settings.max_json_bytes:
            raise LimitExceeded(
                f"the JSON of a request may have {settings.max_json_bytes} bytes; this one has {length}. "
                f"Send tensors as binary data (header {JSON_LENGTH})"
            )
        check_json(body[:length], Limits(settings.max_json_values))
        parsed = request_of(body, length, name)
        parsed.model_version = version
        return parsed


def _model(request: Request) -> tuple[str, str]:
    return request.path_params["name"], request.path_params.get("version", "")
