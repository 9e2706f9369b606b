"""The learned codec: any bands of Sentinel-1 and Sentinel-2 to streams that every machine decodes alike.

``forward`` is what training needs, ``compress`` and ``decompress`` what an archive needs; between them stands
``update``, which turns the trained floats of the entropy model and of the hash module into whole numbers (``branch``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eoforge.codec.container import LIMITS, Limits
from eoforge.codec.entropy import TableSet
from eoforge.codec.learned import streams as streams_of
from eoforge.codec.learned.branch import Branch
from eoforge.codec.learned.config import CodecConfig
from eoforge.codec.learned.rate import pick_quality
from eoforge.codec.parts import Stream
from eoforge.codec.raster import Raster, factor_of
from eoforge.data.bands import GROUP_OF, require_modality
from eoforge.data.loading.batch import PatchBatch
from eoforge.errors import UsageError


@dataclass
class CodecOutput:
    """One pass over ``B`` patches of one sensor.

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


class Codec(nn.Module):
    """See the module.

    Args:
        config: Sizes, bands and their statistics. The state dict holds everything else, the whole numbers included.

    Attributes:
        bundle_id: Id of the bundle that the weights came from; streams carry its first 16 digits, and streams of
            another bundle are refused. Empty: not checked.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.bundle_id = ""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.branches = nn.ModuleDict({modality: Branch(config, modality) for modality in config.bands})
        self._tables: dict[str, TableSet] = {}

    def branch(self, modality: str) -> Branch:
        """The codec of one sensor.

        Raises:
            UsageError: This codec has none of that sensor.
        """
        if require_modality(modality) not in self.branches:
            raise UsageError(f"this codec is for {', '.join(self.branches)}; it has no bands of {modality}")
        return cast("Branch", self.branches[modality])

    def grids(self, batch: PatchBatch, modality: str) -> dict[str, Tensor]:
        """Band -> ``[B, h, w]`` of a batch, on its device, for the bands that the codec has.

        Raises:
            UsageError: The batch does not hold this modality.
        """
        grids = {}
        for band in self.config.bands[require_modality(modality)]:
            group = GROUP_OF[band]
            column: Tensor | None = getattr(batch, group.column)
            if column is None:
                raise UsageError(f"the batch holds no {group.column}; read it with modalities=({modality!r}, ...)")
            grids[band] = column[:, group.bands.index(band)]
        return grids

    def forward(
        self,
        batch: PatchBatch,
        quality_B: Tensor,
        modality: str = "s2",
        generator: torch.Generator | None = None,
    ) -> CodecOutput:
        """Encodes and decodes without a stream, with gradients.

        Args:
            batch: Patches with this modality.
            quality_B: Quality of each, ``[B]`` in 0..``steps - 1``, fractions included.
            modality: ``s1`` or ``s2``.
            generator: Source of the quantisation noise in training mode; seed it from (seed, epoch, step).

        Raises:
            UsageError: The batch or the codec does not hold this modality.
        """
        branch = self.branch(modality)
        grids = self.grids(batch, modality)
        out = branch(grids, _base_shape(grids), quality_B, generator)
        return CodecOutput(out.x_hat, out.likelihoods, out.y_hat, out.y, out.logits)

    @torch.no_grad()
    def initialise(self, batch: PatchBatch) -> None:
        """Starts the transforms of each sensor from the principal components of a batch (at least some 64 patches)."""
        for modality in self.config.bands:
            branch, grids = self.branch(modality), self.grids(batch, modality)
            branch.initialise(branch.pack(grids, _base_shape(grids)))

    def update(self) -> None:
        """Makes the integer tables and weights; after training, before the weights are saved.

        Raises:
            DataRefused: Weights are not finite: training has diverged.
            BundleError: Weights are too large to compute with exactly.
        """
        for modality in self.config.bands:
            self.branch(modality).update()
        self._tables.clear()

    def hyper_tables(self, modality: str) -> TableSet:
        """Tables of the hyper-latent of one sensor."""
        if modality not in self._tables:
            self._tables[modality] = TableSet(self.branch(modality).prior.tables())
        return self._tables[modality]

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """As in torch; tables made from earlier weights are forgotten."""
        self._tables.clear()
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def compress(
        self,
        rasters: Sequence[Raster],
        quality: float | None = None,
        *,
        target_bpp: float | None = None,
        target_psnr: float | None = None,
    ) -> list[bytes]:
        """Streams of rasters, one each, whatever sensors it holds.

        Args:
            rasters: Any sizes and any bands of this codec; large ones are cut into tiles.
            quality: 0 to ``steps - 1``; multiples of 1/16 count.
            target_bpp: Instead: the best quality whose stream has at most this many bits per base pixel.
            target_psnr: Instead: the least quality that reaches this PSNR in dB (see ``rate.psnr``).

        Raises:
            UsageError: Not exactly one of the three is given, a target cannot be met, bands are not the codec's, or
                ``update`` was not called.
            DataRefused: A radar pixel is not finite.
        """
        if sum(value is not None for value in (quality, target_bpp, target_psnr)) != 1:
            raise UsageError("give exactly one of quality, target_bpp and target_psnr")
        if quality is not None:
            return streams_of.compress(self, rasters, self.config.require_quality(quality))
        chosen = (pick_quality(self, raster, target_bpp, target_psnr) for raster in rasters)
        return [self.compress([raster], q)[0] for raster, q in zip(rasters, chosen, strict=True)]

    def decompress(self, streams: Sequence[Stream], limits: Limits = LIMITS) -> list[Raster]:
        """Rasters of streams that this codec made, large ones included (``streams.decompress_blocks`` saves memory).

        Raises:
            DataRefused: A stream is damaged, truncated, foreign, or of another kind.
            BundleError: It was made with another bundle.
            LimitExceeded: It claims more than ``limits``.
            UsageError: ``update`` was not called, or the codec lacks a band.
        """
        return streams_of.decompress(self, streams, limits)

    def hash_stream(
        self, streams: Sequence[Stream], modality: str | None = None, limits: Limits = LIMITS
    ) -> npt.NDArray[np.uint8]:
        """Codes uint8 ``[B, K / 8]`` computed from the latents in the streams; no pixel is decoded.

        They equal the codes that the streams carry (``streams.stored_codes``), bit for bit, on every machine.

        Args:
            streams: Of one piece each.
            modality: Which sensor's code of a stream that holds both; by default the optical one.
            limits: What is read at most.

        Raises:
            DataRefused, BundleError, LimitExceeded, UsageError: As for :meth:`decompress`.
        """
        return streams_of.hash_stream(self, streams, modality, limits)


def _base_shape(grids: Mapping[str, Tensor]) -> tuple[int, int]:
    """The base grid that the finest band implies."""
    band = min(grids, key=factor_of)
    factor = factor_of(band)
    return (grids[band].shape[1] * factor, grids[band].shape[2] * factor)
