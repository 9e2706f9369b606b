"""NT-Xent and similarity to nearest neighbours in plain PyTorch, with matrices of pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels._runtime import full_precision


def nt_xent_reference(features: Tensor, temperature: float) -> Tensor:
    """Mean over the rows of ``features`` [2B, D] of ``log sum_{j != i} exp(s_ij) - s_i,partner``; s = cos / t."""
    pairs = features.shape[0] // 2
    if pairs == 0:
        return features.float().sum()
    z_ND = functional.normalize(features.float(), dim=1)
    with full_precision(z_ND):
        logits_NN = z_ND @ z_ND.T / temperature
    self_NN = torch.eye(2 * pairs, dtype=torch.bool, device=z_ND.device)
    normaliser_N = torch.logsumexp(logits_NN.masked_fill(self_NN, float("-inf")), dim=1)
    positive_N = torch.cat([logits_NN.diagonal(pairs), logits_NN.diagonal(-pairs)])
    return (normaliser_N - positive_N).mean()


def nearest_neighbours_reference(features: Tensor) -> Tensor:
    """int32 [N]: the nearest other row by Euclidean distance, the lowest index on ties."""
    exact = "donot_use_mm_for_euclid_dist"  # the matrix product form turns equal rows into unequal distances
    distances_NN = torch.cdist(features.float(), features.float(), compute_mode=exact)
    return distances_NN.fill_diagonal_(float("inf")).argmin(dim=1).to(torch.int32)


def neighbour_similarity_reference(features: Tensor, neighbours: Tensor) -> Tensor:
    """Mean cosine of every row of ``features`` [N, D] to the row ``neighbours`` [N] names; both have gradients."""
    # The gradient of indexing rows adds to shared rows in an undefined order. Every entry of the similarity matrix is
    # selected at most once, and the matrix product has a fixed order.
    z_ND = functional.normalize(features.float(), dim=1)
    with full_precision(z_ND):
        return (z_ND @ z_ND.T).gather(1, neighbours.long()[:, None]).mean()
