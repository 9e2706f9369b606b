"""Transforms between native grids and latents.

Space-to-depth maps all bands to the 20 m grid: a 10 m band becomes four channels (its 2 x 2 pixels), a 20 m band one, a
60 m band one, its pixels repeated 3 x 3 times and divided by three. The map keeps sums of squares, so equal errors of
channels are equal errors of samples.

    native grids -> channels -> linear block transform --+-> y      y --+-> transposed block transform --+-> channels
                           \\-> convolutions with GDN ---/               \\-> convolutions with inverse GDN --/

The linear path (*ours*) is initialised as a block transform, so the codec works before training; it also keeps values
far outside the training data, such as reflectances of 2, which divisive normalisation would flatten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from eoforge.codec.raster import factor_of, grid_shape

DEPTH_FACTOR = 2
_COARSE = 3
_PEDESTAL = 2.0**-18


class GDN(nn.Module):
    """Generalised divisive normalisation of Ballé et al. 2016 (*confirmed*), ``x / sqrt(beta + gamma x^2)``.

    Args:
        channels: C.
        inverse: Multiplication instead of division (IGDN).
    """

    def __init__(self, channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.ones(channels).sqrt())
        self.gamma = nn.Parameter((0.1 * torch.eye(channels) + _PEDESTAL).sqrt())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape."""
        # Squares keep both positive; the pedestal keeps the norm away from zero.
        weight = self.gamma.square()[:, :, None, None]
        norm = functional.conv2d(x_BCHW.square(), weight, self.beta.square() + _PEDESTAL).sqrt()
        return x_BCHW * norm if self.inverse else x_BCHW / norm


