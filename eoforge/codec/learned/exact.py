"""Layers in exact integer arithmetic, with equal results on every machine, device, batch size and thread count.

Activations and weights are integers that stand for multiples of 2^-12. Sums of products are carried in float64, where
integers below 2^53 add up exactly in any order; the weights are checked before use so that no sum can reach 2^53.
Rounding is a shift in int64.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from eoforge.errors import BundleError, DataRefused

FRACTION_BITS = 12
ONE = 1 << FRACTION_BITS
ACTIVATION_LIMIT = 1 << 24
"""Limit of layer inputs: -2^24..2^24, that is -4,096..4,096."""
_EXACT = 1 << 53


def rescale(value: Tensor, bits: int) -> Tensor:
    """``floor(value / 2^bits + 1/2)`` of int64."""
    return (value + (1 << bits >> 1)) >> bits


def clamp(value: Tensor) -> Tensor:
    """Values clamped to the input range of layers."""
    return value.clamp(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


class ExactConv(nn.Module):
    """Integer counterpart of a ``Conv2d`` (padded by half its kernel) or a ``Linear`` (kernel 1).

    Args:
        inputs: Channels I.
        outputs: Channels O.
        kernel: Odd side of the kernel.
        stride: Step of the kernel.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self._checked: tuple[tuple[int, int, int], Tensor] | None = None
        self.register_buffer("weight", torch.zeros(outputs, inputs * kernel * kernel, dtype=torch.int32))
        self.register_buffer("bias", torch.zeros(outputs, dtype=torch.int64))

    @torch.no_grad()
    def copy(self, layer: nn.Conv2d | nn.Linear) -> None:
        """Copies and rounds the weights of the float layer.

        Raises:
            DataRefused: A weight is not finite or too large to compute with exactly.
        """
        weight = layer.weight.detach().double().reshape(self.weight.shape) * ONE
        bias = layer.bias.detach().double() if layer.bias is not None else torch.zeros(len(weight), dtype=torch.float64)
        if not bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()) or weight.abs().max() >= 1 << 30:
            raise DataRefused("a weight is infinite or above 2^18: training has diverged. Train with a smaller rate")
        self.weight.copy_(weight.round())
        self.bias.copy_((bias * ONE * ONE).round())
        self._numbers()

    def _numbers(self) -> Tensor:
        """Weights as float64, checked once after every change."""
        state = (self.weight.data_ptr(), self.weight._version, self.bias._version)
        if self._checked is not None and self._checked[0] == state:
            return self._checked[1]
        numbers = self.weight.double()
        reach = numbers.abs().sum(1) * ACTIVATION_LIMIT + self.bias.double().abs()
        if not reach.max() < _EXACT:
            raise BundleError(
                f"the sums of an exact layer may reach {reach.max():.3g}; above 2^53 they are not exact. "
                "Train with weight decay"
            )
        self._checked = (state, numbers)
        return numbers

    def forward(self, x_BIHW: Tensor) -> Tensor:
        """int64 ``[B, I, H, W]`` within the limit to int64 ``[B, O, H / stride, W / stride]``, not yet clamped.

        Raises:
            BundleError: The weights are too large to be exact.
        """
        numbers = self._numbers()
        batch, _, height, width = x_BIHW.shape
        columns = x_BIHW.double().flatten(2)
        if self.kernel > 1:
            columns = functional.unfold(columns.view_as(x_BIHW), self.kernel, 1, self.kernel // 2, self.stride)
        total = (numbers @ columns).long() + self.bias[:, None]
        size = (batch, -1, -(-height // self.stride), -(-width // self.stride))
        return rescale(total, FRACTION_BITS).reshape(size)


class ExactHyperDecoder(nn.Module):
    """Integer counterpart of ``priors.HyperDecoder``: hyper-latent to mean and scale index of each latent."""

    def __init__(self, hyper: int, latent: int) -> None:
        super().__init__()
        self.first = ExactConv(hyper, hyper * 4, 3)
        self.second = ExactConv(hyper, hyper * 4, 3)
        self.last = ExactConv(hyper, latent * 2)

    def forward(self, z_BZhw: Tensor) -> tuple[Tensor, Tensor]:
        """Integers ``[B, Z, h, w]`` to two int64 ``[B, M, 4h, 4w]`` in multiples of 2^-12."""
        x = clamp(z_BZhw * (ONE // 4))
        for layer in (self.first, self.second):
            x = functional.pixel_shuffle(clamp(layer(x)).clamp(min=0), 2)
        mean, scale = self.last(x).chunk(2, dim=1)
        return mean, scale


class ExactHash(nn.Module):
    """Integer counterpart of ``priors.HashModule``: normalised latent to hash logits."""

    def __init__(self, latent: int, hidden: int, bits: int) -> None:
        super().__init__()
        self.conv = ExactConv(latent, hidden, 3, stride=2)
        self.inner = ExactConv(hidden, hidden)
        self.outer = ExactConv(hidden, bits)

    def forward(self, y_BMhw: Tensor) -> Tensor:
        """int64 ``[B, M, h, w]`` to int64 logits ``[B, K]``."""
        x = clamp(self.conv(clamp(y_BMhw))).clamp(min=0)
        pooled = torch.div(x.sum((2, 3), keepdim=True), x.shape[2] * x.shape[3], rounding_mode="floor")
        hidden = clamp(self.inner(pooled)).clamp(min=0)
        return self.outer(hidden).flatten(1)
