"""Samples of the codec benchmarks: synthetic patches, and real patches where available."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from eoforge.bundle import Bundle, write_bundle
from eoforge.codec.learned.model import Codec
from eoforge.codec.raster import Raster, from_pair
from eoforge.data.archives.open import open_archive
from eoforge.data.bands import GROUPS
from eoforge.data.loading.batch import PatchBatch
from eoforge.data.records import PatchPair
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.methods.rs_jcif.config import Compression, Config
from eoforge.methods.rs_jcif.method import COMPRESSION, RsJcifMethod

REAL = Path(os.environ.get("EOFORGE_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
_STATISTICS = {"s1": (-14.0, 6.0), "s2": (1500.0, 1200.0)}


def pairs_of(kind: str, count: int) -> list[PatchPair]:
    """Patch pairs, ``synthetic`` or ``real`` (24 at most)."""
    if kind == "synthetic":
        return list(synthetic_pairs(count, seed=5))
    archive = open_archive(str(REAL / "reben-sample-24"))
    found = (result.pair for result in archive.read(archive.metadata()))
    return [pair for pair in found if pair is not None][:count]


def kinds() -> tuple[str, ...]:
    """Kinds available on this machine."""
    return ("synthetic", "real") if (REAL / "reben-sample-24").is_dir() else ("synthetic",)


def rasters(pairs: Sequence[PatchPair], modality: str) -> list[Raster]:
    """One sensor's bands of each pair."""
    return [from_pair(pair, (modality,)) for pair in pairs]


def batch_of(pairs: Sequence[PatchPair]) -> PatchBatch:
    """Pairs as the loader gives them."""
    columns = {g.column: torch.from_numpy(np.stack([getattr(p, g.column) for p in pairs])) for g in GROUPS}
    names = [pair.meta.patch_id for pair in pairs]
    return PatchBatch(names, label_mask=torch.zeros(len(pairs), dtype=torch.int64), **columns)


def untrained_bundle(
    runs: str, pairs: Sequence[PatchPair], config: Compression, patches: Mapping[str, Any] | None = None
) -> Bundle:
    """A bundle of ``rs_jcif`` whose codec started from the principal components of ``pairs`` and was not trained.

    With the settings of the first stage alone it is the bundle of that stage.
    """
    normalisation = {band: _STATISTICS[m] for m, bands in config.bands.items() for band in bands}
    codec = Codec(config.codec(normalisation))
    codec.initialise(batch_of(pairs))
    codec.update()
    return write_bundle(
        runs,
        weights=codec.state_dict(),
        config={
            "method": RsJcifMethod.name if isinstance(config, Config) else COMPRESSION,
            "config": asdict(config),
            "bands": {m: list(bands) for m, bands in config.bands.items()},
            "normalisation": {band: list(values) for band, values in normalisation.items()},
            "interpolation": "native",
            "bits": config.bits,
            "embedding_dim": config.bits,
            "seed": 0,
            "patches": dict(patches or {}),
            "code_revision": "none",
        },
        metrics={},
        readme="A codec that was not trained.\n",
    )


def best_seconds(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Minimum seconds of each function over ``rounds`` rounds, after one warm-up round."""
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = perf_counter()
            way()
            if turn:
                best[name] = min(best[name], perf_counter() - start)
    return best
