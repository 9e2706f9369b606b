"""Decoder input in plain PyTorch, as masked autoencoders write it: concatenate mask tokens, gather, add positions."""

from __future__ import annotations

import torch
from torch import Tensor


def unshuffle_reference(x: Tensor, ranks: Tensor, mask_token: Tensor, pos: Tensor, prefix: int) -> Tensor:
    """``x [B, prefix + keep, D]``, ``ranks [B, L]`` -> ``[B, prefix + L, D]``, summed in float32."""
    batch, tokens = ranks.shape
    dim = x.shape[2]
    keep = x.shape[1] - prefix
    filler = mask_token.float().expand(batch, tokens - keep, dim)
    patches = torch.cat([x[:, prefix:].float(), filler], dim=1)
    patches = patches.gather(1, ranks.long().unsqueeze(-1).expand(batch, tokens, dim))
    return (torch.cat([x[:, :prefix].float(), patches], dim=1) + pos.float()).to(x.dtype)
