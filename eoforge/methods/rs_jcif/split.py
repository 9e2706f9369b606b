"""Patches of one split in memory, as inputs of codecs, baselines and searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.codec.raster import Raster, from_batch
from eoforge.data.bands import GROUPS
from eoforge.data.loading.batch import PatchBatch, PatchFilter
from eoforge.data.loading.loader import PatchLoader
from eoforge.methods.evaluation.fidelity import Rasters
from eoforge.storage.addresses import TableRef

BATCH = 32

Codes = npt.NDArray[np.uint8]
Coder = Callable[[PatchBatch, str], Codes]


@dataclass(frozen=True)
class Split:
    """Patches of one split in memory, in batches."""

    batches: list[PatchBatch]

    @property
    def masks(self) -> npt.NDArray[np.uint32]:
        """Label masks ``[N]``."""
        return np.concatenate([b.label_mask.numpy() for b in self.batches]).astype(np.uint32)

    def rasters(self, modality: str) -> list[Raster]:
        """Every patch as a raster for the codec."""
        return [raster for batch in self.batches for raster in from_batch(batch, (modality,))]

    def pixels(self, modality: str) -> Rasters:
        """Column -> ``[N, C, H, W]`` of one sensor."""
        wanted = [g.column for g in GROUPS if (g.column == "s1") == (modality == "s1")]
        return {c: np.concatenate([getattr(b, c).numpy() for b in self.batches]) for c in wanted}

    def codes(self, coder: Coder, modality: str) -> Codes:
        """Codes ``[N, K/8]`` of every patch."""
        return np.concatenate([coder(batch, modality) for batch in self.batches])


def read_split(data: TableRef, split: str, limit: int | None = None) -> Split:
    """The first ``limit`` patches of a split, in table order.

    Raises:
        NotFound: The split is empty.
    """
    batches: list[PatchBatch] = []
    for batch in PatchLoader(data, batch_size=BATCH, filter=PatchFilter(splits=(split,))):
        left = BATCH if limit is None else limit - sum(map(len, batches))
        if left <= 0:
            break
        batches.append(batch if left >= len(batch) else _first(batch, left))
    return Split(batches)


def _first(batch: PatchBatch, count: int) -> PatchBatch:
    cut: dict[str, Any] = {g.column: t[:count] for g in GROUPS if (t := getattr(batch, g.column)) is not None}
    return replace(batch, patch_id=batch.patch_id[:count], label_mask=batch.label_mask[:count], **cut)
