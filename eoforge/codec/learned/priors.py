"""Entropy model in floats, for training: likelihoods, hyper-transforms, hash module.

Each module whose outputs decide probabilities or hash codes has an integer counterpart in ``exact``, to which
``update`` copies the weights.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from eoforge.codec.tables import SCALES, SIGMA_MIN, SIGMA_RATIO, Frequencies

LOG_RATIO = math.log(SIGMA_RATIO)
LOG_SIGMA_MIN = math.log(SIGMA_MIN)
HYPER_REACH = 63
"""Largest value of the hyper-latent in its tables."""
_HYPER_SCALE = 4.0
_COMPONENTS = 3
_FLOOR = 1e-9
_HYPER_TOTAL = 1 << 22


class _Bounded(torch.autograd.Function):
    """Clamp that keeps the gradients that lead back between the bounds; those of ``clamp`` are zero outside."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.low, ctx.high = low, high
        return values.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (values,), (gradient,) = ctx.saved_tensors, gradients
        # Descent moves against the gradient: a negative one raises the value.
        outwards = ((values < ctx.low) & (gradient > 0)) | ((values > ctx.high) & (gradient < 0))
        return gradient.masked_fill(outwards, 0.0), None, None


def bounded(values: Tensor, low: float, high: float = math.inf) -> Tensor:
    """Values within bounds, with gradients that lead back into them."""
    return cast(Tensor, _Bounded.apply(values, low, high))


def _upper_tail(distance: Tensor) -> Tensor:
    """Mass of the standard Gaussian beyond ``distance``.

    ``torch.special.ndtr`` is one minus such a mass and loses all digits of a small one in float32.
    """
    return 0.5 * torch.special.erfc(distance * math.sqrt(0.5))


def scale_index(sigma: Tensor) -> Tensor:
    """Fractional index into ``tables`` of the standard deviation ``sigma``."""
    return (sigma.log() - LOG_SIGMA_MIN) / LOG_RATIO


def gaussian_likelihood(residual: Tensor, index: Tensor) -> Tensor:
    """Mass of the interval of width one around ``residual`` under the centred Gaussian of a table index."""
    sigma = (bounded(index, 0, SCALES - 1) * LOG_RATIO + LOG_SIGMA_MIN).exp()
    distance = residual.abs()
    # On one side of the centre: differences of small tails instead of differences of numbers near one.
    mass = _upper_tail((distance - 0.5) / sigma) - _upper_tail((distance + 0.5) / sigma)
    return bounded(mass, _FLOOR)


class FactorisedPrior(nn.Module):
    """Factorised prior: a mixture of three logistics per channel of the hyper-latent.

    Args:
        channels: Z.
    """

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.linspace(-1.0, 1.0, _COMPONENTS).repeat(channels, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, _COMPONENTS))
        self.weight = nn.Parameter(torch.zeros(channels, _COMPONENTS))
        self.register_buffer("frequencies", torch.zeros(channels, 2 * HYPER_REACH + 2, dtype=torch.int32))

    def likelihood(self, z_BZhw: Tensor) -> Tensor:
        """Mass of the interval of width one around each value."""
        x = z_BZhw.permute(0, 2, 3, 1)[..., None]
        scale = bounded(self.log_scale, -4.0, 5.0).exp()
        # The same reflection as for Gaussians: the mass of an interval left of the centre.
        distance = (x - self.centre).abs()
        upper = torch.sigmoid((0.5 - distance) / scale)
        lower = torch.sigmoid((-0.5 - distance) / scale)
        mass = ((upper - lower) * self.weight.softmax(-1)).sum(-1)
        return bounded(mass.permute(0, 3, 1, 2), _FLOOR)

    @torch.no_grad()
    def update(self) -> None:
        """Integer tables from the trained floats; coding uses the tables alone."""
        values = torch.arange(-HYPER_REACH, HYPER_REACH + 1, device=self.centre.device).float()
        mass = self.likelihood(values.view(1, 1, -1, 1).expand(1, len(self.centre), -1, 1))[0, :, :, 0].double()
        escape = (1 - mass.sum(1, keepdim=True)).clamp(min=1e-6)
        table = torch.cat([mass, escape], dim=1)
        self.frequencies.copy_((table / table.sum(1, keepdim=True) * _HYPER_TOTAL).floor())

    def tables(self) -> list[Frequencies]:
        """Frequencies of each channel's values and escape symbol."""
        return list(self.frequencies.cpu().numpy().astype(np.int64))


class HyperEncoder(nn.Module):
    """Normalised latent ``[B, M, h, w]`` to hyper-latent ``[B, Z, h / 4, w / 4]``, not yet rounded."""

    def __init__(self, latent: int, hyper: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(latent, hyper, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hyper, hyper, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(hyper, hyper, 5, stride=2, padding=2),
        )

    def forward(self, y_BMhw: Tensor) -> Tensor:
        """Hyper-latent of a latent; ``asinh`` compresses large latents (bright clouds)."""
        z_BZhw: Tensor = self.layers(torch.asinh(y_BMhw)) * _HYPER_SCALE
        return z_BZhw


class HyperDecoder(nn.Module):
    """Hyper-latent to mean and scale of the latent; float counterpart of ``exact.ExactHyperDecoder``."""

    def __init__(self, hyper: int, latent: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(hyper, hyper * 4, 3, padding=1)
        self.second = nn.Conv2d(hyper, hyper * 4, 3, padding=1)
        self.last = nn.Conv2d(hyper, latent * 2, 1)
        # Zero output of an untrained hyper-decoder leaves the scales of the channels.
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, z_BZhw: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, Z, h, w]`` to two ``[B, M, 4h, 4w]``."""
        x = z_BZhw / _HYPER_SCALE
        for layer in (self.first, self.second):
            x = functional.pixel_shuffle(layer(x).relu(), 2)
        mean, scale = self.last(x).chunk(2, dim=1)
        return mean, scale


class HashModule(nn.Module):
    """Normalised quantised latent to hash logits, without synthesis; float counterpart of ``exact.ExactHash``."""

    def __init__(self, latent: int, hidden: int, bits: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(latent, hidden, 3, stride=2, padding=1)
        self.inner = nn.Linear(hidden, hidden)
        self.outer = nn.Linear(hidden, bits)

    def forward(self, y_BMhw: Tensor) -> Tensor:
        """``[B, M, h, w]`` to ``[B, K]``; bit k of the code is ``logit_k > 0``."""
        pooled = self.conv(y_BMhw).relu().mean((2, 3))
        logits_BK: Tensor = self.outer(self.inner(pooled).relu())
        return logits_BK
