"""A multi-label classifier of image patches whose features also give binary codes.

Shape legend: B patches, C bands, S pixels, D features, P projection, L labels, K bits::

    image [B,C,S,S] -> encoder -> f [B,D] -+-> (projection: Linear ReLU Linear) -> z [B,P] -> head -> logits [B,L]
                                           +-> z = f without a projection
    z, detached -> running mean and deviation -> fixed +-1 projection -> code [B,K]

Codes need no training: they are signs of fixed random combinations of the standardised z, the usual locality-sensitive
hash for cosines. So the bundle of a classifier can be indexed and served; a federated run exchanges 2 D numbers more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from eoforge.nn.backbones import build_backbone
from eoforge.nn.seeds import derive_seed


class Network(nn.Module, ABC):
    """A classifier in two parts: a representation, which objectives may read, and a linear classifier on it.

    Attributes:
        alone: Whether it predicts from each of its sensors alone too, not only from all of them together.
    """

    alone = True

    @abstractmethod
    def represent(self, images: Any) -> Any:
        """The input of the last linear layer: ``[B, D]``, or one such per sensor."""

    @abstractmethod
    def classify(self, representation: Any) -> Tensor:
        """Logits ``[B, L]``."""

    def predict(self, images: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[B, L]`` from images by sensor, ``[B, C, S, S]`` each."""
        return self.classify(self.represent(images))


class CodeHead(nn.Module):
    """A hash head without training: a fixed projection of the standardised representation.

    Args:
        features: Length D of the representation.
        bits: Code length K.
    """

    projection: Tensor

    def __init__(self, features: int, bits: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features, affine=False)
        # NumPy guarantees the stream of raw Philox words for all versions, and no other stream.
        words = np.random.Philox(key=derive_seed("fl codes", features, bits)).random_raw(features * bits // 64 + 1)
        signs = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")[: features * bits]
        plus_minus = signs.reshape(features, bits).astype(np.float32) * 2 - 1
        self.register_buffer("projection", torch.from_numpy(plus_minus), persistent=False)

    def observe(self, representation_BD: Tensor) -> None:
        """Updates the running statistics by the batch; does nothing outside training."""
        if self.training and len(representation_BD) > 1:
            self.norm(representation_BD.detach().float())

    def forward(self, representation_BD: Tensor) -> Tensor:
        """Hash logits ``[B, K]``."""
        logits_BK: Tensor = self.norm(representation_BD.float()) @ self.projection
        return logits_BK


class Classifier(Network):
    """The classifier of one sensor."""

    def __init__(
        self, backbone: str, channels: int, size: int, width: int, projection: int, bits: int, classes: int
    ) -> None:
        """Args:
        backbone: One of ``eoforge.nn.backbones.BACKBONES``.
        channels: Input bands C.
        size: Side of the input in pixels.
        width: First width of the tiny backbones.
        projection: Length P of MOON's projection; 0 for none.
        bits: Code length.
        classes: Labels L.
        """
        super().__init__()
        self.encoder, features = build_backbone(backbone, channels, size, width)
        self.projection: nn.Module = nn.Identity()
        if projection:
            first, last = nn.Linear(features, features), nn.Linear(features, projection)
            for layer in (first, last):
                # PyTorch's initial weights shrink the differences between patches fourfold over these two layers, and
                # the encoder's gradients with them: short runs then learn next to nothing (*ours*).
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
            self.projection, features = nn.Sequential(first, nn.ReLU(), last), projection
        self.head = nn.Linear(features, classes)
        self.codes = CodeHead(features, bits)
        self.features = features

    def represent(self, images: Tensor) -> Tensor:
        """``[B, C, S, S]`` to z ``[B, D]``."""
        z_BD: Tensor = self.projection(self.encoder(images))
        self.codes.observe(z_BD)
        return z_BD

    def classify(self, representation: Tensor) -> Tensor:
        logits_BL: Tensor = self.head(representation)
        return logits_BL

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, S, S]`` to logits ``[B, L]``."""
        return self.classify(self.represent(images))

    def predict(self, images: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[B, L]`` from the images of the one sensor."""
        (image_BCSS,) = images.values()
        return self.forward(image_BCSS)

    def encode(self, image_BCSS: Tensor, modality: str) -> tuple[Tensor, Tensor]:
        """Hash logits ``[B, K]`` and unit embeddings ``[B, D]``; ``modality`` is not read."""
        z_BD = self.represent(image_BCSS)
        return self.codes(z_BD), functional.normalize(z_BD.float(), dim=1)
