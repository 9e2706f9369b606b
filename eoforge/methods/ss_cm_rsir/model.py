"""The network of SS-CM-RSIR.

Shape legend: B patches of this rank, N patches of all ranks, C bands, S pixels, D features, P projection, K bits::

    s1 [B,C1,S,S] -> encoder -> gather -> norm -> e1 [N,D] -+-> projection -> p1 [N,P]   \\  inter-modal similarity
                                                            +-> hash head  -> h1 [N,K]    |  (NT-Xent) on p and on h;
    s2 [B,C2,S,S] -> encoder -> gather -> norm -> e2 [N,D] -+-> projection -> p2 [N,P]    |  modal discrepancy and
                                                            +-> hash head  -> h2 [N,K]   /   intra-modal similarity on e

    code = (h > 0) packed; embedding = e scaled to length 1. Nothing is shared between the sensors.

Features are gathered before the norm, so every rank has the statistics and the negatives of the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from eoforge.data.bands import MODALITIES
from eoforge.hashing.head import HashHead
from eoforge.methods.ss_cm_rsir.config import Config
from eoforge.nn.backbones import build_backbone
from eoforge.nn.distributed import gather_rows
from eoforge.nn.heads import ProjectionHead


@dataclass(frozen=True)
class Outputs:
    """Inputs of the losses, (s1, s2) each: features ``[N, D]``, projections ``[N, P]``, hash logits ``[N, K]``."""

    features: tuple[Tensor, Tensor]
    projections: tuple[Tensor, Tensor]
    hashes: tuple[Tensor, Tensor]


class Branch(nn.Module):
    """Encoder, feature norm and heads of one sensor.

    The norm standardises each feature over the batch (*ours*). Pooled activations share a large common part; without
    the norm all cosines start near 1 and the first ten epochs of a small run learn nothing.
    """

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        self.encoder, self.width = build_backbone(config.backbone, channels, config.size, config.width)
        self.norm = nn.BatchNorm1d(self.width, affine=False)
        self.projection = ProjectionHead(self.width, config.projection)
        self.hash = HashHead(self.width, config.bits, config.hash_hidden)

    def features(self, image_BCSS: Tensor) -> Tensor:
        """``[B, C, S, S]`` to normed features ``[N, D]`` of all ranks (N = B outside training)."""
        raw_BD = self.encoder(image_BCSS).float()
        features_ND: Tensor = self.norm(gather_rows(raw_BD) if self.training else raw_BD)
        return features_ND


class SsCmRsir(nn.Module):
    """The network: a branch per sensor."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.detach_hash = config.detach_hash
        channels = {"s1": len(config.s1_bands), "s2": len(config.s2_bands)}
        self.branches = nn.ModuleDict({modality: Branch(channels[modality], config) for modality in MODALITIES})
        self.features = self.branch("s1").width

    def branch(self, modality: str) -> Branch:
        """The branch of ``s1`` or ``s2``."""
        branch = self.branches[modality]
        assert isinstance(branch, Branch)
        return branch

    def forward(self, s1_BCSS: Tensor, s2_BCSS: Tensor) -> Outputs:
        """Outputs for images ``[B, C, S, S]`` of both sensors of the same patches, in the same order."""
        branches = (self.branch("s1"), self.branch("s2"))
        first, second = (b.features(x) for b, x in zip(branches, (s1_BCSS, s2_BCSS), strict=True))
        features = (first, second)
        hash_inputs = tuple(e.detach() if self.detach_hash else e for e in features)
        return Outputs(
            features,
            (branches[0].projection(first), branches[1].projection(second)),
            (branches[0].hash(hash_inputs[0]), branches[1].hash(hash_inputs[1])),
        )

    def encode(self, image_BCSS: Tensor, modality: str) -> tuple[Tensor, Tensor]:
        """Hash logits ``[B, K]`` and unit embeddings ``[B, D]`` of one sensor."""
        branch = self.branch(modality)
        features_BD = branch.features(image_BCSS)
        return branch.hash(features_BD), functional.normalize(features_BD, dim=1)
