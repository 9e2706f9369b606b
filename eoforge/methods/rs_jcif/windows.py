"""Augmentation of a batch on its native grids: flips and windows, equal on all grids."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from eoforge.data.bands import GROUPS
from eoforge.data.loading.batch import PatchBatch
from eoforge.data.loading.prepare import FLIP_HORIZONTAL, FLIP_VERTICAL


def mirrored(batch: PatchBatch, flip_B: Tensor) -> PatchBatch:
    """The batch with patches mirrored by the bits of ``flip_B``, equally on all grids."""
    changed: dict[str, Any] = {}
    for group in GROUPS:
        pixels: Tensor | None = getattr(batch, group.column)
        if pixels is None:
            continue
        for bit, axis in ((FLIP_HORIZONTAL, -1), (FLIP_VERTICAL, -2)):
            # where() and flip() do not support uint16 on all devices; int16 views do
            signed = pixels.view(torch.int16) if pixels.dtype == torch.uint16 else pixels
            flipped = torch.where((flip_B & bit).bool()[:, None, None, None], signed.flip(axis), signed)
            pixels = flipped.view(pixels.dtype)
        changed[group.column] = pixels
    return dataclasses.replace(batch, **changed)


def window(batch: PatchBatch, row: int, column: int, side: int) -> PatchBatch:
    """A window of ``side`` x ``side`` 10 m pixels of every patch and grid; all three numbers are multiples of 6."""
    cut: dict[str, Any] = {}
    for group in GROUPS:
        pixels: Tensor | None = getattr(batch, group.column)
        if pixels is not None:
            top, left, size = (value * 10 // group.resolution for value in (row, column, side))
            cut[group.column] = pixels[:, :, top : top + size, left : left + size]
    return dataclasses.replace(batch, **cut)
