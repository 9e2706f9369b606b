"""Checks of the numbers of a message before it is stored: finite, in range, and representable as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from google.protobuf import duration_pb2
from google.protobuf.message import Message

from eoforge.errors import UsageError

MAX_DEPTH = 32
"""Deepest nesting of messages: the journal is JSON, whose parser has a limit of its own."""
MAX_DURATION_S = 10 * 366 * 86400
_SHOWN = 3


def check_storable(message: Message, name: str) -> None:
    """Check that a message of a caller can be stored and read again.

    Args:
        message: Message.
        name: Name of the message in the error.

    Raises:
        UsageError: A number is NaN or infinite, a choice is unknown, a duration is out of range, or parts are nested
            deeper than :data:`MAX_DEPTH`.
    """
    problems = list(_problems(message, name, 1))
    if problems:
        raise UsageError("; ".join(problems[:_SHOWN]))


def seconds_of(duration: duration_pb2.Duration, name: str) -> float:
    """Seconds of a duration.

    Raises:
        UsageError: It is negative, longer than ten years, or malformed.
    """
    check_storable(duration, name)
    return float(duration.ToTimedelta().total_seconds())


def _problems(message: Message, name: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        yield f"{name:.200} is nested too deep: at most {MAX_DEPTH} messages"
        return
    if isinstance(message, duration_pb2.Duration):
        if not (0 <= message.seconds <= MAX_DURATION_S and 0 <= message.nanos < 1_000_000_000):
            yield f"{name:.200} must be a duration of 0 to {MAX_DURATION_S} seconds"
        return
    for field, value in message.ListFields():
        for key, item in _items(field, value):
            where = f"{name}.{field.name}{key}"
            if isinstance(item, Message):
                yield from _problems(item, where, depth + 1)
            elif isinstance(item, float) and not math.isfinite(item):
                yield f"{where:.200} must be a finite number; got {item}"
            elif field.enum_type is not None and item not in field.enum_type.values_by_number:
                yield f"{where:.200} must be one of {', '.join(field.enum_type.values_by_name)}; got {item}"


def _items(field: Any, value: Any) -> Iterator[tuple[str, Any]]:
    """Values of a field, each with its position in the field."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        yield from ((f"[{key!r:.80}]", value[key]) for key in value)
    elif field.is_repeated:
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    else:
        yield "", value
