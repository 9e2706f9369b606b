"""Patches of normalised images in plain PyTorch: upsample everything, flip, cut, then keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normalised_images(sources: Sequence[Tensor], where: Tensor, norm: Tensor, flip: Tensor | None, size: int) -> Tensor:
    """float32 ``[B, C, size, size]``: channels picked, upsampled (nearest), normalised, flipped."""
    grids = [
        s.float().repeat_interleave(size // s.shape[2], 2).repeat_interleave(size // s.shape[2], 3) for s in sources
    ]
    # Channels of the sources before each one's, by device arithmetic: numbers copied from the host break a CUDA graph.
    first = sum((where[:, 0] > i) * g.shape[1] for i, g in enumerate(grids))
    stacked = torch.cat(grids, dim=1)[:, (first + where[:, 1]).long()]
    images = (stacked - norm[:, 0, None, None]) * norm[:, 1, None, None]
    if flip is not None:
        horizontal, vertical = ((flip & bit).bool()[:, None, None, None] for bit in (1, 2))
        images = torch.where(horizontal, images.flip(3), images)
        images = torch.where(vertical, images.flip(2), images)
    return images


def cut(images: Tensor, patch: int, pixel_major: bool) -> Tensor:
    """``[B, C, S, S] -> [B, L, C p p]``, tokens row by row; vectors in the order (c, p, q) or (p, q, c)."""
    batch, channels, size, _ = images.shape
    across = size // patch
    tokens = images.reshape(batch, channels, across, patch, across, patch)
    order = (0, 2, 4, 3, 5, 1) if pixel_major else (0, 2, 4, 1, 3, 5)
    return tokens.permute(*order).reshape(batch, across * across, channels * patch * patch)


def patch_gather_reference(
    sources: Sequence[Tensor],
    ids: Tensor,
    where: Tensor,
    norm: Tensor,
    flip: Tensor | None,
    size: int,
    patch: int,
    pixel_major: bool = False,
) -> Tensor:
    """float32 ``[B, M, C p p]`` of the tokens ``ids`` [B, M]."""
    tokens = cut(normalised_images(sources, where, norm, flip, size), patch, pixel_major)
    return tokens.gather(1, ids.long().unsqueeze(-1).expand(-1, -1, tokens.shape[2]))
