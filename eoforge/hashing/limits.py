"""Code lengths that tables, heads and indexes take."""

from __future__ import annotations

from eoforge.errors import UsageError

MIN_CODE_BITS, MAX_CODE_BITS = 16, 512
"""Shortest code that a method learns, longest code that a table holds."""


def require_code_bits(bits: int) -> int:
    """``bits``, checked to be a code length that a method can learn.

    Raises:
        UsageError: It is no multiple of 8, or out of range.
    """
    if bits % 8 or not MIN_CODE_BITS <= bits <= MAX_CODE_BITS:
        raise UsageError(f"bits must be a multiple of 8 between {MIN_CODE_BITS} and {MAX_CODE_BITS}; got {bits}")
    return bits
