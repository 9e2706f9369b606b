"""The network of ANNEAL.

Shape legend: B patches, P pairs, N patches of the archive, C bands, S pixels, F features, K bits::

    image [B,C,S,S] -> encoder (frozen) -> f [B,F] -> standardise -+-> projection ------------- + -> z [B,K]
                                                                   +-> Linear-GELU-Linear (0) -+
    code = (z > 0) packed; embedding e = z scaled to length 1
    pair (i, j) -> [ |e_i - e_j| ; e_i * e_j ] [P,2K] -> Linear -> logit that i and j are similar

The projection starts as the first K principal components of the archive's features, rotated at random, and the other
branch at zero: before the first answer the embedding is that of the encoder. Everything but the encoder is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from eoforge.methods.anneal.config import Config
from eoforge.nn.backbones import build_backbone
from eoforge.nn.seeds import derive_seed

_SCALE_FLOOR = 1e-4
_SHARPNESS = 5.0
"""Initial slope of the pair classifier in the cosine of two embeddings."""


class PairHead(nn.Module):
    """What is learned from pairs: embedding, code, and the classifier of pairs.

    Args:
        features: Length F of the encoder's features.
        bits: Length K of code and embedding.
        hidden: Width of the hidden layer.
    """

    mean_F: Tensor
    scale_F: Tensor

    def __init__(self, features: int, bits: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean_F", torch.zeros(features))
        self.register_buffer("scale_F", torch.ones(features))
        self.projection = nn.Linear(features, bits, bias=False)
        nn.init.orthogonal_(self.projection.weight)
        first, last = nn.Linear(features, hidden), nn.Linear(hidden, bits)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.residual = nn.Sequential(first, nn.GELU(), last)
        self.classifier = nn.Linear(2 * bits, 1)
        with torch.no_grad():
            self.classifier.weight.zero_()
            self.classifier.weight[:, bits:] = _SHARPNESS
            self.classifier.bias.fill_(-_SHARPNESS / 2)

    @torch.no_grad()
    def start_from(self, features_NF: Tensor, seed: int) -> None:
        """Sets the standardisation and the projection from features of the archive."""
        self.mean_F.copy_(features_NF.mean(dim=0))
        self.scale_F.copy_(features_NF.std(dim=0, correction=0).clamp_min(_SCALE_FLOOR))
        standard_NF = self.standardise(features_NF).double()
        _, basis_FF = torch.linalg.eigh(standard_NF.T @ standard_NF)
        bits, rank = len(self.projection.weight), min(len(self.projection.weight), len(basis_FF))
        generator = torch.Generator().manual_seed(derive_seed("rotation", seed))
        rotation_Kr = torch.linalg.qr(torch.randn(bits, bits, generator=generator, dtype=torch.float64))[0][:, :rank]
        self.projection.weight.copy_(rotation_Kr @ basis_FF[:, -rank:].T)

    def standardise(self, features_BF: Tensor) -> Tensor:
        """``[B, F]`` with mean 0 and deviation 1 over the archive."""
        return (features_BF - self.mean_F) / self.scale_F

    def forward(self, features_BF: Tensor) -> Tensor:
        """``[B, F]`` to logits ``[B, K]``; bit k of the code is ``logit_k > 0``."""
        standard_BF = self.standardise(features_BF)
        logits_BK: Tensor = self.projection(standard_BF) + self.residual(standard_BF)
        return logits_BK

    def embed(self, features_BF: Tensor) -> Tensor:
        """``[B, F]`` to embeddings of length 1, ``[B, K]``."""
        return functional.normalize(self(features_BF), dim=1)

    def pair_logits(self, first_PK: Tensor, second_PK: Tensor) -> Tensor:
        """Logits ``[P]`` that pairs of embeddings are similar; equal in both orders."""
        logits_P1: Tensor = self.classifier(pair_features(first_PK, second_PK))
        return logits_P1[:, 0]


def pair_features(first_PK: Tensor, second_PK: Tensor) -> Tensor:
    """``[ |e_i - e_j| ; e_i * e_j ]``, ``[P, 2K]``: the classifier's input, equal in both orders."""
    return torch.cat([(first_PK - second_PK).abs(), first_PK * second_PK], dim=1)


def pair_descriptors(first_PK: Tensor, second_PK: Tensor) -> Tensor:
    """``[ |e_i - e_j| ; e_i + e_j ]``, ``[P, 2K]``: how and where a pair lies in the metric space, in either order."""
    return torch.cat([(first_PK - second_PK).abs(), first_PK + second_PK], dim=1)


class Anneal(nn.Module):
    """Encoder and head; see :class:`eoforge.methods.encoding.HashNetwork`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder, self.width = build_backbone(config.backbone, config.channels, config.size, config.width)
        self.head = PairHead(self.width, config.bits, config.hidden)
        self.features = config.bits

    def encode(self, image_BCSS: Tensor, modality: str) -> tuple[Tensor, Tensor]:
        """Logits ``[B, K]`` and unit embeddings ``[B, K]``."""
        logits_BK = self.head(self.encoder(image_BCSS).float())
        return logits_BK, functional.normalize(logits_BK, dim=1)
