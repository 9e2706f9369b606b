"""Stored messages: protobufs from bytes that may be damaged."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from eoforge.errors import DamagedObject

Kind = TypeVar("Kind", bound=Message)


def from_json(data: bytes, message: Kind, name: str) -> Kind:
    """Message from stored JSON; ``message`` is filled and returned.

    Raises:
        DamagedObject: The bytes are no such message.
    """
    try:
        json_format.Parse(data, message)
    except Exception as error:  # odd texts make the library raise more kinds of errors than it names
        raise DamagedObject(f"{name} is no {message.DESCRIPTOR.name} in JSON: {error}") from error
    return message


def from_bytes(data: bytes, kind: type[Kind], name: str) -> Kind:
    """Message from stored bytes.

    Raises:
        DamagedObject: The bytes are no such message.
    """
    try:
        return kind.FromString(data)
    except Exception as error:
        raise DamagedObject(f"{name} is no {kind.DESCRIPTOR.name}: {error}") from error
