"""Losses between the two sensors' features of the same patches.

Shape legend: B patches, D feature channels. Row i of both inputs belongs to the same patch. All losses are computed in
float32 whatever the inputs' type: in bf16 a similarity of 0.9 has two decimal digits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from eoforge.errors import UsageError

MIN_BATCH = 2


def _require_pairs(first_BD: Tensor, second_BD: Tensor) -> None:
    if first_BD.shape != second_BD.shape or first_BD.dim() != 2:
        raise UsageError(
            f"expected two [B, D] tensors of one shape; got {tuple(first_BD.shape)} and {tuple(second_BD.shape)}"
        )


def nt_xent(first_BD: Tensor, second_BD: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy over the 2B features of B pairs.

    ``(1 / 2B) sum_i -log( exp(cos(z_i, z_i+) / t) / sum_{j != i} exp(cos(z_i, z_j) / t) )``, z the 2B features and z_i+
    the other sensor's feature of the same patch. *Confirmed* (CSMAE's released code, there exponentiated without
    subtracting the maximum, which overflows fp16 at t = 0.07; ``logsumexp`` subtracts it).

    Args:
        first_BD: Features of one sensor.
        second_BD: Features of the other.
        temperature: t > 0.

    Returns:
        Scalar, float32.

    Raises:
        UsageError: The shapes differ, or the temperature is not positive.
    """
    _require_pairs(first_BD, second_BD)
    if not temperature > 0:
        raise UsageError(f"temperature must be positive; got {temperature}")
    pairs = first_BD.shape[0]
    z_ND = functional.normalize(torch.cat([first_BD, second_BD]).float(), dim=1)
    with torch.autocast(z_ND.device.type, enabled=False):
        logits_NN = z_ND @ z_ND.T / temperature
    self_NN = torch.eye(2 * pairs, dtype=torch.bool, device=z_ND.device)
    normaliser_N = torch.logsumexp(logits_NN.masked_fill(self_NN, float("-inf")), dim=1)
    positive_N = torch.cat([logits_NN.diagonal(pairs), logits_NN.diagonal(-pairs)])
    return (normaliser_N - positive_N).mean()


def modal_discrepancy(first_BD: Tensor, second_BD: Tensor) -> Tensor:
    """``(1 / B) sum_i log(1 + exp(cos(e1_i, e2_i)))``: large where the two sensors' features point the same way.

    *Confirmed* for the authors' port. The objective subtracts it.

    Raises:
        UsageError: The shapes differ.
    """
    _require_pairs(first_BD, second_BD)
    return functional.softplus(functional.cosine_similarity(first_BD.float(), second_BD.float(), dim=1)).mean()


def nearest_neighbours(features_BD: Tensor) -> Tensor:
    """Index ``[B]`` of every row's nearest other row by Euclidean distance; the lowest index on ties.

    Raises:
        UsageError: There are fewer than two rows.
    """
    if features_BD.shape[0] < MIN_BATCH:
        raise UsageError(f"nearest neighbours need at least {MIN_BATCH} patches in a batch; got {features_BD.shape[0]}")
    with torch.no_grad():
        exact = "donot_use_mm_for_euclid_dist"  # the matrix product form turns equal rows into unequal distances
        distances_BB = torch.cdist(features_BD.float(), features_BD.float(), compute_mode=exact)
        return distances_BB.fill_diagonal_(float("inf")).argmin(dim=1)


def intra_modal_similarity(first_BD: Tensor, second_BD: Tensor) -> Tensor:
    """``1/2 sum_s (1 / B) sum_i cos(e_s,i , e_s,nn(i))``: similarity of each patch to its nearest neighbour per sensor.

    *Confirmed* for the authors' port. The neighbour is chosen without gradient; both ends of the cosine carry it.

    Raises:
        UsageError: The shapes differ, or there are fewer than two patches.
    """
    _require_pairs(first_BD, second_BD)
    return (_neighbour_similarity(first_BD.float()) + _neighbour_similarity(second_BD.float())) / 2


def _neighbour_similarity(features_BD: Tensor) -> Tensor:
    # Indexing rows would do, but its gradient adds to rows that several patches share in an order that no one fixes.
    # Every entry of the similarity matrix is picked at most once, and the matrix product has a fixed order.
    neighbours_B1 = nearest_neighbours(features_BD)[:, None]
    unit_BD = functional.normalize(features_BD, dim=1)
    with torch.autocast(unit_BD.device.type, enabled=False):
        return (unit_BD @ unit_BD.T).gather(1, neighbours_B1).mean()
