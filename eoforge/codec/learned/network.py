"""Network of the learned codec: one branch per sensor, trained with ``forward`` and made exact by ``update``.

``update`` rounds the trained floats of the entropy model and of the hash module to integers (``branch``). ``model``
adds the streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from eoforge.codec.entropy import TableSet
from eoforge.codec.learned.branch import Branch, CodecOutput
from eoforge.codec.learned.config import CodecConfig
from eoforge.codec.raster import factor_of
from eoforge.data.bands import GROUP_OF, require_modality
from eoforge.data.loading.batch import PatchBatch
from eoforge.errors import UsageError


class CodecNetwork(nn.Module):
    """Transforms, entropy models and hash modules of all sensors.

    Args:
        config: Sizes, bands and their statistics. The state dict holds everything else, the integer tables included.

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
        """Branch of one sensor.

        Raises:
            UsageError: The codec has no bands of that sensor.
        """
        if require_modality(modality) not in self.branches:
            raise UsageError(f"this codec is for {', '.join(self.branches)}; it has no bands of {modality}")
        return cast("Branch", self.branches[modality])

    def grids(self, batch: PatchBatch, modality: str) -> dict[str, Tensor]:
        """Mapping band -> ``[B, h, w]`` of a batch, on its device, for the bands of the codec.

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
        """Differentiable encoding and decoding, without a stream.

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
        out: CodecOutput = branch(grids, _base_shape(grids), quality_B, generator)
        return out

    @torch.no_grad()
    def initialise(self, batch: PatchBatch) -> None:
        """Initialisation of each sensor's transforms from the principal components of a batch (64 patches or more)."""
        for modality in self.config.bands:
            branch, grids = self.branch(modality), self.grids(batch, modality)
            branch.initialise(branch.pack(grids, _base_shape(grids)))

    def update(self) -> None:
        """Integer tables and weights from the trained floats; to be called before the weights are saved.

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
        """``nn.Module.load_state_dict``, which also clears the tables of earlier weights."""
        self._tables.clear()
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def _base_shape(grids: Mapping[str, Tensor]) -> tuple[int, int]:
    """Base grid implied by the finest band."""
    band = min(grids, key=factor_of)
    factor = factor_of(band)
    return (grids[band].shape[1] * factor, grids[band].shape[2] * factor)
