"""Regularisers that make real-valued hash outputs behave like bits.

Shape legend: B patches, K bits; values in (-1, 1) after tanh. The sums are *confirmed* (DA4DTE, hash heads on CSMAE);
they grow with the batch, so their weights hold for one batch size only. The means are *ours*: the same terms divided by
their number, so that a weight holds for every batch size and code length.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from eoforge.errors import UsageError

Reduction = Literal["sum", "mean"]
Over = Literal["bits", "samples"]


def quantisation(first_BK: Tensor, second_BK: Tensor, reduction: Reduction = "sum") -> Tensor:
    """``sum_s sum_i || sign((h1_i + h2_i) / 2) - h_s,i ||^2``: pulls both sensors towards the sign of their mean.

    *Confirmed*, but for sign(0), which is -1 here (*ours*): the bit of an exact zero is 0. No gradient passes the sign.

    Args:
        first_BK: Outputs of one sensor.
        second_BK: Outputs of the other.
        reduction: "sum", or "mean" over sensors, patches and bits.

    Raises:
        UsageError: The shapes differ or the reduction is unknown.
    """
    if first_BK.shape != second_BK.shape:
        raise UsageError(f"expected two tensors of one shape; got {tuple(first_BK.shape)} and {tuple(second_BK.shape)}")
    both_2BK = torch.stack([first_BK, second_BK]).float()
    target_BK = torch.where(both_2BK.detach().sum(dim=0) > 0, 1.0, -1.0)
    return _reduce((target_BK - both_2BK).square(), reduction)


def bit_balance(outputs_BK: Tensor, over: Over = "bits", reduction: Reduction = "sum") -> Tensor:
    """Penalises outputs that are mostly +1 or mostly -1.

    ``over="bits"``: ``sum_i (sum_k h_ik)^2``, as many set as unset bits in each code; *confirmed*.
    ``over="samples"``: ``sum_k (sum_i h_ik)^2``, each bit set in half of the patches; *ours*, and what the entropy of a
    code needs. "mean" averages inside and outside the square.

    Raises:
        UsageError: ``over`` or the reduction is unknown.
    """
    if over not in ("bits", "samples"):
        raise UsageError(f"balance goes over 'bits' or 'samples'; got {over!r}")
    inner = _reduce(outputs_BK.float(), reduction, dim=1 if over == "bits" else 0)
    return _reduce(inner.square(), reduction)


def _reduce(values: Tensor, reduction: Reduction, dim: int | None = None) -> Tensor:
    if reduction == "sum":
        return values.sum(dim=dim)
    if reduction == "mean":
        return values.mean(dim=dim)
    raise UsageError(f"reduction must be 'sum' or 'mean'; got {reduction!r}")
