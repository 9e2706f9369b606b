"""Layout of safetensors files: byte ranges of tensors, computed from the header.

Models and updates are transferred as chunks of safetensors files. Coordinator and silos read slices by byte range, so
neither holds a whole model. Tensors are laid out by falling element size, then by name: equal
tensors give equal bytes, and no element straddles two chunks.
"""

from __future__ import annotations

import json
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eoforge.errors import DataRefused, LimitExceeded

Array = npt.NDArray[Any]
Role = Literal["weight", "norm", "statistic", "counter", "state"]
"""Role of a tensor in a model: trained weight, gamma or beta of a normalisation (``norm``), running statistic (float
buffer), counter (integer buffer, never transferred), or state that belongs to no model."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape, NumPy dtype name and role of a tensor."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    role: Role = "weight"

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Size of the elements in bytes."""
        return self.size * np.dtype(self.dtype).itemsize


Specs = Mapping[str, TensorSpec]

CHUNK_BYTES = 4 << 20
MAX_HEADER_BYTES = CHUNK_BYTES - 8
"""The header must end inside the first chunk; room for some 30,000 tensors."""
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 16
ROLES_KEY = "eoforge.roles"
_PREFIX = struct.Struct("<Q")
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_CODES = {name: code for code, name in _DTYPES.items()}
_ROLES = frozenset({"weight", "norm", "statistic", "counter", "state"})


@dataclass(frozen=True)
class Segment:
    """Elements ``[start, stop)`` of a tensor in a byte range of a file, from byte ``offset`` of the range."""

    name: str
    start: int
    stop: int
    offset: int


