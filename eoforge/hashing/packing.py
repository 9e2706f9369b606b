"""Packing of the signs of logits into codes, the same in NumPy and torch.

Bit k of a code is ``logit_k > 0`` (an exact zero gives 0). It is bit ``k % 8`` of byte ``k // 8``: little-endian, as
``np.packbits(bitorder="little")`` writes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from eoforge.errors import UsageError
from eoforge.hashing.lengths import BITS_PER_BYTE


def _require_bytes(bits: int) -> int:
    if bits % BITS_PER_BYTE or bits < BITS_PER_BYTE:
        raise UsageError(f"a code length must be a positive multiple of {BITS_PER_BYTE} bits; got {bits}")
    return bits // BITS_PER_BYTE


def pack(logits: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Codes ``[N, K // 8]`` of ``logits [N, K]``.

    Raises:
        UsageError: K is no multiple of 8.
    """
    _require_bytes(logits.shape[-1])
    return np.packbits(logits > 0, axis=-1, bitorder="little")


def pack_torch(logits: torch.Tensor) -> torch.Tensor:
    """Codes ``uint8 [..., K // 8]`` of ``logits [..., K]``, on their device; see :func:`pack`.

    Raises:
        UsageError: K is no multiple of 8.
    """
    size = _require_bytes(logits.shape[-1])
    bits = (logits > 0).to(torch.uint8).reshape(*logits.shape[:-1], size, BITS_PER_BYTE)
    weights = torch.tensor([1 << k for k in range(BITS_PER_BYTE)], dtype=torch.uint8, device=logits.device)
    # The sum of distinct powers of two below 256 fits uint8; by default sum() widens it to int64.
    return (bits * weights).sum(dim=-1, dtype=torch.uint8)
