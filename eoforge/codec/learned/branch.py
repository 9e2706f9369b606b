"""Codec branch of one sensor: transforms, entropy model, hash module, and the exact path between stream and latent.

    grids -> channels -> g_a -> y --(x gain of the quality)--> round(y - mean) -> symbols --rANS--> stream
                                |                                   ^ mean, scale index
                                '-> h_a -> round -> z --rANS--> stream; z -> exact h_s

    stream -> z -> exact h_s -> tables -> symbols -> y_hat (integers) --+-> exact hash -> code
                                                                        '-> g_s -> channels -> grids

Units: ``y`` counts the finest quantisation step, so the gain of the highest quality is about one and others are
smaller. Integers in the exact path are multiples of 2^-12 of that step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eoforge.codec.entropy import MAX_VALUE
from eoforge.codec.learned.config import QUALITY_FRACTIONS, CodecConfig
from eoforge.codec.learned.exact import FRACTION_BITS, ONE, ExactHash, ExactHyperDecoder, clamp, rescale
from eoforge.codec.learned.priors import (
    LOG_RATIO,
    FactorisedPrior,
    HashModule,
    HyperDecoder,
    HyperEncoder,
    gaussian_likelihood,
    scale_index,
)
from eoforge.codec.learned.transforms import Analysis, SpaceToDepth, Synthesis, padded_shape
from eoforge.codec.raster import factor_of
from eoforge.codec.tables import SCALES

_INDEX_STEP = 8
_SCALE_BITS, _GAIN_BITS, _UNIT_BITS = 8, 16, 20
_SYMBOL_LIMIT = 1 << 26
_LATENT_LIMIT = 1 << 36
_SMALLEST_SCALE = 0.125


@dataclass
class CodecOutput:
    """Output of one forward pass over ``B`` patches of one sensor.

    Attributes:
        x_hat: Band -> float32 ``[B, h, w]`` on its native grid, in its unit, neither rounded nor clipped.
        likelihoods: ``y [B, M, h, w]`` and ``z [B, Z, h / 4, w / 4]``, rounded up: bits are ``-log2`` of them, summed.
        y_hat: Quantised latent ``[B, M, h, w]``.
        y: Latent before quantisation.
        logits: Hash logits ``[B, K]`` of ``y_hat``.
    """

    x_hat: dict[str, Tensor]
    likelihoods: dict[str, Tensor]
    y_hat: Tensor
    y: Tensor
    logits: Tensor


class Quantised(NamedTuple):
    """Integers of a latent, all int64: hyper-latent, symbols and their tables, exact ``y_hat``."""

    z: Tensor
    symbols: Tensor
    entries: Tensor
    y_hat: Tensor


class Branch(nn.Module):
    """Codec branch of one sensor.

    Args:
        config: Configuration of the whole codec.
        modality: ``s1`` or ``s2``.
    """

    channel_scale: Tensor
    scale_q: Tensor
    unit_q: Tensor
    index_q: Tensor
    gain_q: Tensor
    inverse_q: Tensor
    log_gain_q: Tensor
    ready: Tensor

    def __init__(self, config: CodecConfig, modality: str) -> None:
        super().__init__()
        bands = config.bands[modality]
        mean, std = config.statistics(modality)
        self.bands, self.steps = bands, config.steps
        self.space_to_depth = SpaceToDepth(bands, mean, math.sqrt(sum(s * s for s in std) / len(std)))
        self.block = 2**config.stages
        sizes = (self.space_to_depth.channels, config.channels, config.latent, config.stages, config.kernel)
        self.analysis, self.synthesis = Analysis(*sizes), Synthesis(*sizes)
        self.hyper_encoder = HyperEncoder(config.latent, config.hyper)
        self.hyper_decoder = HyperDecoder(config.hyper, config.latent)
        self.prior = FactorisedPrior(config.hyper)
        self.hash = HashModule(config.latent, config.hash_hidden, config.bits)
        self.exact_decoder = ExactHyperDecoder(config.hyper, config.latent)
        self.exact_hash = ExactHash(config.latent, config.hash_hidden, config.bits)
        # High-rate theory: the slope of rate over distortion D is -S / (2 ln 2 D) for S samples a pixel, and a uniform
        # quantiser of step d has D = d^2 / 12.
        samples = sum(1 / factor_of(band) ** 2 for band in bands)
        self.finest = math.sqrt(12 * samples / (2 * math.log(2) * config.lambda_max))
        lambdas = torch.tensor([config.lambda_of(q) for q in range(config.steps)])
        log_gain = 0.5 * (lambdas / config.lambda_max).log()[:, None].repeat(1, config.latent)
        self.log_gain = nn.Parameter(log_gain)
        self.log_inverse = nn.Parameter(-log_gain.clone())
        self.register_buffer("channel_scale", torch.full((config.latent,), 1 / self.finest))
        fractions = (config.steps - 1) * QUALITY_FRACTIONS + 1
        for name, shape in (
            ("scale_q", (config.latent,)),
            ("unit_q", (config.latent,)),
            ("index_q", (config.latent,)),
            ("gain_q", (fractions, config.latent)),
            ("inverse_q", (fractions, config.latent)),
            ("log_gain_q", (fractions, config.latent)),
            ("ready", ()),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int64))

    def _gains(self, quality_B: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms ``[B, M, 1, 1]`` of gain and inverse gain, interpolated between quality steps."""
        low = quality_B.floor().clamp(0, self.steps - 2).long()
        part = (quality_B - low)[:, None]
        mixed = [torch.lerp(table[low], table[low + 1], part) for table in (self.log_gain, self.log_inverse)]
        return mixed[0][:, :, None, None], mixed[1][:, :, None, None]

    def pack(self, grids: Mapping[str, Tensor], shape: tuple[int, int]) -> Tensor:
        """Bands ``[B, h, w]`` to channels ``[B, C, H, W]``."""
        return self.space_to_depth.pack(grids, shape, self.block)

    def latent(self, x_BCHW: Tensor) -> Tensor:
        """Channels to ``y [B, M, h, w]``."""
        y_BMhw: Tensor = self.analysis(x_BCHW) / self.finest
        return y_BMhw

    def reconstruct(self, y_BMhw: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
        """Quantised latents to bands ``[B, h, w]`` in their units."""
        return self.space_to_depth.unpack(self.synthesis(y_BMhw * self.finest), shape)

    def forward(
        self,
        grids: Mapping[str, Tensor],
        shape: tuple[int, int],
        quality_B: Tensor,
        generator: torch.Generator | None = None,
    ) -> CodecOutput:
        """Forward pass; in training mode likelihoods use uniform noise, reconstructions use rounding."""
        y = self.latent(self.pack(grids, shape))
        scale = self.channel_scale[:, None, None]
        z = self.hyper_encoder(y / scale)
        mean, index = (_cut(x, y.shape[2:]) for x in self.hyper_decoder(_rounded(z)))
        log_gain, log_inverse = self._gains(quality_B)
        gain = log_gain.exp()
        mean = mean * scale * gain
        residual = y * gain - mean
        index = scale_index(scale) + _INDEX_STEP * index + log_gain / LOG_RATIO
        likelihoods = {
            "y": gaussian_likelihood(self._coded(residual, generator), index),
            "z": self.prior.likelihood(self._coded(z, generator)),
        }
        y_hat = (_rounded(residual) + mean) * log_inverse.exp()
        return CodecOutput(self.reconstruct(y_hat, shape), likelihoods, y_hat, y, self.hash(y_hat / scale))

    def _coded(self, values: Tensor, generator: torch.Generator | None) -> Tensor:
        if not self.training:
            return values.round()
        noise = torch.rand(values.shape, generator=generator, device=values.device)
        return values + noise - 0.5

    @torch.no_grad()
    def initialise(self, x_BCHW: Tensor) -> None:
        """Initialisation of the linear path by principal components that keep the mean of every band (*ours*).

        The first components are the principal components of the band means over a block, so that a bright roof or
        cloud of any colour is kept even if the batch holds none; the others are the principal components of the rest.
        """
        channels, block = self.space_to_depth.channels, self.block
        blocks = x_BCHW.unfold(2, block, block).unfold(3, block, block)
        flat = blocks.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * block * block).double()
        covariance = flat.T @ flat / len(flat)
        means = self.space_to_depth.band_means(block).to(covariance)
        rest = torch.eye(len(covariance), dtype=torch.float64, device=covariance.device) - means.T @ means
        mean_variances, turns = _principal(means @ covariance @ means.T)
        variances, vectors = _principal(rest @ covariance @ rest)
        basis = torch.cat([turns @ means, vectors])
        variances = torch.cat([mean_variances, variances])
        count = min(self.analysis.linear.out_channels, channels * block * block)
        weight = torch.zeros_like(self.analysis.linear.weight)
        weight[:count] = basis[:count].reshape(count, channels, block, block).float()
        self.analysis.linear.weight.copy_(weight)
        self.synthesis.linear.weight.copy_(weight)
        spread = variances[:count].clamp(min=0).sqrt().float() / self.finest
        self.channel_scale[:count] = spread.clamp(min=_SMALLEST_SCALE)

    @torch.no_grad()
    def update(self) -> None:
        """Integer tables and weights of the exact path, from the trained floats."""
        self.prior.update()
        for exact, layer in (
            (self.exact_decoder.first, self.hyper_decoder.first),
            (self.exact_decoder.second, self.hyper_decoder.second),
            (self.exact_decoder.last, self.hyper_decoder.last),
            (self.exact_hash.conv, self.hash.conv),
            (self.exact_hash.inner, self.hash.inner),
            (self.exact_hash.outer, self.hash.outer),
        ):
            exact.copy(layer)
        scale = self.channel_scale.double()
        fractions = torch.arange(len(self.gain_q), device=scale.device) / QUALITY_FRACTIONS
        log_gain, log_inverse = (g[:, :, 0, 0].double() for g in self._gains(fractions))
        self.scale_q.copy_((scale * 2**_SCALE_BITS).round())
        self.unit_q.copy_((2**_UNIT_BITS / scale).round())
        self.index_q.copy_((scale_index(scale) * ONE).round())
        self.gain_q.copy_((log_gain.exp() * 2**_GAIN_BITS).round().clamp(1, 2**18))
        self.inverse_q.copy_((log_inverse.exp() * ONE).round().clamp(1, 2**21))
        self.log_gain_q.copy_((log_gain / LOG_RATIO * ONE).round())
        self.ready.fill_(1)

    def latent_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the latent of a raster with the base grid ``shape``, in whole blocks."""
        rows, columns = padded_shape(shape, self.block)
        return rows // self.block, columns // self.block

    def quantise(self, y_BMhw: Tensor, fraction: int) -> Quantised:
        """Quantisation of a latent at a quality in sixteenths."""
        z = self.hyper_encoder(y_BMhw / self.channel_scale[:, None, None]).round().long()
        mean, entries = self.entropy_parameters(z, fraction, (y_BMhw.shape[2], y_BMhw.shape[3]))
        gain = self.gain_q[fraction].double()[:, None, None] / 2**_GAIN_BITS
        symbols = (y_BMhw.double() * gain - mean.double() / ONE).round().clamp(-MAX_VALUE, MAX_VALUE).long()
        return Quantised(z, symbols, entries, self.dequantise(symbols, mean, fraction))

    def entropy_parameters(self, z_BZhw: Tensor, fraction: int, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Exact means (multiples of 2^-12) and table indices of the latent, int64 ``[B, M, *shape]`` each.

        Args:
            z_BZhw: Hyper-latent, int64.
            fraction: Quality in sixteenths.
            shape: Rows and columns of the latent, from :meth:`latent_shape`.
        """
        mean, index = (_cut(x, shape) for x in self.exact_decoder(z_BZhw))
        mean = (clamp(mean) * self.scale_q[:, None, None]) >> _SCALE_BITS
        mean = (mean * self.gain_q[fraction][:, None, None]) >> _GAIN_BITS
        offset = (self.index_q + self.log_gain_q[fraction])[:, None, None]
        entries = rescale(offset + clamp(index) * _INDEX_STEP, FRACTION_BITS)
        return mean, entries.clamp(0, SCALES - 1)

    def dequantise(self, symbols_BMhw: Tensor, mean_BMhw: Tensor, fraction: int) -> Tensor:
        """Exact ``y_hat`` in multiples of 2^-12, int64."""
        values = symbols_BMhw.clamp(-_SYMBOL_LIMIT, _SYMBOL_LIMIT) * ONE + mean_BMhw
        y_hat = (values * self.inverse_q[fraction][:, None, None]) >> FRACTION_BITS
        return y_hat.clamp(-_LATENT_LIMIT, _LATENT_LIMIT)

    def exact_logits(self, y_hat_BMhw: Tensor) -> Tensor:
        """Exact hash logits ``[B, K]``, int64, of an exact ``y_hat``."""
        unit = (y_hat_BMhw * self.unit_q[:, None, None]) >> _UNIT_BITS
        logits_BK: Tensor = self.exact_hash(unit)
        return logits_BK


def _principal(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and rows of eigenvectors, largest first; the largest entry of each vector is made positive, because
    libraries differ in the signs of eigenvectors."""
    values, vectors = torch.linalg.eigh(covariance)
    rows = vectors.flip(1).T
    return values.flip(0), rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()


def _cut(values_BCHW: Tensor, shape: Sequence[int]) -> Tensor:
    """Cut of the hyper-decoder's output, a multiple of four in size, to the size of the latent."""
    return values_BCHW[:, :, : shape[0], : shape[1]]


def _rounded(values: Tensor) -> Tensor:
    """Rounding with the gradient of the identity (straight-through estimator)."""
    return values + (values.round() - values).detach()
