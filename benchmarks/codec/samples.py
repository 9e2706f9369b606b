"""What the cases of the codec measure on: synthetic patches, and real ones where the shared samples are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from eoforge.codec.raster import Raster, from_pair
from eoforge.data.bands import GROUPS
from eoforge.data.batch import PatchBatch
from eoforge.data.reben import open_archive
from eoforge.data.records import PatchPair
from eoforge.data.synthetic import synthetic_pairs

REAL = Path(os.environ.get("EOFORGE_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def pairs_of(kind: str, count: int) -> list[PatchPair]:
    """Patch pairs, ``synthetic`` or ``real`` (24 at most)."""
    if kind == "synthetic":
        return list(synthetic_pairs(count, seed=5))
    archive = open_archive(str(REAL / "reben-sample-24"))
    found = (result.pair for result in archive.read(archive.metadata()))
    return [pair for pair in found if pair is not None][:count]


def kinds() -> tuple[str, ...]:
    """The kinds there are on this machine."""
    return ("synthetic", "real") if (REAL / "reben-sample-24").is_dir() else ("synthetic",)


def rasters(pairs: Sequence[PatchPair], modality: str) -> list[Raster]:
    """One sensor's bands of each pair."""
    return [from_pair(pair, (modality,)) for pair in pairs]


def batch_of(pairs: Sequence[PatchPair]) -> PatchBatch:
    """Pairs as the loader gives them."""
    columns = {g.column: torch.from_numpy(np.stack([getattr(p, g.column) for p in pairs])) for g in GROUPS}
    names = [pair.meta.patch_id for pair in pairs]
    return PatchBatch(names, label_mask=torch.zeros(len(pairs), dtype=torch.int64), **columns)


def best_seconds(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least seconds of each way over ``rounds`` turns, after one turn to warm up."""
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = perf_counter()
            way()
            if turn:
                best[name] = min(best[name], perf_counter() - start)
    return best
