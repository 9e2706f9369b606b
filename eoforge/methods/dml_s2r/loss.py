"""Losses of DML-S2R: differences of labelled pairs, mining of triplets, triplet and log-ratio loss.

Shape legend: N inputs of a batch, D features, K mined inputs per anchor.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_EPSILON = 1e-6


def pair_loss(difference_NN: Tensor, values_N: Tensor) -> Tensor:
    """``L_PSM = 1 / (N (N - 1)) sum_{i != j} ((y_i - y_j) - f^d(i, j))^2``.

    Known from a secondary source, not from the paper itself. Zero for fewer than two inputs.
    """
    count = len(values_N)
    if count < 2:
        return difference_NN.sum() * 0
    error_NN = (values_N[:, None] - values_N[None]) - difference_NN
    apart = ~torch.eye(count, dtype=torch.bool, device=values_N.device)
    return error_NN[apart].square().mean()


def target_distance(difference_NN: Tensor, values_N: Tensor) -> Tensor:
    """delta ``[N, N]``: ``|y_i - y_j|`` where both labels are known, else ``|f^d(i, j)|`` (*ours*).

    Args:
        difference_NN: f^d of the frozen network.
        values_N: Labels; NaN for unlabelled inputs.
    """
    true_NN = (values_N[:, None] - values_N[None]).abs()
    return torch.where(true_NN.isnan(), difference_NN.abs(), true_NN)


def pseudo_values(difference_NN: Tensor, distance_NN: Tensor, values_N: Tensor, neighbours: int) -> Tensor:
    """Values ``[N]``: the label where there is one, else the mean of ``y_l + f^d(i, l)`` over the nearest labelled l.

    It is the rule of the prediction, within a batch (*ours*): the mean errs less than a single difference.

    Args:
        difference_NN: f^d of the frozen network.
        distance_NN: Distances of its features.
        values_N: Labels; NaN for unlabelled inputs, at least one is not.
        neighbours: Labelled inputs that are asked.
    """
    known = (~values_N.isnan()).nonzero()[:, 0]
    near_NK = distance_NN[:, known].topk(min(neighbours, len(known)), dim=1, largest=False).indices
    estimate_NL = values_N[known] + difference_NN[:, known]
    return torch.where(values_N.isnan(), estimate_NL.gather(1, near_NK).mean(dim=1), values_N)


def pseudo_pair_loss(difference_NN: Tensor, pseudo_N: Tensor, known_N: Tensor) -> Tensor:
    """Mean over unlabelled i and all j of ``((z_i - z_j) - f^d(i, j))^2``, z being labels and pseudo-values (*ours*).

    Zero if there is no unlabelled input, or no pseudo-value.

    Args:
        difference_NN: f^d of the network that learns.
        pseudo_N: From :func:`pseudo_values`; NaN where there is none.
        known_N: Which inputs have a label.
    """
    error_NN = (pseudo_N[:, None] - pseudo_N[None]).nan_to_num() - difference_NN
    chosen_NN = (~known_N[:, None] & ~pseudo_N.isnan()[:, None]).expand_as(error_NN)
    return torch.where(chosen_NN, error_NN.square(), 0.0).sum() / chosen_NN.sum().clamp(min=1)


def mine(delta_NN: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Positives and negatives ``[N, K]`` of each anchor: the nearest and farthest others by delta (*ours*).

    K is ``count``, or less if the batch has fewer others; no input is positive and negative of the same anchor.
    """
    others = len(delta_NN) - 1
    count = min(count, others // 2)
    alone = torch.eye(len(delta_NN), dtype=torch.bool, device=delta_NN.device)
    positives = delta_NN.masked_fill(alone, torch.inf).topk(count, dim=1, largest=False).indices
    negatives = delta_NN.masked_fill(alone, -torch.inf).topk(count, dim=1).indices
    return positives, negatives


def square_distance(features_ND: Tensor) -> Tensor:
    """``|u_i - u_j|^2`` ``[N, N]`` of the directions u of features (*ours*: it gives the margin a scale)."""
    unit_ND = functional.normalize(features_ND.float(), dim=1)
    return (2 - 2 * unit_ND @ unit_ND.T).clamp(min=0)


def triplet_loss(distance_NN: Tensor, positives_NK: Tensor, negatives_NK: Tensor, margin: float) -> Tensor:
    """Mean over all triplets of ``max(0, d_ap - d_an + margin)``, d being squared distances (*ours* in its details)."""
    near_NK1 = distance_NN.gather(1, positives_NK)[:, :, None]
    far_N1K = distance_NN.gather(1, negatives_NK)[:, None]
    return (near_NK1 - far_N1K + margin).clamp(min=0).mean()


def log_ratio_loss(distance_NN: Tensor, delta_NN: Tensor, positives_NK: Tensor, negatives_NK: Tensor) -> Tensor:
    """Mean over all triplets of ``(log(d_ap / d_an) - log(delta_ap / delta_an))^2``.

    *Confirmed* (released code of Kim et al., CVPR 2019: squared distances, 1e-6 added to both); there over all pairs of
    an anchor, here over the mined ones.
    """
    logs = [(values + _EPSILON).log() for values in (distance_NN, delta_NN)]
    d, delta = (one.gather(1, positives_NK)[:, :, None] - one.gather(1, negatives_NK)[:, None] for one in logs)
    return (d - delta).square().mean()
