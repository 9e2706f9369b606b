"""Answers of the Open Inference Protocol V2: the outputs that were asked for, as JSON, as binary data, or by gRPC.

A model hands over arrays. They become bytes in a thread, JSON in pieces, because serialising holds the interpreter's
lock; how many bytes is known, and reserved, before.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from kserve import InferOutput, InferRequest, InferResponse
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2

from eoforge.errors import LimitExceeded, UsageError
from services._runtime.oip.tensors import DATATYPES, MAX_NAME
from services._runtime.settings import RuntimeSettings
from services._runtime.wire import field_head

VERSION = "1"
"""The one version of each model: that of its inputs and outputs."""
VALUE_BYTES, TEXT_COPIES = 40, 3
"""Upper bounds of what an answer in JSON takes: per number, its piece and its place in the answer; per byte of text."""
PIECE = 8192
"""Values that are serialised at once, in less than a millisecond."""
_RAW = oip_pb2.ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number
_NOT_OFFERED = ("classification", "shared_memory_region")
_ELSEWHERE = (
    "Ask for binary data (parameter binary_data of an output, or binary_data_output of the request), or use gRPC"
)


def response(name: str, payload: InferRequest, arrays: Mapping[str, Any]) -> InferResponse:
    """Response of model ``name`` with ``arrays`` by output name; in JSON, str are texts and bytes are base64."""
    outputs = [InferOutput(key, list(a.shape), DATATYPES[a.dtype.name], a) for key, a in arrays.items()]
    return InferResponse(payload.id or uuid.uuid4().hex, name, outputs, VERSION)


def forms_of(payload: InferRequest, names: Sequence[str]) -> dict[str, bool]:
    """Outputs that were asked for, in that order, and whether each goes as binary data; by gRPC all do.

    Args:
        payload: The request.
        names: Outputs of the model, all of which go out if none is named.

    Raises:
        UsageError: An output is unknown or named twice, or a parameter asks for what is not offered.
    """
    default = flag(payload.parameters, "binary_data_output", False) or payload.from_grpc
    if not payload.request_outputs:
        return dict.fromkeys(names, default)
    forms: dict[str, bool] = {}
    for output in payload.request_outputs:
        if output.name not in names:
            raise UsageError(f"the model has no output {output.name[:MAX_NAME]!r}; it has {', '.join(names)}")
        if output.name in forms:
            raise UsageError(f"output {output.name!r} is asked for twice")
        parameters = output.parameters or {}
        for refused in _NOT_OFFERED:
            if refused in parameters:
                raise UsageError(f"output {output.name!r}: parameter {refused} is not offered by this service")
        forms[output.name] = payload.from_grpc or flag(parameters, "binary_data", default)
    return forms


def require_json_fits(payload: InferRequest, values: Mapping[str, int], settings: RuntimeSettings) -> None:
    """Check of an answer before the work for it is done.

    Args:
        payload: The request.
        values: Numbers or texts of each output.
        settings: Limits.

    Raises:
        LimitExceeded: The outputs that go as JSON hold too many.
        UsageError: As :func:`forms_of`.
    """
    forms = forms_of(payload, list(values))
    _require(sum(values[name] for name, binary in forms.items() if not binary), 0, settings)


def bytes_needed(answered: InferResponse, forms: Mapping[str, bool], settings: RuntimeSettings) -> int:
    """Upper bound of the memory that making the answer takes.

    Raises:
        LimitExceeded: The part in JSON is too large.
    """
    size = values = text = 0
    for output, binary in _chosen(answered, forms):
        array = output.data
        if binary:
            size += array.nbytes if array.dtype != object else sum(4 + len(_bytes(item)) for item in array.flat)
        else:
            values += array.size
            text += sum(len(_bytes(item)) for item in array.flat) if array.dtype == object else 0
    _require(values, text, settings)
    return size + VALUE_BYTES * (values + PIECE) + TEXT_COPIES * text


def rest_body(answered: InferResponse, forms: Mapping[str, bool]) -> tuple[bytes, int | None]:
    """Body of a REST response and, if binary data follow the JSON, the length of the JSON.

    Raises:
        UsageError: A number that JSON cannot say would go as JSON.
    """
    head = {"model_name": answered.model_name, "model_version": answered.model_version, "id": answered.id}
    text, tails = [orjson.dumps(head)[:-1], b',"outputs":['], []
    for output, binary in _chosen(answered, forms):
        entry: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        if binary:
            tails.append(_raw(output.data))
            entry["parameters"] = {"binary_data_size": len(tails[-1])}
            text += [orjson.dumps(entry), b","]
        else:
            text += [orjson.dumps(entry)[:-1], b',"data":[', *_json(output), b"]}", b","]
    if text[-1] == b",":
        text.pop()
    text.append(b"]}")
    length = sum(map(len, text)) if tails else None
    return b"".join([*text, *tails]), length


def grpc_message(answered: InferResponse, forms: Mapping[str, bool]) -> bytes:
    """Serialised ModelInferResponse; tensors are copied once, which takes the least time and memory."""
    message = oip_pb2.ModelInferResponse(
        model_name=answered.model_name, model_version=answered.model_version, id=answered.id
    )
    raws = []
    for output, _ in _chosen(answered, forms):
        message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        raws.append(_raw(output.data))
    heads = [field_head(_RAW, len(raw)) for raw in raws]
    return b"".join([message.SerializeToString(), *(part for pair in zip(heads, raws, strict=True) for part in pair)])


def _chosen(answered: InferResponse, forms: Mapping[str, bool]) -> Iterator[tuple[InferOutput, bool]]:
    """Outputs in the order of ``forms``; if none was named, those that the model made."""
    made = {output.name: output for output in answered.outputs}
    for name, binary in forms.items():
        if name in made:
            yield made[name], binary


def require_made(answered: InferResponse, payload: InferRequest) -> None:
    """Check that each output that was named exists: some depend on the request.

    Raises:
        UsageError: One does not.
    """
    made = [output.name for output in answered.outputs]
    for output in payload.request_outputs or ():
        if output.name not in made:
            raise UsageError(f"this request makes no output {output.name!r}; it makes {', '.join(made)}")


def _require(values: int, text: int, settings: RuntimeSettings) -> None:
    if values > settings.max_json_values or text > settings.max_json_bytes:
        raise LimitExceeded(
            f"an answer in JSON may hold {settings.max_json_values} values and {settings.max_json_bytes} bytes of "
            f"text; this one has {values} values" + (f" and {text} bytes" if text else "") + f". {_ELSEWHERE}"
        )


def flag(parameters: Mapping[str, Any] | None, name: str, default: bool) -> bool:
    """Truth value of a parameter.

    Raises:
        UsageError: It is of another type.
    """
    found = (parameters or {}).get(name, default)
    if not isinstance(found, bool):
        raise UsageError(f"parameter {name} must be true or false")
    return found


def _json(output: InferOutput) -> Iterator[bytes]:
    """Values as JSON, without the brackets around them, in pieces."""
    flat = np.ascontiguousarray(output.data).reshape(-1)
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        if start:
            yield b","
        if piece.dtype == object and isinstance(piece[0], bytes):
            for number, item in enumerate(piece):
                yield b'%b"%b"' % (b"," if number else b"", base64.b64encode(item))
            continue
        if piece.dtype == object:
            yield orjson.dumps(piece.tolist())[1:-1]
            continue
        if piece.dtype.kind == "f" and not np.isfinite(piece).all():
            raise UsageError(f"output {output.name!r} holds NaN or infinity, which JSON cannot say. {_ELSEWHERE}")
        yield orjson.dumps(piece, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def _raw(array: Any) -> Any:
    """Binary data of a tensor: row-major little-endian numbers, or texts, each after its length as uint32."""
    if array.dtype == object:
        out = bytearray()
        for item in map(_bytes, array.flat):
            out += len(item).to_bytes(4, "little")
            out += item
        return out
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _bytes(item: bytes | str) -> bytes:
    return item.encode() if isinstance(item, str) else item
