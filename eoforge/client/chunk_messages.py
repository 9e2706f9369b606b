"""Serialisation of messages with a chunk, with one copy of the bytes where protobuf makes three.

Protobuf's serialisation of a 4 MiB message costs five times its SHA-256 (14 ms against 2.4 ms of CPU time; here 0.14
ms). The wire format is the same, and protobuf reads it.
"""

from __future__ import annotations

from typing import Any

from eoforge.api.federation.v1 import federation_pb2 as pb

_BYTES = 2  # wire type of length-delimited fields
_INDEX = bytes([pb.Chunk.DESCRIPTOR.fields_by_name["index"].number << 3])
_DATA = bytes([pb.Chunk.DESCRIPTOR.fields_by_name["data"].number << 3 | _BYTES])


def with_chunk(message: Any, index: int, data: Any) -> bytes:
    """Serialised ``message`` with a chunk in its field ``chunk``, which is not set in ``message``.

    Args:
        message: Message of a type with a field ``chunk`` of type ``Chunk``.
        index: Position of the chunk.
        data: Bytes of the chunk, as bytes or memoryview.
    """
    inner = _INDEX + _varint(index) + _DATA + _varint(len(data))
    tag = _varint(type(message).DESCRIPTOR.fields_by_name["chunk"].number << 3 | _BYTES)
    head: bytes = message.SerializeToString()
    return b"".join((head, tag, _varint(len(inner) + len(data)), inner, data))


def serialised(message: Any) -> bytes:
    """Request serialiser for gRPC: messages are serialised, bytes are returned unchanged."""
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
