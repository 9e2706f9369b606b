"""The archives of the benchmark as fixed features: scenes of the synthetic archive, and EuroSAT's RGB tiles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.label_noise.samples import Samples, eurosat, synthetic
from eoforge.methods.anneal.features import Patches


@dataclass(frozen=True)
class Archive:
    """Features and labels.

    Attributes:
        pool: Training split, from which pairs are made and which is searched.
        queries: Test split.
        choices: Number of decisions of one class label: 1 for one choice among the classes, their number for any set.
        bits: Bits of one class label.
    """

    pool: Patches
    queries: Patches
    choices: int
    bits: float


def load(data: str, patches: int, folder: Path, cache: Path) -> Archive:
    """The archive ``synthetic`` or ``eurosat``; a scene is described by 13 numbers a band, which no label has shaped.

    Args:
        data: Its name.
        patches: Size of the synthetic archive.
        folder: Folder of the EuroSAT tiles.
        cache: Folder of the cells, which keeps the scenes of the synthetic archive.
    """
    return archive_of(synthetic(patches, cache) if data == "synthetic" else eurosat(folder))


def archive_of(samples: Samples) -> Archive:
    """The archive of a data set."""
    classes, single = samples.labels.shape[1], samples.target == "single"
    masks = (samples.labels.astype(np.uint32) << np.arange(classes, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)

    def part(split: str) -> Patches:
        rows = samples.rows(split)
        return Patches(tuple(f"{split}-{row}" for row in rows), samples.images[torch.from_numpy(rows)], masks[rows])

    return Archive(
        part("train"), part("test"), 1 if single else classes, float(np.log2(classes)) if single else float(classes)
    )
