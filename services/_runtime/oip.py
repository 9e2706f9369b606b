"""Tensors of the Open Inference Protocol V2: requests, inputs and outputs, with strict checks of foreign data.

Numbers are taken as they are or refused: no rounding, no wrap-around, no null. Messages never quote data of a tensor.
"""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput

from eoforge.errors import LimitExceeded, UsageError

DATATYPES = {
    "uint8": "UINT8",
    "uint16": "UINT16",
    "int32": "INT32",
    "int64": "INT64",
    "float32": "FP32",
    "object": "BYTES",
}
"""NumPy dtype names to the protocol's."""
_DTYPES = {datatype: np.dtype(name) for name, datatype in DATATYPES.items()}
MAX_TENSORS, MAX_DIMENSIONS, MAX_TEXT = 64, 8, 256
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


def input_array(payload: InferRequest, name: str, datatype: str, shape: tuple[int, ...], limit: int) -> Any:
    """Input as an array ``[N, *shape]`` with N of 1 to ``limit``.

    Raises:
        UsageError: The input is missing, has another type or shape, or its data do not fit them.
        LimitExceeded: The input holds too many entries.
    """
    tensor = payload.get_input_by_name(name)
    if tensor is None:
        raise UsageError(f"input {name!r} is missing; the metadata of the model list the inputs")
    given = tuple(int(side) for side in tensor.shape)
    if tensor.datatype != datatype or given[1:] != shape or len(given) != 1 + len(shape):
        sides = ", ".join(map(str, ("N", *shape)))
        came = f"{tensor.datatype if tensor.datatype in _DTYPES else 'another type'} {list(given[:MAX_DIMENSIONS])}"
        raise UsageError(f"input {name!r} must be {datatype} [{sides}]; got {came}")
    if not 1 <= given[0] <= limit:
        raise LimitExceeded(f"input {name!r} may hold 1 to {limit} entries; got {given[0]}")
    count = math.prod(given)
    raw = tensor._raw_data
    if datatype == "BYTES":
        values = _texts(raw, name) if raw is not None else list(_flat(tensor.data, name))
        if not all(isinstance(value, bytes | str) for value in values):
            raise UsageError(f"the data of input {name!r} must be texts")
        array = np.empty(len(values), dtype=object)
        array[:] = values
    elif raw is not None:
        if len(raw) != count * _DTYPES[datatype].itemsize:
            raise UsageError(f"the data of input {name!r} do not fill its shape {list(given)}")
        array = np.frombuffer(raw, _DTYPES[datatype])
    else:
        array = _numbers(list(_flat(tensor.data, name)), name, _DTYPES[datatype])
    if array.size != count:
        raise UsageError(f"the data of input {name!r} do not fill its shape {list(given)}")
    return array.reshape(given)


def input_number(payload: InferRequest, name: str, datatype: str) -> float | int | None:
    """Number of an optional input of one entry, or None if the input is missing.

    Raises:
        UsageError: The input has another type or shape, or is not finite.
    """
    if payload.get_input_by_name(name) is None:
        return None
    value: float | int = input_array(payload, name, datatype, (), 1)[0].item()
    if not math.isfinite(value):
        raise UsageError(f"input {name!r} must be a finite number")
    return value


def input_texts(payload: InferRequest, name: str, limit: int) -> list[str]:
    """Texts of a BYTES input of 1 to ``limit`` entries.

    Raises:
        UsageError: The input is missing, or is no list of texts in UTF-8.
        LimitExceeded: The input holds too many entries.
    """
    values = input_array(payload, name, "BYTES", (), limit).tolist()
    try:
        return [value.decode() if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError as error:
        raise UsageError(f"the data of input {name!r} must be texts in UTF-8") from error


def _texts(raw: bytes, name: str) -> list[bytes]:
    """Elements of a BYTES tensor, each after its length as uint32."""
    found, at = [], 0
    while at < len(raw):
        size = struct.unpack_from("<I", raw, at)[0] if at + 4 <= len(raw) else len(raw)
        if at + 4 + size > len(raw):
            raise UsageError(f"the data of input {name!r} must be texts, each after its length in 4 bytes")
        found.append(bytes(raw[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def _flat(data: Any, name: str) -> Iterator[Any]:
    """Elements of nested lists; the JSON of a request is not deep."""
    if not isinstance(data, list):
        raise UsageError(f"input {name!r} has no data")
    for value in data:
        if isinstance(value, list):
            yield from _flat(value, name)
        else:
            yield value


def _numbers(values: list[Any], name: str, dtype: np.dtype[Any]) -> Any:
    """Array of numbers that are all of ``dtype`` as they are."""
    kinds = set(map(type, values))
    if dtype.kind == "f":
        if not kinds <= {int, float}:
            raise UsageError(f"the data of input {name!r} must be numbers")
        largest = float(np.finfo(dtype).max)
        if not all(-largest <= value <= largest for value in values):
            raise UsageError(f"the data of input {name!r} must be finite numbers of {dtype.name}")
    else:
        if not kinds <= {int}:
            raise UsageError(f"the data of input {name!r} must be integers")
        span = np.iinfo(dtype)
        if values and not span.min <= min(values) <= max(values) <= span.max:
            raise UsageError(f"the data of input {name!r} must be integers of {span.min} to {span.max}")
    return np.array(values, dtype)


def response(name: str, payload: InferRequest, arrays: Mapping[str, Any]) -> InferResponse:
    """Response of model ``name`` with ``arrays`` by output name."""
    outputs = []
    for key, array in arrays.items():
        output = InferOutput(key, list(array.shape), DATATYPES[array.dtype.name])
        output.set_data_from_numpy(array, binary_data=payload.from_grpc)
        outputs.append(output)
    return InferResponse(payload.id or uuid.uuid4().hex, name, outputs)
