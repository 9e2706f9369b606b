"""The supervised variational autoencoder on image features, shared by GRID and RS-IRL-SVAE.

Shape legend: B patches, D features, d latent values, L outputs, h x w cells of a feature map::

    f [B,D] -> encoder -> mu, rho [B,d];  std = softplus(rho);  z = mu + std * eps -+-> decoder -> f_hat [B,D]
                                                                                    +-> head    -> logits [B,L]

For pixel maps every layer is a 1 x 1 convolution: ``[B,D,h,w]`` instead of ``[B,D]``. Source: GRID (arXiv 2212.01261,
released code, *confirmed*), where D is 1,024, d is 128 and the decoder ends with a ReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_TINY = 1e-12


class Latent(NamedTuple):
    """Parameters of q(z|f): mean and standard deviation, ``[B, d]`` or ``[B, d, h, w]``."""

    mean: Tensor
    std: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        """``mean + std * eps``; ``eps`` is standard normal, of the same shape: one draw per sample.

        The released code draws one vector for the whole batch, which makes the noise of all samples equal.
        """
        return self.mean + self.std * eps


class GenerativeBranch(nn.Module):
    """Encoder, feature decoder and generative head.

    Args:
        features: D.
        outputs: L.
        latent: d.
        spatial: Whether inputs are maps ``[B, D, h, w]``.
        non_negative: Whether the features are outputs of a ReLU, as DenseNet's: the decoder then ends with one too.
        fit: For maps: logits at the resolution of the features to that of the labels.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        latent: int = 128,
        *,
        spatial: bool = False,
        non_negative: bool = True,
        fit: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.latent, self.outputs = latent, outputs
        self._fit = fit

        def layer(inputs: int, outputs: int) -> nn.Module:
            return nn.Conv2d(inputs, outputs, kernel_size=1) if spatial else nn.Linear(inputs, outputs)

        self.encoder = layer(features, 2 * latent)
        self.decoder = nn.Sequential(layer(latent, features), nn.ReLU() if non_negative else nn.Identity())
        self.head = layer(latent, outputs)

    def encode(self, features: Tensor) -> Latent:
        """q(z|f). Softplus instead of the released ``log(1 + exp(rho))``, which overflows."""
        mean, rho = self.encoder(features.float()).chunk(2, dim=1)
        return Latent(mean, functional.softplus(rho))

    def classify(self, z: Tensor) -> Tensor:
        """Logits of the generative head, ``[B, L]`` or at the resolution of the labels."""
        logits: Tensor = self.head(z)
        return logits if self._fit is None else self._fit(logits)

    def noise(self, features: Tensor) -> Tensor:
        """Standard normal values of the shape of z for ``features``."""
        return torch.randn(features.shape[0], self.latent, *features.shape[2:], device=features.device)

    def divergence(self, latent: Latent) -> Tensor:
        """``KL(q(z|f) || N(0, I))`` per patch, ``[B]``: summed over d, averaged over the cells of a map."""
        variance = latent.std.square()
        terms = -0.5 * (1 + (variance + _TINY).log() - latent.mean.square() - variance)
        return _per_patch(terms.sum(dim=1))

    def reconstruction(self, features: Tensor, z: Tensor) -> Tensor:
        """Mean squared error of the decoded features per patch, ``[B]``; ``features`` are a constant."""
        return _per_patch((self.decoder(z) - features.detach().float()).square().mean(dim=1))


def _per_patch(values: Tensor) -> Tensor:
    return values.flatten(1).mean(dim=1) if values.dim() > 1 else values
