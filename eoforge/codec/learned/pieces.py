"""Batched coding of pieces: rasters of equal shape and bands, each small enough to be coded at once.

A payload holds, sensor by sensor, the hyper-latent and then the latent. A payload does not depend on the batch in which
it is encoded or decoded: probabilities come from exact integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eoforge.codec.entropy import Decoder, Encoder, TableSet
from eoforge.codec.learned.branch import Branch
from eoforge.codec.learned.config import QUALITY_FRACTIONS
from eoforge.codec.learned.exact import ONE
from eoforge.codec.learned.network import CodecNetwork
from eoforge.codec.raster import Raster, modalities_of
from eoforge.codec.tables import gaussian_frequencies
from eoforge.data.bands import GROUP_OF, MODALITIES
from eoforge.errors import DataRefused, UsageError
from eoforge.hashing.packing import pack

_HYPER_STRIDE = 4
_UINT16_MAX = 65_535


@dataclass(frozen=True)
class PieceSpec:
    """Properties shared by all pieces of a batch.

    Attributes:
        bands: Band names of the streams.
        shape: Rows and columns of the base grid.
        fraction: Quality in sixteenths.
    """

    bands: tuple[str, ...]
    shape: tuple[int, int]
    fraction: int

    @property
    def modalities(self) -> tuple[str, ...]:
        """Sensors with at least one band, in the order of the payload."""
        return modalities_of(self.bands)


@dataclass(frozen=True)
class Piece:
    """Coded piece: payload, and the hash code of each of its sensors."""

    payload: bytes
    codes: tuple[bytes, ...]


@cache
def latent_tables() -> TableSet:
    """Probability tables of the latents: Gaussians of 64 standard deviations."""
    return TableSet(gaussian_frequencies())


@torch.no_grad()
def encode(codec: CodecNetwork, rasters: Sequence[Raster], spec: PieceSpec) -> list[Piece]:
    """Encoding of rasters of one specification.

    Raises:
        DataRefused: A radar pixel is not finite.
        UsageError: The codec has no tables yet, or not these bands.
    """
    device = next(codec.parameters()).device
    coders = [Encoder() for _ in rasters]
    codes: list[list[bytes]] = [[] for _ in rasters]
    for modality in spec.modalities:
        branch = require_ready(codec, modality, spec.bands)
        bands = [band for band in spec.bands if band in MODALITIES[modality]]
        grids = {band: _stack([raster.bands[band] for raster in rasters], band).to(device) for band in bands}
        quantised = branch.quantise(branch.latent(branch.pack(grids, spec.shape)), spec.fraction)
        channels, hyper_tables = _channels(quantised.z.shape), codec.hyper_tables(modality)
        logits = branch.exact_logits(quantised.y_hat).cpu().numpy()
        for i, coder in enumerate(coders):
            coder.put(_flat(quantised.z[i]), hyper_tables, channels)
            coder.put(_flat(quantised.symbols[i]), latent_tables(), _flat(quantised.entries[i]))
            codes[i].append(pack(logits[i : i + 1])[0].tobytes())
    return [Piece(coder.finish(), tuple(code)) for coder, code in zip(coders, codes, strict=True)]


@torch.no_grad()
def read_latents(codec: CodecNetwork, payloads: Sequence[bytes | memoryview], spec: PieceSpec) -> dict[str, Tensor]:
    """Mapping modality -> exact ``y_hat [B, M, h, w]`` in multiples of 2^-12, int64.

    Raises:
        DataRefused: A payload is damaged.
        UsageError: The codec has no tables yet, or not these bands.
    """
    device = next(codec.parameters()).device
    decoders = [Decoder(payload) for payload in payloads]
    latents = {}
    for modality in spec.modalities:
        branch = require_ready(codec, modality, spec.bands)
        shape = branch.latent_shape(spec.shape)
        hyper = (len(payloads), codec.config.hyper, *(-(-side // _HYPER_STRIDE) for side in shape))
        channels = _channels(hyper)
        z = np.stack([decoder.get(codec.hyper_tables(modality), channels) for decoder in decoders])
        hyper_latent = torch.from_numpy(z.reshape(hyper)).to(device)
        mean, entries = branch.entropy_parameters(hyper_latent, spec.fraction, shape)
        symbols = [d.get(latent_tables(), _flat(entries[i])) for i, d in enumerate(decoders)]
        shaped = torch.from_numpy(np.stack(symbols)).to(device).reshape(mean.shape)
        latents[modality] = branch.dequantise(shaped, mean, spec.fraction)
    for decoder in decoders:
        decoder.finish()
    return latents


@torch.no_grad()
def decode(
    codec: CodecNetwork, payloads: Sequence[bytes | memoryview], spec: PieceSpec
) -> list[dict[str, npt.NDArray[Any]]]:
    """Decoding of payloads to bands on their native grids, one mapping per payload.

    Raises:
        DataRefused: A payload is damaged.
        UsageError: The codec has no tables yet, or not these bands.
    """
    found: list[dict[str, npt.NDArray[Any]]] = [{} for _ in payloads]
    for modality, y_hat in read_latents(codec, payloads, spec).items():
        branch = codec.branch(modality)
        y = (y_hat.double() / ONE).float()
        for band, pixels in branch.reconstruct(y, spec.shape).items():
            if band in spec.bands:
                for bands, image in zip(found, _native(pixels, band), strict=True):
                    bands[band] = image
    return found


@torch.no_grad()
def hashes(
    codec: CodecNetwork, payloads: Sequence[bytes | memoryview], spec: PieceSpec
) -> dict[str, npt.NDArray[np.uint8]]:
    """Mapping modality -> hash codes ``[B, K / 8]``, from the latents, without decoding pixels."""
    latents = read_latents(codec, payloads, spec)
    return {m: pack(codec.branch(m).exact_logits(y_hat).cpu().numpy()) for m, y_hat in latents.items()}


def require_ready(codec: CodecNetwork, modality: str, bands: Sequence[str]) -> Branch:
    """Branch of one sensor, checked to be able to code these bands.

    Raises:
        UsageError: The branch has no tables yet, or lacks a band.
    """
    branch = codec.branch(modality)
    missing = [band for band in bands if band in MODALITIES[modality] and band not in branch.bands]
    if missing:
        raise UsageError(f"this codec has the bands {', '.join(branch.bands)}; it cannot code {missing}")
    if not branch.ready:
        raise UsageError("the codec has no integer tables: call update() after training, before the weights are saved")
    return branch


def fraction_of(quality: float) -> int:
    """Quality in sixteenths, the index of tables and gains."""
    return round(quality * QUALITY_FRACTIONS)


def _stack(images: Sequence[npt.NDArray[Any]], band: str) -> Tensor:
    pixels = np.stack(images).astype(np.float32)
    if not np.isfinite(pixels).all():
        raise DataRefused(
            f"{band} holds values that are not finite; the learned codec needs backscatter in dB everywhere. "
            "Declare them as nodata, fill them, or use max_error, which keeps them"
        )
    return torch.from_numpy(pixels)


def _native(pixels_Bhw: Tensor, band: str) -> npt.NDArray[Any]:
    if GROUP_OF[band].dtype == "float32":
        return pixels_Bhw.cpu().numpy()
    return pixels_Bhw.round().clamp(0, _UINT16_MAX).cpu().numpy().astype(np.uint16)


def _flat(values: Tensor) -> npt.NDArray[np.int64]:
    return values.reshape(-1).cpu().numpy()


def _channels(shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """Table index of each value of a hyper-latent ``[B, Z, h, w]``: the index of its channel."""
    return np.repeat(np.arange(shape[1], dtype=np.int64), shape[2] * shape[3])
