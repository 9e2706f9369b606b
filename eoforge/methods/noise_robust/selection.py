"""Which samples of a batch have wrong labels, by the losses of two heads.

Shape legend: B samples of a batch, N samples of the training split. On a wrong label the loss of the discriminative
head is large relative to that of the smoother generative head.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Importance = Literal["gap", "joint", "power"]
MIN_FOR_MIXTURE = 32
_SEPARATION = 1.5
"""Distance of the two means, in deviations, below which a mixture is no evidence of wrong labels (*ours*)."""


def minmax(values_B: Tensor) -> Tensor:
    """Values scaled to 0..1 over the batch; zeros if all are equal."""
    low, high = values_B.min(), values_B.max()
    return (values_B - low) / (high - low) if bool(high > low) else torch.zeros_like(values_B)


def loss_gap(discriminative_B: Tensor, generative_B: Tensor) -> Tensor:
    """``minmax(l_d) - minmax(l_g)``, in -1..1 (*confirmed*: GRID's released code); large for wrong labels."""
    return minmax(discriminative_B.detach()) - minmax(generative_B.detach())


def noisy_set(gap_B: Tensor, rate: float) -> Tensor:
    """Mask ``[B]`` of W: the ``floor(rate B)`` samples of the largest gap (*confirmed*)."""
    count = int(rate * len(gap_B) + 1e-6)
    mask_B = torch.zeros(len(gap_B), dtype=torch.bool, device=gap_B.device)
    mask_B[gap_B.topk(count).indices] = True
    return mask_B


def importance(kind: Importance, discriminative_B: Tensor, generative_B: Tensor, kappa: float = 2.0) -> Tensor:
    """Weights ``[B]`` of mean 1, without gradient, low for wrong labels (*reconstructed*; the paper was not read).

    Args:
        kind: ``gap``: ``(1 - gap) / 2``; ``joint``: ``1 - minmax(l_d + l_g)``, both losses are large on a wrong label;
            ``power``: the first to the power ``kappa``.
        discriminative_B: Losses of the task head.
        generative_B: Losses of the supervised variational autoencoder.
        kappa: Exponent of ``power``.
    """
    if kind == "joint":
        weights_B = 1 - minmax((discriminative_B + generative_B).detach())
    else:
        weights_B = (1 - loss_gap(discriminative_B, generative_B)) / 2
    weights_B = weights_B**kappa if kind == "power" else weights_B
    mean = weights_B.mean()
    return weights_B / mean if bool(mean > 0) else torch.ones_like(weights_B)


def estimated_rate(gaps_N: npt.NDArray[np.floating]) -> float:
    """Share of wrong labels by a mixture of two normal distributions over the gaps (*ours*).

    The share is that of the samples that more likely belong to the component of larger mean. It is 0 where the two
    components are not apart, or with fewer than 32 samples.
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
