"""Inputs of the Open Inference Protocol V2, with strict checks of foreign data, and descriptions of tensors.

Numbers are taken as they are or refused: no rounding, no wrap-around, no null. Messages never quote data of a tensor.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from kserve import InferRequest

from eoforge.data.backscatter import DECIBELS
from eoforge.data.bands import BandGroup
from eoforge.errors import LimitExceeded, UsageError

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "int32": "INT32",
    "int64": "INT64",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}
"""NumPy dtype names to the protocol's."""
_DTYPES = {datatype: np.dtype(name) for name, datatype in DATATYPES.items()}
MAX_DIMENSIONS = 8
MAX_NAME = 80
"""Characters of a foreign name in a message."""
_MEANING = {
    "uint16": {"unit": "digital number: reflectance x 10000", "range": "1 to 65535; 0 is no data"},
    "float32": {"unit": "dB", "range": "{:g} to {:g}".format(*DECIBELS)},
}
"""What the pixels of a sensor are, by their type."""


def tensor(name: str, datatype: str, *shape: int, **parameters: str) -> dict[str, Any]:
    """Description of an input or output for the metadata of a model; ``-1`` is any size."""
    return {"name": name, "datatype": datatype, "shape": list(shape), "parameters": parameters}


def band_tensor(group: BandGroup) -> dict[str, Any]:
    """Description of patches ``[N, C, H, W]`` with the bands of a group: their order, grid, unit and range."""
    bands, grid = ",".join(group.bands), f"{group.resolution} m"
    return tensor(
        group.column, DATATYPES[group.dtype], -1, *group.shape, bands=bands, grid=grid, **_MEANING[group.dtype]
    )


def input_array(payload: InferRequest, name: str, datatype: str, shape: tuple[int, ...], limit: int) -> Any:
    """Input as an array ``[N, *shape]`` with N of 1 to ``limit``.

    Raises:
        UsageError: The input is missing, has another type or shape, or its data do not fit them.
        LimitExceeded: The input holds too many entries.
    """
    found = payload.get_input_by_name(name)
    if found is None:
        raise UsageError(f"input {name!r} is missing; the metadata of the model list the inputs")
    given = tuple(int(side) for side in found.shape)
    if found.datatype != datatype or given[1:] != shape or len(given) != 1 + len(shape):
        sides = ", ".join(map(str, ("N", *shape)))
        came = f"{found.datatype if found.datatype in _DTYPES else 'another type'} {list(given[:MAX_DIMENSIONS])}"
        raise UsageError(f"input {name!r} must be {datatype} [{sides}]; got {came}")
    if given[0] < 1:
        raise UsageError(f"input {name!r} needs at least one entry; got {given[0]}")
    if given[0] > limit:
        raise LimitExceeded(f"input {name!r} may hold 1 to {limit} entries; got {given[0]}")
    count = math.prod(given)
    raw = found._raw_data
    if datatype == "BYTES":
        texts = _flat(found.data, name) if raw is None else _texts(raw, name)
        values = list(islice(texts, count + 1))
        if not all(isinstance(value, bytes | str) for value in values):
            raise UsageError(f"the data of input {name!r} must be texts")
        array = np.empty(len(values), dtype=object)
        array[:] = values
    elif raw is not None:
        if len(raw) != count * _DTYPES[datatype].itemsize:
            raise UsageError(f"the data of input {name!r} do not fill its shape {list(given)}")
        array = np.frombuffer(raw, _DTYPES[datatype])
    else:
        array = _numbers(list(islice(_flat(found.data, name), count + 1)), name, _DTYPES[datatype])
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


def _texts(raw: bytes, name: str) -> Iterator[bytes]:
    """Elements of a BYTES tensor, each after its length as uint32."""
    at = 0
    while at < len(raw):
        size = struct.unpack_from("<I", raw, at)[0] if at + 4 <= len(raw) else len(raw)
        if at + 4 + size > len(raw):
            raise UsageError(f"the data of input {name!r} must be texts, each after its length in 4 bytes")
        yield bytes(raw[at + 4 : at + 4 + size])
        at += 4 + size


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
