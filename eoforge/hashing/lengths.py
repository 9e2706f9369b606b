"""Lengths of binary codes that the platform accepts."""

from __future__ import annotations

from eoforge.errors import UsageError

BITS_PER_BYTE = 8
MIN_CODE_BITS, MAX_CODE_BITS = 16, 512
"""Bounds of what a method may learn; a codes table holds codes from 8 bits on."""


def require_code_bits(bits: int) -> None:
    """Checks the code length of a method.

    Raises:
        UsageError: ``bits`` is no multiple of 8 in 16..512.
    """
    if bits % BITS_PER_BYTE or not MIN_CODE_BITS <= bits <= MAX_CODE_BITS:
        raise UsageError(
            f"bits must be a multiple of {BITS_PER_BYTE} between {MIN_CODE_BITS} and {MAX_CODE_BITS}; got {bits}"
        )
