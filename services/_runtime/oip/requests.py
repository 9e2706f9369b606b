"""Requests of the Open Inference Protocol V2: from the body of a REST request, and from a gRPC message."""

from __future__ import annotations

from typing import Any

import orjson
from kserve import InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput, to_http_parameters

from eoforge.errors import UsageError
from services._runtime.oip.tensors import MAX_DIMENSIONS

MAX_TENSORS, MAX_TEXT = 64, 256
FORM = (
    "expected an inference request of Open Inference Protocol V2: inputs, each with name, shape, datatype and data "
    "(or binary_data_size)"
)


def request_of(body: bytes, length: int, model_name: str) -> InferRequest:
    """Inference request of a REST body.

    Args:
        body: JSON, then binary data of tensors.
        length: Bytes of the JSON.
        model_name: Name of the model.

    Raises:
        UsageError: The body is no inference request.
    """
    try:
        found = orjson.loads(memoryview(body)[:length])
    except orjson.JSONDecodeError as error:
        raise UsageError("the body is no JSON") from error
    if not isinstance(found, dict):
        raise UsageError(FORM)
    inputs, end = [], length
    for entry in _objects(found.get("inputs")):
        parameters = _parameters(entry)
        tensor = InferInput(_text(entry, "name"), _shape(entry), _text(entry, "datatype"), parameters=parameters)
        if isinstance(entry.get("data"), list):
            tensor.data = entry["data"]
        else:
            size = parameters.get("binary_data_size")
            if type(size) is not int or not 0 <= size <= len(body) - end:
                raise UsageError(f"{FORM}; binary_data_size must be the number of bytes after the JSON")
            tensor._raw_data, end = body[end : end + size], end + size
        inputs.append(tensor)
    outputs = [
        RequestedOutput(_text(entry, "name"), _parameters(entry)) for entry in _objects(found.get("outputs", []))
    ]
    identifier = None if found.get("id") is None else _text(found, "id")
    return InferRequest(model_name, inputs, identifier, parameters=_parameters(found), request_outputs=outputs or None)


def _objects(found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found) or len(found) > MAX_TENSORS:
        raise UsageError(f"{FORM}; at most {MAX_TENSORS} inputs and outputs")
    return found


def _text(entry: dict[str, Any], name: str) -> str:
    text = entry.get(name)
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise UsageError(f"{FORM}; {name} must be a text of at most {MAX_TEXT} characters")
    return text


def _shape(entry: dict[str, Any]) -> list[int]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(type(side) is int for side in shape):
        raise UsageError(f"{FORM}; a shape is a list of at most {MAX_DIMENSIONS} integers")
    return shape


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise UsageError(f"{FORM}; parameters must be an object")
    return parameters


def request_of_message(message: Any) -> InferRequest:
    """Inference request of a ModelInferRequest.

    Raises:
        UsageError: Inputs and their data do not belong together, or there are too many.
    """
    raw = len(message.raw_input_contents)
    if len(message.inputs) > MAX_TENSORS or len(message.outputs) > MAX_TENSORS:
        raise UsageError(f"{FORM}; at most {MAX_TENSORS} inputs and outputs")
    if raw and raw != len(message.inputs):
        raise UsageError(f"raw_input_contents must hold the data of every input; got {raw} for {len(message.inputs)}")
    if raw and any(tensor.HasField("contents") for tensor in message.inputs):
        raise UsageError("an input has its data in contents or in raw_input_contents; got both")
    request = InferRequest.from_grpc(message)
    request.parameters = to_http_parameters(message.parameters)
    return request
