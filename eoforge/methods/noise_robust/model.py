"""Networks of the reBEN baselines with what the objectives need: the length of the features, and codes of them.

Shape legend: B patches, D features, L classes, K bits, S pixels::

    scene:  images -> backbone -> f [B,D] -+-> task head -> logits [B,L]
                                           +-> running mean and deviation -> fixed projection -> code [B,K]
    relations: as scene, with the numbers of an adjacency instead of L logits
    pixels: images -> encoder, decoder -> f [B,D,h,w] -> task head -> logits [B,L,S,S]
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor
from torch.nn import functional

from eoforge.methods.noise_robust.config import RobustConfig
from eoforge.methods.reben.model import PixelNetwork, SceneNetwork
from eoforge.nn.classifier import CodeHead


class RobustSceneNetwork(SceneNetwork):
    """Classifier whose features also give codes.

    Attributes:
        features: D.
    """

    def __init__(self, config: RobustConfig) -> None:
        super().__init__(config)
        self.features = int(cast("Any", self.model.get_classifier()).in_features)
        self.codes = CodeHead(self.features, config.bits)

    def represent(self, images: Any) -> Tensor:
        """Features ``[B, D]``; in training they update the statistics of the codes."""
        features_BD = super().represent(images)
        self.codes.observe(features_BD)
        return features_BD

    def encode(self, image_BCSS: Tensor, modality: str) -> tuple[Tensor, Tensor]:
        """Hash logits ``[B, K]`` and unit embeddings ``[B, D]`` of the network's only sensor."""
        features_BD = self.represent({modality: image_BCSS})
        return self.codes(features_BD), functional.normalize(features_BD.float(), dim=1)


class RobustPixelNetwork(PixelNetwork):
    """Map of classes.

    Attributes:
        features: D, channels of the decoder's result.
    """

    def __init__(self, config: RobustConfig) -> None:
        super().__init__(config)
        self.features = int(self.model.segmentation_head[0].in_channels)


RobustNetwork = RobustSceneNetwork | RobustPixelNetwork


def build(config: RobustConfig) -> RobustNetwork:
    """Network of the task with initial weights.

    Raises:
        UsageError: The network cannot be built.
    """
    return RobustPixelNetwork(config) if config.task == "pixels" else RobustSceneNetwork(config)
