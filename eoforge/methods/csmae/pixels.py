"""Images as the step reads them: prepared, or on the native grids they are stored on.

Native grids leave upsampling, normalising and mirroring to the ops that gather patches and compare with them: nothing
of the size of an image is written, and only pixels of patches that count are read.
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
    from eoforge.data.loading.batch import PatchBatch  # brings Lance, which a training step does not need


@dataclass(frozen=True)
class Pixels:
    """One sensor's images.

    Attributes:
        sources: Tensors ``[B, C_i, S_i, S_i]``, one for each grid.
        table: Which channel comes from where, and its normalisation.
        flip: uint8 ``[B]``: bit 0 mirrors left-right, bit 1 top-bottom; None mirrors nothing.
    """

    sources: list[Tensor]
    table: ChannelTable
    flip: Tensor | None = None

    @staticmethod
    def of(images: Tensor | Pixels) -> Pixels:
        """Prepared images ``[B, C, S, S]`` as they are; pixels stay what they are."""
        if isinstance(images, Pixels):
            return images
        channels, device = images.shape[1], images.device
        channel = torch.arange(channels, dtype=torch.int32, device=device)
        where = torch.stack([torch.zeros_like(channel), channel], dim=1)
        ones = torch.ones(channels, device=device)
        return Pixels([images], ChannelTable(where, torch.stack([torch.zeros_like(ones), ones], dim=1)))

    def dense(self, size: int) -> Tensor:
        """float32 ``[B, C, size, size]``: upsampled, normalised and mirrored."""
        return normalised_images(self.sources, self.table.where, self.table.norm, self.flip, size)

    def clone(self) -> Pixels:
        """The same pixels in memory of their own."""
        return Pixels(
            [source.clone() for source in self.sources],
            ChannelTable(self.table.where.clone(), self.table.norm.clone()),
            None if self.flip is None else self.flip.clone(),
        )

    def copy_(self, other: Pixels) -> None:
        """Takes over the pixels of ``other``, which come from the same bands."""
        for mine, theirs in zip(self.sources, other.sources, strict=True):
            mine.copy_(theirs, non_blocking=True)
        if self.flip is not None and other.flip is not None:
            self.flip.copy_(other.flip, non_blocking=True)

    def fits(self, other: Pixels) -> bool:
        """Whether :meth:`copy_` can take ``other``."""
        mine, theirs = ([(s.shape, s.dtype, s.device) for s in p.sources] for p in (self, other))
        return mine == theirs and (self.flip is None) == (other.flip is None)


@dataclass(frozen=True)
class NativeGrids:
    """Where the bands of one sensor lie in a stored batch, and their normalisation on the device.

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
        """Of ``bands`` in channel order; build it once, as it copies to the device."""
        columns = tuple(dict.fromkeys(GROUP_OF[band].column for band in bands))
        where = [(columns.index(GROUP_OF[band].column), GROUP_OF[band].bands.index(band)) for band in bands]
        return NativeGrids(columns, ChannelTable.build(where, mean, std, device))

    @staticmethod
    def can(bands: Sequence[str], size: int, interpolation: str) -> bool:
        """Whether the ops upsample these bands to ``size`` as asked: by repeating pixels a whole number of times."""
        return interpolation == "nearest" and all(size % GROUP_OF[band].size == 0 for band in bands)

    def pixels(self, batch: PatchBatch, flip: Tensor | None) -> Pixels:
        """The batch's stored bands, mirrored as ``flip`` says when they are read.

        Raises:
            UsageError: The batch does not hold one of the grids.
        """
        sources = [getattr(batch, column) for column in self.columns]
        if any(source is None for source in sources):
            raise UsageError(f"the batch lacks one of {', '.join(self.columns)}; read it with these modalities")
        return Pixels(sources, self.table, flip)
