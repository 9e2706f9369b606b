"""The objective of ANNEAL: contrastive loss and binary classifier of pairs, and two terms that keep codes usable."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.model import PairHead

_ZERO = 1e-12


def pair_distances(first_PK: Tensor, second_PK: Tensor) -> Tensor:
    """Euclidean distances ``[P]`` of embeddings; the gradient at distance 0 is finite."""
    return ((first_PK - second_PK).square().sum(dim=1) + _ZERO).sqrt()


def contrastive(distance_P: Tensor, similar_P: Tensor, margin: float) -> Tensor:
    """``y d² + (1 - y) max(0, m - d)²`` of each pair, ``[P]``."""
    return torch.where(similar_P, distance_P.square(), (margin - distance_P).clamp_min(0).square())


def balance(similar_P: Tensor) -> Tensor:
    """Weights ``[P]`` with mean 1 by which similar and dissimilar pairs count equally; ones if a class is missing."""
    similar = int(similar_P.sum())
    total = len(similar_P)
    if similar in (0, total):
        return torch.ones(total)
    return torch.where(similar_P, total / (2 * similar), total / (2 * (total - similar)))


def quantisation(embedding_BK: Tensor) -> Tensor:
    """Mean of ``(sqrt(K) |e_k| - 1)²``: 0 where an embedding is a corner of the cube of its code."""
    return (embedding_BK.abs() * embedding_BK.shape[1] ** 0.5 - 1).square().mean()


def objective(
    head: PairHead,
    pair_features: tuple[Tensor, Tensor],
    similar_P: Tensor,
    weight_P: Tensor,
    anchors: tuple[Tensor, Tensor],
    config: Config,
) -> dict[str, Tensor]:
    """All terms of the loss by name; ``loss`` is the objective.

    Args:
        head: The head.
        pair_features: Features ``[P, F]`` of the first and second patches.
        similar_P: Bool.
        weight_P: See :func:`balance`.
        anchors: Features ``[A, F]`` of random patches, and their cosines ``[A, A]`` in the initial embedding.
        config: Weights.
    """
    first, second = (head.embed(features) for features in pair_features)
    distance_P = pair_distances(first, second)
    metric = (weight_P * contrastive(distance_P, similar_P, config.margin)).mean()
    logits_P = head.pair_logits(first, second)
    bce = functional.binary_cross_entropy_with_logits(logits_P, similar_P.float(), weight=weight_P)
    features_AF, cosine_AA = anchors
    embedding_AK = head.embed(features_AF)
    kept = (embedding_AK @ embedding_AK.T - cosine_AA).square().mean()
    corners = quantisation(embedding_AK)
    loss = (
        config.contrastive_weight * metric
        + config.bce_weight * bce
        + config.anchor_weight * kept
        + config.quantisation_weight * corners
    )
    return {"loss": loss, "contrastive": metric, "bce": bce, "anchor": kept, "quantisation": corners}
