"""Images of reBEN's shape in miniature, for the patch kernels' tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.patch_gather import ChannelTable
from kernels.random_mask import mask_state, random_mask


@dataclass
class Images:
    """Sources, their channel table, visible and masked ids, and flips."""

    sources: list[torch.Tensor]
    table: ChannelTable
    visible: torch.Tensor
    masked: torch.Tensor
    flip: torch.Tensor


def native_images(batch: int, size: int, patch: int, keep: int, device: str) -> Images:
    """uint16 bands on three grids (sides size, size/2, size/6), the channels in mixed order."""
    generator = torch.Generator().manual_seed(batch + size)
    shapes = [(2, size), (3, size // 2), (1, size // 6)]
    sources = [
        torch.randint(1, 12000, (batch, c, s, s), generator=generator).to(torch.uint16).to(device) for c, s in shapes
    ]
    where = [(1, 2), (0, 0), (2, 0), (0, 1), (1, 0)]
    table = ChannelTable.build(where, [900.0, 500, 300, 700, 1100], [400.0, 350, 500, 100, 1000], device)
    return _with_ids(sources, table, batch, size, patch, keep, device)


def float_images(batch: int, size: int, patch: int, keep: int, device: str, dtype: torch.dtype) -> Images:
    """One dense source of three channels, like Sentinel-1 in dB."""
    generator = torch.Generator().manual_seed(batch + size)
    source = (torch.randn((batch, 3, size, size), generator=generator) * 6 - 15).to(device, dtype)
    table = ChannelTable.build([(0, 1), (0, 0), (0, 2)], [-12.0, -19.0, 0.0], [5.0, 6.0, 1.0], device)
    return _with_ids([source], table, batch, size, patch, keep, device)


def _with_ids(
    sources: list[torch.Tensor], table: ChannelTable, batch: int, size: int, patch: int, keep: int, device: str
) -> Images:
    mask, _ = random_mask(mask_state(5), batch, (size // patch) ** 2, keep)
    flip = (torch.arange(batch, device=device) % 4).to(torch.uint8)
    return Images(sources, table, mask.visible.to(device), mask.masked.to(device), flip)