@dataclass(frozen=True)
class Layout:
    """Layout of a file: its tensors in the order of their bytes.

    Attributes:
        header: Bytes before the first tensor, length prefix included.
        specs: Shape, dtype and role by name, in file order.
        offsets: First byte of each tensor in the file.
        length: Size of the file in bytes.
    """

    header: bytes
    specs: Specs
    offsets: Mapping[str, int]
    length: int

    @classmethod
    def of(cls, specs: Specs) -> Layout:
        """Layout of a file of these tensors.

        Raises:
            DataRefused: A dtype cannot be stored.
            LimitExceeded: The header would not fit into a chunk.
        """
        unknown = sorted({spec.dtype for spec in specs.values()} - set(_CODES))
        if unknown:
            raise DataRefused(f"tensors may have the dtypes {', '.join(_CODES)}; got {', '.join(unknown)}. Cast them")
        order = sorted(specs, key=lambda name: (-np.dtype(specs[name].dtype).itemsize, name))
        entries: dict[str, object] = {}
        roles = {name: specs[name].role for name in order if specs[name].role != "weight"}
        if roles:
            entries["__metadata__"] = {ROLES_KEY: json.dumps(roles, sort_keys=True)}
        position, starts = 0, {}
        for name in order:
            spec = specs[name]
            starts[name], end = position, position + spec.nbytes
            entries[name] = {
                "dtype": _CODES[spec.dtype],
                "shape": list(spec.shape),
                "data_offsets": [position, end],
            }
            position = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        if len(text) > MAX_HEADER_BYTES:
            raise LimitExceeded(f"the names of {len(specs)} tensors take {len(text)} bytes; {MAX_HEADER_BYTES} fit")
        header = _PREFIX.pack(len(text)) + text
        offsets = {name: len(header) + begin for name, begin in starts.items()}
        return cls(header, {name: specs[name] for name in order}, offsets, len(header) + position)

    @classmethod
    def parse(cls, start: bytes | memoryview, length: int) -> Layout:
        """Layout from the header of an untrusted file; every value is checked.

        Args:
            start: First bytes of the file, with the whole header at least.
            length: Length of the whole file.

        Raises:
            DataRefused: The file is no safetensors file, or its tensors overlap, leave gaps or are not aligned.
            LimitExceeded: The header or the number of tensors is too large.
        """
        if len(start) < _PREFIX.size:
            raise DataRefused(f"expected a safetensors file; {length} bytes are too few")
        (size,) = _PREFIX.unpack_from(start)
        if size > MAX_HEADER_BYTES:
            raise LimitExceeded(f"the header claims {size} bytes; at most {MAX_HEADER_BYTES} are read")
        if len(start) < _PREFIX.size + size:
            raise DataRefused(f"the header claims {size} bytes, but the file ends before")
        try:
            entries = json.loads(bytes(start[_PREFIX.size : _PREFIX.size + size]))
        except (ValueError, RecursionError) as error:
            raise DataRefused(f"the header is no JSON: {error}. Expected a safetensors file") from error
        if not isinstance(entries, dict) or len(entries) > MAX_TENSORS:
            raise LimitExceeded(f"the header must be an object of at most {MAX_TENSORS} tensors")
        roles = _roles(entries.pop("__metadata__", None))
        base = _PREFIX.size + size
        found = [_entry(name, value, roles.get(name, "weight")) for name, value in entries.items()]
        found.sort(key=lambda item: item[2])
        position = 0
        for name, spec, begin in found:
            if begin != position:
                raise DataRefused(f"tensor {name!r} starts at byte {begin}, expected {position}: no gaps, no overlaps")
            if (base + begin) % np.dtype(spec.dtype).itemsize:
                raise DataRefused(f"tensor {name!r} is not aligned; order tensors by falling element size")
            position += spec.nbytes
        if base + position != length:
            raise DataRefused(f"the header describes {base + position} bytes, the file has {length}")
        header = bytes(start[:base])
        return cls(header, {n: s for n, s, _ in found}, {n: base + b for n, _, b in found}, length)

    def segments(self, first: int, last: int) -> Iterator[Segment]:
        """Parts of tensors in bytes ``[first, last)`` of the file, both on element boundaries."""
        names, starts = self._order
        for index in range(max(bisect_right(starts, first) - 1, 0), len(names)):
            name, begin = names[index], starts[index]
            if begin >= last:
                break
            spec = self.specs[name]
            item = np.dtype(spec.dtype).itemsize
            low, high = max(begin, first), min(begin + spec.nbytes, last)
            if low < high:
                yield Segment(name, (low - begin) // item, (high - begin) // item, low - first)

    @cached_property
    def _order(self) -> tuple[list[str], list[int]]:
        """Names and first bytes of tensors that are not empty, in file order."""
        names = [name for name, spec in self.specs.items() if spec.nbytes]
        return names, [self.offsets[name] for name in names]


def chunk_count(length: int) -> int:
    """Number of chunks of a file of ``length`` bytes."""
    return -(-length // CHUNK_BYTES)


def chunk_span(index: int, length: int) -> tuple[int, int]:
    """First byte and end of a chunk, in a file of ``length`` bytes."""
    return index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, length)


def read_file(path: str | Path) -> dict[str, Array]:
    """Memory-mapped tensors of a trusted file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        layout = Layout.parse(file.read(min(size, CHUNK_BYTES)), size)
    data = np.memmap(path, np.uint8, "r")
    return {
        name: data[layout.offsets[name] : layout.offsets[name] + spec.nbytes].view(spec.dtype).reshape(spec.shape)
        for name, spec in layout.specs.items()
    }


def read_specs(path: str | Path) -> Specs:
    """Shape, dtype and role of each tensor of a file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        return Layout.parse(file.read(min(size, CHUNK_BYTES)), size).specs


def write_file(path: str | Path, tensors: Mapping[str, Array], roles: Mapping[str, Role] | None = None) -> None:
    """Writes a file of tensors; the file appears under its name when it is complete."""
    specs = {
        name: TensorSpec(array.shape, array.dtype.name, (roles or {}).get(name, "weight"))
        for name, array in tensors.items()
    }
    layout = Layout.of(specs)
    partial = f"{path}.partial"
    with open(partial, "wb") as file:
        file.write(layout.header)
        for name in layout.specs:
            file.write(np.ascontiguousarray(tensors[name]).data)
    os.replace(partial, path)


def _roles(metadata: object) -> dict[str, str]:
    text = metadata.get(ROLES_KEY) if isinstance(metadata, dict) else None
    if text is None:
        return {}
    try:
        roles = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise DataRefused(f"{ROLES_KEY} in the header's metadata is no JSON: {error}") from error
    if not isinstance(roles, dict) or not all(isinstance(r, str) and r in _ROLES for r in roles.values()):
        raise DataRefused(f"{ROLES_KEY} must map tensors to one of {', '.join(sorted(_ROLES))}")
    return roles


def _entry(name: str, value: object, role: str) -> tuple[str, TensorSpec, int]:
    if not isinstance(value, dict):
        raise DataRefused(f"tensor {name!r} must be described by an object; got {type(value).__name__}")
    dtype = value.get("dtype")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise DataRefused(f"tensor {name!r} has dtype {dtype!r:.80}; expected one of {', '.join(_DTYPES)}")
    shape, offsets = _naturals(value.get("shape")), _naturals(value.get("data_offsets"))
    if shape is None or offsets is None or len(shape) > MAX_DIMENSIONS or len(offsets) != 2:
        raise DataRefused(f"tensor {name!r} needs a shape and two data_offsets of natural numbers; got {value!r:.200}")
    count = 1
    for extent in shape:  # Python integers: a product that overflows would pass every check below
        count *= extent
    if count * np.dtype(_DTYPES[dtype]).itemsize != offsets[1] - offsets[0]:
        raise DataRefused(f"tensor {name!r} of shape {shape} and {dtype} does not fill bytes {offsets}")
    return name, TensorSpec(tuple(shape), _DTYPES[dtype], role), offsets[0]  # type: ignore[arg-type]  # checked role


def _naturals(value: object) -> list[int] | None:
    return value if isinstance(value, list) and all(type(v) is int and v >= 0 for v in value) else None
