"""Sign and pack in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_bits_reference(x: Tensor) -> Tensor:
    """``[N, K] -> uint8 [N, K/8]``; bit k is ``x[:, k] > 0``, least significant bit first."""
    weights = 2 ** torch.arange(8, device=x.device)
    bits = (x > 0).reshape(*x.shape[:-1], x.shape[-1] // 8, 8)
    return (bits * weights).sum(-1).to(torch.uint8)


def unpack_bits_reference(codes: Tensor) -> Tensor:
    """``uint8 [N, K/8] -> uint8 [N, K]`` of zeros and ones."""
    shifts = torch.arange(8, device=codes.device, dtype=torch.uint8)
    return ((codes.unsqueeze(-1) >> shifts) & 1).flatten(-2)
