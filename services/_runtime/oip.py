"""Tensors of the Open Inference Protocol V2 in and out, their declarations checked before their data are touched."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse

from eoforge.errors import LimitExceeded, UsageError

DATATYPES = {"uint8": "UINT8", "uint16": "UINT16", "int32": "INT32", "float32": "FP32", "object": "BYTES"}
"""NumPy dtype names to the protocol's."""


def input_array(payload: InferRequest, name: str, datatype: str, shape: tuple[int, ...], most: int) -> Any:
    """One input as an array ``[N, *shape]`` with N of 1 to ``most``.

    Raises:
        UsageError: It is missing, or has another type or shape.
        LimitExceeded: It holds too many entries.
    """
    tensor = payload.get_input_by_name(name)
    if tensor is None:
        raise UsageError(f"input {name!r} is missing; GET /v2/models/{payload.model_name} lists the inputs")
    given = tuple(int(s) for s in tensor.shape)
    if tensor.datatype != datatype or given[1:] != shape or len(given) != 1 + len(shape):
        raise UsageError(
            f"input {name!r} must be {datatype} [N, {', '.join(map(str, shape))}]; got {tensor.datatype} {list(given)}"
        )
    if not 1 <= given[0] <= most:
        raise LimitExceeded(f"input {name!r} may hold 1 to {most} entries; got {given[0]}")
    try:
        return np.asarray(tensor.as_numpy()).reshape(given)
    except ValueError as error:
        raise UsageError(f"the data of input {name!r} do not fill its shape {list(given)}") from error


def response(name: str, payload: InferRequest, arrays: Mapping[str, Any]) -> InferResponse:
    """The answer of model ``name`` with ``arrays`` by output name."""
    outputs = []
    for key, array in arrays.items():
        output = InferOutput(key, list(array.shape), DATATYPES[array.dtype.name])
        output.set_data_from_numpy(array, binary_data=payload.from_grpc)
        outputs.append(output)
    return InferResponse(payload.id or uuid.uuid4().hex, name, outputs)
