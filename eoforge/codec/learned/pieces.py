"""Pieces of a size that is coded at once: rasters of equal shape and bands to payloads and back, in batches.

A payload holds, for each sensor in turn, the hyper-latent and then the latent. Nothing in it depends on the batch it
was made or is read in: probabilities come from exact integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eoforge.codec.entropy import Decoder, Encoder, TableSet
from eoforge.codec.learned.branch import Branch
from eoforge.codec.learned.config import QUALITY_FRACTIONS
from eoforge.codec.learned.exact import ONE
from eoforge.codec.raster import Raster, modalities_of
from eoforge.codec.tables import gaussian_frequencies
from eoforge.data.bands import GROUP_OF, MODALITIES
from eoforge.errors import DataRefused, UsageError
from eoforge.hashing.packing import pack

if TYPE_CHECKING:
    from eoforge.codec.learned.model import Codec

_HYPER_STRIDE = 4
_UINT16_MAX = 65_535


@dataclass(frozen=True)
class Layout:
    """What all pieces of a batch have in common.

    Attributes:
        bands: Names that the streams hold.
        shape: Base grid.
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
    """One coded piece: payload, and the hash code of each of its sensors."""

    payload: bytes
    codes: tuple[bytes, ...]


@cache
def latent_tables() -> TableSet:
    """The tables of every latent: a ladder of Gaussians."""
    return TableSet(gaussian_frequencies())


@torch.no_grad()
def encode(codec: Codec, rasters: Sequence[Raster], layout: Layout) -> list[Piece]:
    """Codes rasters of one layout.

    Raises:
        DataRefused: A radar pixel is not finite.
        UsageError: The codec has no tables yet, or not these bands.
    """
    device = next(codec.parameters()).device
    coders = [Encoder() for _ in rasters]
    codes: list[list[bytes]] = [[] for _ in rasters]
    for modality in layout.modalities:
        branch = require_ready(codec, modality, layout.bands)
        bands = [band for band in layout.bands if band in MODALITIES[modality]]
        grids = {band: _stack([raster.bands[band] for raster in rasters], band).to(device) for band in bands}
        quantised = branch.quantise(branch.latent(branch.pack(grids, layout.shape)), layout.fraction)
        channels, hyper_tables = _channels(quantised.z.shape), codec.hyper_tables(modality)
        logits = branch.exact_logits(quantised.y_hat).cpu().numpy()
        for i, coder in enumerate(coders):
            coder.put(_flat(quantised.z[i]), hyper_tables, channels)
            coder.put(_flat(quantised.symbols[i]), latent_tables(), _flat(quantised.entries[i]))
            codes[i].append(pack(logits[i : i + 1])[0].tobytes())
    return [Piece(coder.finish(), tuple(code)) for coder, code in zip(coders, codes, strict=True)]


@torch.no_grad()
def read_latents(codec: Codec, payloads: Sequence[bytes | memoryview], layout: Layout) -> dict[str, Tensor]:
    """Modality -> exact ``y_hat [B, M, h, w]`` in multiples of 2^-12, int64.

    Raises:
        DataRefused: A payload is damaged.
        UsageError: The codec has no tables yet, or not these bands.
    """
    device = next(codec.parameters()).device
    decoders = [Decoder(payload) for payload in payloads]
    latents = {}
    for modality in layout.modalities:
        branch = require_ready(codec, modality, layout.bands)
        shape = branch.latent_shape(layout.shape)
        hyper = (len(payloads), codec.config.hyper, *(-(-side // _HYPER_STRIDE) for side in shape))
        channels = _channels(hyper)
        z = np.stack([decoder.get(codec.hyper_tables(modality), channels) for decoder in decoders])
        hyper_latent = torch.from_numpy(z.reshape(hyper)).to(device)
        mean, entries = branch.entropy_parameters(hyper_latent, layout.fraction, shape)
        symbols = [d.get(latent_tables(), _flat(entries[i])) for i, d in enumerate(decoders)]
        shaped = torch.from_numpy(np.stack(symbols)).to(device).reshape(mean.shape)
        latents[modality] = branch.dequantise(shaped, mean, layout.fraction)
    for decoder in decoders:
        decoder.finish()
    return latents


@torch.no_grad()
def decode(codec: Codec, payloads: Sequence[bytes | memoryview], layout: Layout) -> list[dict[str, npt.NDArray[Any]]]:
    """Bands of each piece on their native grids.

    Raises:
        DataRefused: A payload is damaged.
        UsageError: The codec has no tables yet, or not these bands.
    """
    found: list[dict[str, npt.NDArray[Any]]] = [{} for _ in payloads]
    for modality, y_hat in read_latents(codec, payloads, layout).items():
        branch = codec.branch(modality)
        y = (y_hat.double() / ONE).float()
        for band, pixels in branch.reconstruct(y, layout.shape).items():
            if band in layout.bands:
                for bands, image in zip(found, _native(pixels, band), strict=True):
                    bands[band] = image
    return found


@torch.no_grad()
def hashes(codec: Codec, payloads: Sequence[bytes | memoryview], layout: Layout) -> dict[str, npt.NDArray[np.uint8]]:
    """Modality -> codes ``[B, K / 8]``, from the latents alone: no pixel is made."""
    latents = read_latents(codec, payloads, layout)
    return {m: pack(codec.branch(m).exact_logits(y_hat).cpu().numpy()) for m, y_hat in latents.items()}


def require_ready(codec: Codec, modality: str, bands: Sequence[str]) -> Branch:
    """The branch, if it can code these bands.

    Raises:
        UsageError: It has no tables yet, or lacks a band.
    """
    branch = codec.branch(modality)
    missing = [band for band in bands if band in MODALITIES[modality] and band not in branch.cells.bands]
    if missing:
        raise UsageError(f"this codec has the bands {', '.join(branch.cells.bands)}; it cannot code {missing}")
    if not branch.ready:
        raise UsageError("the codec has no integer tables: call update() after training, before the weights are saved")
    return branch


def fraction_of(quality: float) -> int:
    """Quality in sixteenths, which is what decides tables and gains."""
    return round(quality * QUALITY_FRACTIONS)


def _stack(images: Sequence[npt.NDArray[Any]], band: str) -> Tensor:
    pixels = np.stack(images).astype(np.float32)
    if not np.isfinite(pixels).all():
        raise DataRefused(
            f"{band} holds values that are not finite; the learned codec needs backscatter in dB everywhere. "
            "Fill them, or use max_error, which keeps them"
        )
    return torch.from_numpy(pixels)


def _native(pixels_Bhw: Tensor, band: str) -> npt.NDArray[Any]:
    if GROUP_OF[band].dtype == "float32":
        return pixels_Bhw.cpu().numpy()
    return pixels_Bhw.round().clamp(0, _UINT16_MAX).cpu().numpy().astype(np.uint16)


def _flat(values: Tensor) -> npt.NDArray[np.int64]:
    return values.reshape(-1).cpu().numpy()


def _channels(shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """The table of each value of a hyper-latent ``[B, Z, h, w]``: that of its channel."""
    return np.repeat(np.arange(shape[1], dtype=np.int64), shape[2] * shape[3])


def group_by_layout(rasters: Sequence[Raster]) -> Mapping[tuple[tuple[str, ...], tuple[int, int]], list[int]]:
    """Positions of rasters by (bands, shape): what can be coded together."""
    groups: dict[tuple[tuple[str, ...], tuple[int, int]], list[int]] = {}
    for i, raster in enumerate(rasters):
        groups.setdefault((tuple(raster.bands), raster.shape), []).append(i)
    return groups
