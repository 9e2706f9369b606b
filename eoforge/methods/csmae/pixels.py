"""Inputs of a training step: prepared images, or the native grids of storage.

With native grids, the kernels that gather and compare patches also upsample, normalise and mirror: no whole image is
written, and only pixels of patches in the loss are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eoforge.data.bands import GROUP_OF
from eoforge.errors import UsageError
from kernels.patch_gather import ChannelTable
from kernels.patch_gather.reference import normalised_images

if TYPE_CHECKING:
    from eoforge.data.loading.batch import PatchBatch  # imports Lance, which a training step does not need


@dataclass(frozen=True)
class Pixels:
    """Images of one sensor.

    Attributes:
        sources: Tensors ``[B, C_i, S_i, S_i]``, one for each grid.
        table: Source and normalisation of each channel.
        flip: uint8 ``[B]``: bit 0 mirrors left-right, bit 1 top-bottom; None for no flips.
    """

    sources: list[Tensor]
    table: ChannelTable
    flip: Tensor | None = None

    @staticmethod
    def of(images: Tensor | Pixels) -> Pixels:
        """Pixels of prepared images ``[B, C, S, S]``; an instance of this class is returned unchanged."""
        if isinstance(images, Pixels):
            return images
        channels, device = images.shape[1], images.device
        channel = torch.arange(channels, dtype=torch.int32, device=device)
        where = torch.stack([torch.zeros_like(channel), channel], dim=1)
        ones = torch.ones(channels, device=device)
        return Pixels([images], ChannelTable(where, torch.stack([torch.zeros_like(ones), ones], dim=1)))

    def dense(self, size: int) -> Tensor:
        """Images float32 ``[B, C, size, size]``, upsampled, normalised and mirrored."""
        return normalised_images(self.sources, self.table.where, self.table.norm, self.flip, size)

    def clone(self) -> Pixels:
        """A copy of the pixels."""
        return Pixels(
            [source.clone() for source in self.sources],
            ChannelTable(self.table.where.clone(), self.table.norm.clone()),
            None if self.flip is None else self.flip.clone(),
        )

    def copy_(self, other: Pixels) -> None:
        """Copies the pixels of ``other``, which are of the same bands, into this memory."""
        for target, source in zip(self.sources, other.sources, strict=True):
            target.copy_(source, non_blocking=True)
        if self.flip is not None and other.flip is not None:
            self.flip.copy_(other.flip, non_blocking=True)

    def fits(self, other: Pixels) -> bool:
        """Whether :meth:`copy_` accepts ``other``."""
        mine, theirs = ([(s.shape, s.dtype, s.device) for s in p.sources] for p in (self, other))
        return mine == theirs and (self.flip is None) == (other.flip is None)


@dataclass(frozen=True)
class NativeGrids:
    """Columns of the bands of one sensor in a stored batch, and their normalisation on the device.

    Attributes:
        columns: Columns of the batch, one for each grid.
        table: As in :class:`Pixels`.
    """

    columns: tuple[str, ...]
    table: ChannelTable

    @staticmethod
    def build(
        bands: Sequence[str], mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu"
    ) -> NativeGrids:
        """Grids of ``bands`` in channel order; this copies to the device, so call it once."""
        columns = tuple(dict.fromkeys(GROUP_OF[band].column for band in bands))
        where = [(columns.index(GROUP_OF[band].column), GROUP_OF[band].bands.index(band)) for band in bands]
        return NativeGrids(columns, ChannelTable.build(where, mean, std, device))

    @staticmethod
    def can(bands: Sequence[str], size: int, interpolation: str) -> bool:
        """Whether the kernels can upsample these bands to ``size``: by repeating pixels a whole number of times."""
        return interpolation == "nearest" and all(size % GROUP_OF[band].size == 0 for band in bands)

    def pixels(self, batch: PatchBatch, flip: Tensor | None) -> Pixels:
        """Pixels of the batch's stored bands, with the flips that reading applies.

        Raises:
            UsageError: The batch lacks one of the grids.
        """
        sources = [getattr(batch, column) for column in self.columns]
        if any(source is None for source in sources):
            raise UsageError(f"the batch lacks one of {', '.join(self.columns)}; read it with these modalities")
        return Pixels(sources, self.table, flip)
