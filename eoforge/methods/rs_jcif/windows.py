"""What a training step sees of a batch: a window of every patch, mirrored, the native grids kept together."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from eoforge.data.bands import GROUPS
from eoforge.data.loading.batch import PatchBatch
from eoforge.data.loading.prepare import FLIP_HORIZONTAL, FLIP_VERTICAL


def mirrored(batch: PatchBatch, flip_B: Tensor) -> PatchBatch:
    """The batch with patches mirrored as the bits of ``flip_B`` say, all grids alike."""
    changed: dict[str, Any] = {}
    for group in GROUPS:
        pixels: Tensor | None = getattr(batch, group.column)
        if pixels is None:
            continue
        for bit, axis in ((FLIP_HORIZONTAL, -1), (FLIP_VERTICAL, -2)):
            # uint16 knows neither where() nor flip() everywhere; its bits as int16 do
            seen = pixels.view(torch.int16) if pixels.dtype == torch.uint16 else pixels
            turned = torch.where((flip_B & bit).bool()[:, None, None, None], seen.flip(axis), seen)
            pixels = turned.view(pixels.dtype)
        changed[group.column] = pixels
    return dataclasses.replace(batch, **changed)


def window(batch: PatchBatch, row: int, column: int, side: int) -> PatchBatch:
    """The same ``side`` x ``side`` 10 m pixels of every patch and grid; all three numbers are multiples of 6."""
    cut: dict[str, Any] = {}
    for group in GROUPS:
        pixels: Tensor | None = getattr(batch, group.column)
        if pixels is not None:
            top, left, size = (value * 10 // group.resolution for value in (row, column, side))
            cut[group.column] = pixels[:, :, top : top + size, left : left + size]
    return dataclasses.replace(batch, **cut)
