"""Compressed bodies of REST: requests are inflated up to a limit, answers compressed where a client accepts it."""

from __future__ import annotations

import zlib

from eoforge.errors import LimitExceeded, UsageError

CODINGS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
"""Content coding -> window bits of zlib with its container (RFC 9110: deflate has zlib's)."""
MAX_RATIO = 1040
"""Deflate makes at most 1,032 bytes of one."""
MIN_BYTES = 1024
_LEVEL = 1


def most_of(length: int, limit: int) -> int:
    """Upper bound of the bytes that a compressed body of ``length`` becomes, if more than ``limit`` are refused."""
    return min(limit, MAX_RATIO * length) + 1


def decoded(body: bytes, coding: str, limit: int) -> bytes:
    """Body without its content coding.

    Raises:
        UsageError: It is cut off, damaged, or followed by other bytes.
        LimitExceeded: It has more than ``limit`` bytes.
    """
    engine = zlib.decompressobj(CODINGS[coding])
    try:
        found = engine.decompress(body, limit + 1)
    except zlib.error as error:
        raise UsageError(f"the body is no {coding}") from error
    if len(found) > limit:
        raise LimitExceeded(f"a body may have {limit} bytes; this one has more after {coding}")
    if not engine.eof or engine.unused_data:
        raise UsageError(f"the body is no whole {coding}, or bytes follow it")
    return found


def accepted(header: str, length: int) -> str | None:
    """Content coding for an answer of ``length`` bytes by the header Accept-Encoding, or None."""
    if length < MIN_BYTES:
        return None
    weights = {}
    for part in header.lower().split(","):
        name, _, weight = part.partition(";")
        weights[name.strip()] = weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return next((coding for coding in CODINGS if weights.get(coding, False)), None)


def encoded(body: bytes, coding: str) -> bytes:
    """Body with a content coding; zlib works without the interpreter's lock."""
    engine = zlib.compressobj(_LEVEL, wbits=CODINGS[coding])
    return engine.compress(body) + engine.flush()
