"""Seeds of random numbers, derived from their purpose.

Every draw is keyed by its purpose, such as (seed, epoch, step, id), and does not depend on earlier draws: training that
resumes, or that runs on more ranks, draws the same numbers as an uninterrupted single process.
"""

from __future__ import annotations

import hashlib

_BITS_63 = (1 << 63) - 1


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from ``parts``, by a hash: (1, 2) and (2, 1) have different seeds."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") & _BITS_63
