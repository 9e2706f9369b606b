"""What methods that learn from pairs of the same place share: mirroring, and how often partners find each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from eoforge.index.search import HammingIndex
from eoforge.metrics.retrieval import partner_recall
from eoforge.nn.seeds import derive_seed

if TYPE_CHECKING:
    from eoforge.data.loading.loader import PatchBatch

SCORE_HITS = 10
DIRECTIONS = (("s1", "s2"), ("s2", "s1"))


def random_flips(batch: PatchBatch, seed: int, epoch: int) -> Tensor:
    """uint8 ``[B]`` for :class:`~eoforge.data.loading.prepare.Prepare`, by patch and epoch.

    So a patch is mirrored alike in whatever rank or batch it falls. Both sensors are to flip alike, since where things
    lie is part of what the two images have in common.
    """
    bits = [derive_seed("flip", seed, epoch, patch_id) & 3 for patch_id in batch.patch_id]
    return torch.tensor(bits, dtype=torch.uint8, device=batch.label_mask.device)


def code_recall(codes: dict[str, Tensor]) -> dict[str, float]:
    """Share of patches whose partner of the other sensor is among the ten nearest codes, both ways and their mean.

    Args:
        codes: Sensor -> packed codes ``[N, K/8]`` of the same N patches.
    """
    packed = {modality: rows.cpu().numpy() for modality, rows in codes.items()}
    found = {
        (asking, answering): HammingIndex(packed[answering]).search(packed[asking], SCORE_HITS)[1]
        for asking, answering in DIRECTIONS
    }
    return _figures({pair: partner_recall(rows, np.arange(len(rows))) for pair, rows in found.items()})


def feature_recall(features: dict[str, Tensor]) -> dict[str, float]:
    """:func:`code_recall` by the cosine of features ``[N, D]``."""
    unit = {modality: functional.normalize(rows.float(), dim=1) for modality, rows in features.items()}
    figures = {}
    for asking, answering in DIRECTIONS:
        cosine_NN = unit[asking] @ unit[answering].T
        rows = cosine_NN.topk(min(SCORE_HITS, len(cosine_NN)), dim=1).indices.cpu().numpy()
        figures[asking, answering] = partner_recall(rows, np.arange(len(rows)))
    return _figures(figures)


def _figures(recalls: dict[tuple[str, str], float]) -> dict[str, float]:
    named = {f"recall@{SCORE_HITS}_{asking}_to_{answering}": value for (asking, answering), value in recalls.items()}
    return {**named, "score": sum(named.values()) / len(named)}
