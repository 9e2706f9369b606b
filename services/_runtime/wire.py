"""Limits on foreign protobuf and JSON, checked in one pass over the bytes before anything is built.

A parsed message can take a hundred times its bytes: an empty repeated message has two on the wire. So elements and
depth are counted first, with an end at the limit; the message's type says which bytes are text and which are messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from eoforge.errors import LimitExceeded, UsageError

OIP_SERVICE = "inference.GRPCInferenceService"
BYTES_PER_ELEMENT = 256
"""Upper bound of the memory of a parsed element; measured on empty repeated messages and short strings."""
COPIES = 2
"""Bytes of a message that is being answered: as it came, and parsed."""
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED = {
    FieldDescriptor.TYPE_DOUBLE: 8,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
}
_TEXT = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


@dataclass(frozen=True, slots=True)
class Limits:
    """Elements (fields, packed numbers, JSON values) and depth of one message."""

    elements: int
    depth: int = 32


def parse(raw: bytes, kind: Any, limits: Limits) -> tuple[Any, int]:
    """A message and the bytes that it may take in memory.

    Args:
        raw: As it came.
        kind: Its class.
        limits: Largest size and number of elements.

    Raises:
        LimitExceeded: It holds more elements, or is deeper.
        UsageError: It is no such message.
    """
    elements = count_elements(raw, kind.DESCRIPTOR, limits)
    try:
        message = kind.FromString(raw)
    except DecodeError as error:
        raise UsageError(f"the bytes are no {kind.DESCRIPTOR.full_name}") from error
    return message, COPIES * len(raw) + BYTES_PER_ELEMENT * elements


def count_elements(raw: bytes, descriptor: Descriptor, limits: Limits) -> int:
    """Fields and packed numbers of a serialised message, those of its parts included.

    Raises:
        LimitExceeded: There are more than ``limits.elements``, or parts lie deeper than ``limits.depth``.
        UsageError: The bytes are no protobuf.
    """
    found, limit = 0, limits.elements
    open_parts = [(0, len(raw), _fields(descriptor), 1)]
    while open_parts:
        at, end, fields, depth = open_parts.pop()
        if depth > limits.depth:
            raise LimitExceeded(f"a message may be {limits.depth} parts deep; this one is deeper")
        while at < end:
            found += 1
            if found > limit:
                raise _too_many(limits)
            tag = raw[at]
            if tag < 0x80:  # the usual case, without a call: this loop is what a hostile message costs
                at += 1
            else:
                tag, at = _varint(raw, at, end)
            wire = tag & 7
            if wire == _LENGTH:
                length, at = _varint(raw, at, end)
                known = fields.get(tag >> 3)
                if at + length > end:
                    raise UsageError("the bytes are no protobuf: a field is longer than its message")
                if known is None or not length:
                    pass
                elif isinstance(known, int):  # packed numbers; those of variable width have a byte or more
                    found += length // known
                else:
                    open_parts.append((at, at + length, _fields(known), depth + 1))
                at += length
            elif wire == _VARINT:
                _, at = _varint(raw, at, end)
            elif wire == _FIXED64:
                at += 8
            elif wire == _FIXED32:
                at += 4
            else:
                raise UsageError(f"the bytes are no protobuf of this service: wire type {wire}")
        if at > end:
            raise UsageError("the bytes are no protobuf: a field is longer than its message")
    if found > limits.elements:
        raise _too_many(limits)
    return found


def field_head(number: int, length: int) -> bytes:
    """What stands before the ``length`` bytes of field ``number`` (text, bytes or message) on the wire."""
    out = bytearray()
    for value in (number << 3 | _LENGTH, length):
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def check_json(text: bytes, limits: Limits) -> int:
    """Values of a JSON text at most, by its commas and brackets; those inside strings count too.

    Raises:
        LimitExceeded: There are more than ``limits.elements``, objects are more than a hundredth of that, or they are
            nested deeper than ``limits.depth``.
    """
    objects, lists = text.count(b"{"), text.count(b"[")
    found = text.count(b",") + objects + lists
    if found > limits.elements:
        raise LimitExceeded(
            f"a request may hold {limits.elements} JSON values; this one has {found}. Send tensors as binary data"
        )
    if objects > limits.elements // 100:
        raise LimitExceeded(f"a request may hold {limits.elements // 100} JSON objects; this one has {objects}")
    if objects + lists > limits.depth:
        data = np.frombuffer(text, dtype=np.uint8)
        opens, closes = (data == ord("{")) | (data == ord("[")), (data == ord("}")) | (data == ord("]"))
        steps = opens.astype(np.int8) - closes.astype(np.int8)
        if int(np.cumsum(steps[steps != 0], dtype=np.int32).max(initial=0)) > limits.depth:
            raise LimitExceeded(f"JSON may be nested {limits.depth} levels deep; this one is deeper")
    return found


def _too_many(limits: Limits) -> LimitExceeded:
    return LimitExceeded(
        f"a message may hold {limits.elements} fields and numbers; this one has more. Send pixels and tensors as bytes "
        "(raw_input_contents in Open Inference Protocol)"
    )


def _varint(raw: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise UsageError("the bytes are no protobuf: a number has no end")


@lru_cache(maxsize=1024)
def _fields(descriptor: Descriptor) -> dict[int, Descriptor | int]:
    """What a length-delimited field holds: a message, or packed numbers of at least so many bytes; text is left out."""
    found: dict[int, Descriptor | int] = {}
    for number, field in descriptor.fields_by_number.items():
        if field.message_type is not None:
            found[number] = field.message_type
        elif field.type not in _TEXT:
            found[number] = _FIXED.get(field.type, 1)
    return found
