"""Random numbers as a function of what they are for.

Every draw is keyed by (seed, epoch, step, id) and the like, not by how many draws came before it: training that
resumes, or that runs on more ranks, draws what an uninterrupted single process would.
"""

from __future__ import annotations

import hashlib

_BITS_63 = (1 << 63) - 1


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from ``parts``; unlike sums or xors, it keeps (1, 2) and (2, 1) apart."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") & _BITS_63
