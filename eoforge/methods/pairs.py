"""Training on pairs of the same place: random mirroring, and recall of the partner as a validation score."""

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
    """Random flips, uint8 ``[B]`` for :class:`~eoforge.data.loading.prepare.Prepare`, as a function of patch and epoch.

    The flip of a patch does not depend on its rank or batch. Both sensors take the same flips: the positions of objects
    are common to the two images.
    """
    bits = [derive_seed("flip", seed, epoch, patch_id) & 3 for patch_id in batch.patch_id]
    return torch.tensor(bits, dtype=torch.uint8, device=batch.label_mask.device)


def code_recall(codes: dict[str, Tensor]) -> dict[str, float]:
    """Recall of partners: the share of patches whose partner is among the ten nearest codes of the other sensor.

    Args:
        codes: Sensor -> packed codes ``[N, K/8]`` of the same N patches.

    Returns:
        The recall of each direction, and ``score``, their mean.
    """
    packed = {modality: rows.cpu().numpy() for modality, rows in codes.items()}
    found = {
        (source, target): HammingIndex(packed[target]).search(packed[source], SCORE_HITS)[1]
        for source, target in DIRECTIONS
    }
    return _figures({pair: partner_recall(rows, np.arange(len(rows))) for pair, rows in found.items()})


def feature_recall(features: dict[str, Tensor]) -> dict[str, float]:
    """Recall of partners by the cosine of features ``[N, D]``; see :func:`code_recall`."""
    unit = {modality: functional.normalize(rows.float(), dim=1) for modality, rows in features.items()}
    figures = {}
    for source, target in DIRECTIONS:
        cosine_NN = unit[source] @ unit[target].T
        rows = cosine_NN.topk(min(SCORE_HITS, len(cosine_NN)), dim=1).indices.cpu().numpy()
        figures[source, target] = partner_recall(rows, np.arange(len(rows)))
    return _figures(figures)


def _figures(recalls: dict[tuple[str, str], float]) -> dict[str, float]:
    named = {f"recall@{SCORE_HITS}_{source}_to_{target}": value for (source, target), value in recalls.items()}
    return {**named, "score": sum(named.values()) / len(named)}
