"""Contrastive losses between the features of two sensors for the same patches.

Shape legend: B patches, D feature channels. Row i of both inputs belongs to the same patch. All losses are computed in
float32, also for inputs in bf16, where a similarity of 0.9 has two decimal digits. Only ``kernels.nt_xent`` computes
matrices of pairs, one tile at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from eoforge.errors import UsageError
from kernels.nt_xent import neighbour_similarity
from kernels.nt_xent import nt_xent as nt_xent_op

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
    subtracting the maximum, which overflows fp16 at t = 0.07; :func:`kernels.nt_xent.nt_xent` subtracts it).

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
    return nt_xent_op(_supported(first_BD), _supported(second_BD), temperature)


def _supported(features_BD: Tensor) -> Tensor:
    """Features in a dtype of the kernels: float64 becomes float32."""
    return features_BD.float() if features_BD.dtype == torch.float64 else features_BD


def modal_discrepancy(first_BD: Tensor, second_BD: Tensor) -> Tensor:
    """Modal discrepancy ``(1 / B) sum_i log(1 + exp(cos(e1_i, e2_i)))``, large for parallel features.

    *Confirmed* for the authors' port. The objective subtracts it.

    Raises:
        UsageError: The shapes differ.
    """
    _require_pairs(first_BD, second_BD)
    return functional.softplus(functional.cosine_similarity(first_BD.float(), second_BD.float(), dim=1)).mean()


def intra_modal_similarity(first_BD: Tensor, second_BD: Tensor) -> Tensor:
    """Mean similarity of patches to their nearest neighbours, ``1/2 sum_s (1 / B) sum_i cos(e_s,i , e_s,nn(i))``.

    *Confirmed* for the authors' port. The choice of the neighbour has no gradient; both features of the cosine have.

    Raises:
        UsageError: The shapes differ, or there are fewer than two patches.
    """
    _require_pairs(first_BD, second_BD)
    if first_BD.shape[0] < MIN_BATCH:
        raise UsageError(f"nearest neighbours need at least {MIN_BATCH} patches in a batch; got {first_BD.shape[0]}")
    return (neighbour_similarity(_supported(first_BD)) + neighbour_similarity(_supported(second_BD))) / 2