class SpaceToDepth:
    """Space-to-depth map between the bands of one modality and channels on the 20 m grid.

    Args:
        bands: Band names.
        mean: Mean of each band, subtracted.
        scale: Common divisor of all bands, so that equal errors have equal weight.
    """

    def __init__(self, bands: tuple[str, ...], mean: tuple[float, ...], scale: float) -> None:
        self.bands, self.mean, self.scale = bands, mean, scale
        self.start: dict[str, int] = {}
        channel = 0
        for band in bands:
            self.start[band] = channel
            channel += 4 if factor_of(band) == 1 else 1
        self.channels = channel

    def pack(self, grids: Mapping[str, Tensor], shape: tuple[int, int], multiple: int) -> Tensor:
        """Bands ``[B, h, w]`` on native grids to channels ``[B, C, H', W']``, sides multiples of ``multiple``.

        An absent band is zero (its mean). Padding repeats the nearest pixel.
        """
        rows, columns = padded_shape(shape, multiple)
        first = next(iter(grids.values()))
        x_BCHW = first.new_zeros((len(first), self.channels, rows, columns), dtype=torch.float32)
        for band, mean in zip(self.bands, self.mean, strict=True):
            if band not in grids:
                continue
            pixels = ((grids[band].float() - mean) / self.scale)[:, None]
            factor = factor_of(band)
            if factor == 1:
                pixels = functional.pixel_unshuffle(_grow(pixels, 2 * rows, 2 * columns), 2)
            elif factor == DEPTH_FACTOR * _COARSE:
                pixels = pixels.repeat_interleave(_COARSE, 2).repeat_interleave(_COARSE, 3) / _COARSE
                pixels = _grow(pixels, rows, columns)
            else:
                pixels = _grow(pixels, rows, columns)
            x_BCHW[:, self.start[band] : self.start[band] + pixels.shape[1]] = pixels
        return x_BCHW

    def band_means(self, block: int) -> Tensor:
        """Orthonormal rows ``[bands, C D^2]`` that take the mean of each band over a block of ``D x D`` pixels."""
        rows = torch.zeros(len(self.bands), self.channels, block * block, dtype=torch.float64)
        for i, band in enumerate(self.bands):
            width = 4 if factor_of(band) == 1 else 1
            rows[i, self.start[band] : self.start[band] + width] = 1 / math.sqrt(width * block * block)
        return rows.flatten(1)

    def unpack(self, x_BCHW: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
        """Channels to bands ``[B, h, w]`` in their units."""
        grids = {}
        for band, mean in zip(self.bands, self.mean, strict=True):
            factor, start = factor_of(band), self.start[band]
            rows, columns = grid_shape(shape, factor)
            if factor == 1:
                pixels = functional.pixel_shuffle(x_BCHW[:, start : start + 4], 2)
            elif factor == DEPTH_FACTOR * _COARSE:
                pixels = x_BCHW[:, start : start + 1, : rows * _COARSE, : columns * _COARSE]
                pixels = functional.avg_pool2d(pixels, _COARSE) * _COARSE
            else:
                pixels = x_BCHW[:, start : start + 1]
            grids[band] = pixels[:, 0, :rows, :columns] * self.scale + mean
        return grids


def padded_shape(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Rows and columns of the 20 m grid that covers every grid of ``shape``, rounded up to ``multiple``."""
    rows, columns = (_COARSE * side for side in grid_shape(shape, DEPTH_FACTOR * _COARSE))
    return (-(-rows // multiple) * multiple, -(-columns // multiple) * multiple)


def _grow(pixels: Tensor, rows: int, columns: int) -> Tensor:
    return functional.pad(pixels, (0, columns - pixels.shape[3], 0, rows - pixels.shape[2]), mode="replicate")


class Analysis(nn.Module):
    """Analysis transform: channels ``[B, C, H, W]`` to latents ``[B, M, H / D, W / D]`` with ``D = 2^stages``."""

    def __init__(self, inputs: int, channels: int, latent: int, stages: int, kernel: int) -> None:
        super().__init__()
        block = 2**stages
        self.linear = nn.Conv2d(inputs, latent, block, stride=block, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(low_frequencies(inputs, block, latent))
        layers: list[nn.Module] = [nn.Conv2d(inputs, channels, kernel, padding=kernel // 2), GDN(channels)]
        for stage in range(stages):
            out = latent if stage == stages - 1 else channels
            layers.append(nn.Conv2d(channels, out, kernel, stride=2, padding=kernel // 2))
            if out == channels and stage < stages - 1:
                layers.append(GDN(channels))
        _zero(layers[-1])
        self.nonlinear = nn.Sequential(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Sum of the linear and the non-linear path."""
        y_BMhw: Tensor = self.linear(x_BCHW) + self.nonlinear(x_BCHW)
        return y_BMhw


class Synthesis(nn.Module):
    """Synthesis transform: latents ``[B, M, H / D, W / D]`` to channels ``[B, C, H, W]``."""

    def __init__(self, outputs: int, channels: int, latent: int, stages: int, kernel: int) -> None:
        super().__init__()
        block = 2**stages
        self.linear = nn.ConvTranspose2d(latent, outputs, block, stride=block, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(low_frequencies(outputs, block, latent))
        layers: list[nn.Module] = []
        for stage in range(stages):
            inputs = latent if stage == 0 else channels
            layers += [
                nn.ConvTranspose2d(inputs, channels, kernel, stride=2, padding=kernel // 2, output_padding=1),
                GDN(channels, inverse=True),
            ]
        layers.append(nn.Conv2d(channels, outputs, kernel, padding=kernel // 2))
        _zero(layers[-1])
        self.nonlinear = nn.Sequential(*layers)

    def forward(self, y_BMhw: Tensor) -> Tensor:
        """Sum of the linear and the non-linear path."""
        # Inverse normalisation grows with the square of its input, stage by stage: asinh compresses values far outside
        # the training data, which the linear path keeps.
        x_BCHW: Tensor = self.linear(y_BMhw) + self.nonlinear(torch.asinh(y_BMhw))
        return x_BCHW


def _zero(layer: nn.Module) -> None:
    """Zero initialisation of the last layer of the non-linear path, so that training starts at the block transform."""
    assert isinstance(layer, nn.Conv2d)
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def low_frequencies(channels: int, block: int, latent: int) -> Tensor:
    """Orthonormal DCT-II basis ``[M, C, D, D]`` of every channel by rising frequency; zero beyond ``C D^2``."""
    n = torch.arange(block, dtype=torch.float64)
    basis = torch.cos(math.pi / block * (n[None] + 0.5) * n[:, None]) * math.sqrt(2 / block)
    basis[0] /= math.sqrt(2)
    order = sorted((u + v, u, v) for u in range(block) for v in range(block))
    weight = torch.zeros(latent, channels, block, block)
    pairs = [(channel, u, v) for _, u, v in order for channel in range(channels)]
    for index, (channel, u, v) in enumerate(pairs[:latent]):
        weight[index, channel] = torch.outer(basis[u], basis[v])
    return weight
