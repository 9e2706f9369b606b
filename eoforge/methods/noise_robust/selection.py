"""Which labels of a batch are wrong, by the losses of two heads.

Shape legend: B samples of a batch, N of the training split, M losses that are compared with each other: those of all
samples, or of all labels of one kind.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eoforge.losses.robust import IGNORE, Target

Importance = Literal["gap", "joint", "power", "joint_power"]
Unit = Literal["sample", "label"]
MIN_FOR_MIXTURE = 32
_SEPARATION = 1.5
"""Distance of the two means, in deviations, below which a mixture is no evidence of wrong labels (*ours*)."""


def minmax(values_M: Tensor) -> Tensor:
    """Values scaled to 0..1; zeros if all are equal or there are none."""
    if not len(values_M):
        return values_M
    low, high = values_M.min(), values_M.max()
    return (values_M - low) / (high - low) if bool(high > low) else torch.zeros_like(values_M)


def loss_gap(discriminative_M: Tensor, generative_M: Tensor) -> Tensor:
    """``minmax(l_d) - minmax(l_g)``, in -1..1 (*confirmed*: GRID's released code); large for wrong labels."""
    return minmax(discriminative_M.detach()) - minmax(generative_M.detach())


def loss_sum(discriminative_M: Tensor, generative_M: Tensor) -> Tensor:
    """``minmax(l_d + l_g)``, in 0..1 (*ours*); large where neither head believes a label."""
    return minmax((discriminative_M + generative_M).detach())


def noisy_set(gap_M: Tensor, rate: float) -> Tensor:
    """Mask ``[M]`` of W: the ``floor(rate M)`` members of the largest gap (*confirmed*)."""
    return largest(gap_M, floor_share(rate, len(gap_M)))


def largest(gap_M: Tensor, count: int) -> Tensor:
    """Mask ``[M]`` of the ``count`` largest values, or of all if there are fewer."""
    mask_M = torch.zeros(len(gap_M), dtype=torch.bool, device=gap_M.device)
    mask_M[gap_M.topk(min(count, len(gap_M))).indices] = True
    return mask_M


def floor_share(rate: float, count: int) -> int:
    """``floor(rate count)``, whatever the binary fraction of the rate."""
    return int(rate * count + 1e-6)


def comparable(unit: Unit, target: Target, labels: Tensor) -> list[Tensor]:
    """Masks of the losses that are compared with each other.

    Samples are all alike. Labels of scenes are compared among those that are given, and among those that are not: the
    latter are many more, and easier (*ours*). Pixels are compared where they have a class.
    """
    if unit == "sample":
        return [torch.ones(len(labels), dtype=torch.bool, device=labels.device)]
    if target == "multi":
        return [labels > 0.5, labels <= 0.5]
    return [labels != IGNORE]


def importance(kind: Importance, discriminative_M: Tensor, generative_M: Tensor, kappa: float = 2.0) -> Tensor:
    """Weights ``[M]`` of mean 1, without gradient, low for wrong labels (*reconstructed*; the paper was not read).

    Args:
        kind: ``gap``: ``(1 - gap) / 2``; ``joint``: ``1 - minmax(l_d + l_g)``, both losses are large on a wrong label;
            ``power`` and ``joint_power``: these to the power ``kappa``.
        discriminative_M: Losses of the task head.
        generative_M: Losses of the supervised variational autoencoder.
        kappa: Exponent.
    """
    if kind.startswith("joint"):
        weights_M = 1 - loss_sum(discriminative_M, generative_M)
    else:
        weights_M = (1 - loss_gap(discriminative_M, generative_M)) / 2
    weights_M = weights_M**kappa if kind.endswith("power") else weights_M
    mean = weights_M.mean()
    return weights_M / mean if bool(mean > 0) else torch.ones_like(weights_M)


def estimated_rate(gaps_N: npt.NDArray[np.floating]) -> float:
    """Share of wrong labels by a mixture of two normal distributions over the gaps (*ours*).

    The share is that of the gaps that more likely belong to the component of larger mean. It is 0 where the two
    components are not apart, or with fewer than 32 gaps.
    """
    values = np.asarray(gaps_N, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) < MIN_FOR_MIXTURE or np.ptp(values) == 0:
        return 0.0
    from sklearn.mixture import GaussianMixture  # a second to import, and fixed rates do without

    mixture = GaussianMixture(2, random_state=0, means_init=np.percentile(values, [25, 90])[:, None])
    component = mixture.fit_predict(values[:, None])
    means, deviations = mixture.means_[:, 0], np.sqrt(mixture.covariances_[:, 0, 0])
    high = int(means.argmax())
    if means[high] - means[1 - high] < _SEPARATION * deviations[1 - high]:
        return 0.0
    # A wide component also claims the far end of the other side.
    return float(((component == high) & (values > means[1 - high])).mean())
