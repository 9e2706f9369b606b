"""The network of MM-FL: an encoder per sensor, one classifier, and MIM's projection.

Shape legend: B patches, C bands, S pixels, D features, P projection, L = 19 labels, K bits::

    s1 [B,2,S,S]  -> encoders.s1 -> f1 [B,D] -+-> fusion: mean of given sensors -> heads.shared -> logits [B,L]
    s2 [B,10,S,S] -> encoders.s2 -> f2 [B,D] -+   (or concat, an absent half is zero)
                                      f [B,D] -> norms.s1 / norms.s2 -> projection.mim -> z [B,P]     (MIM only)
                                      f, detached -> codes.s1 / codes.s2 -> code [B,K]

A silo holds the encoder of its sensor and the shared tensors. Without MF every sensor has a head of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from eoforge.data.labels import NUM_CLASSES
from eoforge.federated.strategies.mm_fl import SENSORS
from eoforge.methods.mm_fl.config import Config
from eoforge.methods.mm_fl.whitening import whiten
from eoforge.nn.backbones import build_backbone
from eoforge.nn.classifier import CodeHead, Network
from eoforge.nn.heads import ProjectionHead

SHARED = "shared"


class MultiModalNetwork(Network):
    """Network with an encoder per sensor and a shared classifier; see the head of this module."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.concat = config.fusion == "concat"
        encoders, widths = {}, []
        for sensor in SENSORS:
            built, features = build_backbone(
                config.backbone, len(config.sensor_bands[sensor]), config.size, config.width
            )
            if config.fw:
                whiten(built, config.backbone)
            encoders[sensor] = built
            widths.append(features)
        self.encoders = nn.ModuleDict(encoders)
        self.features = widths[0]
        inputs = self.features * (len(SENSORS) if self.concat else 1)
        self.heads = nn.ModuleDict({n: nn.Linear(inputs, NUM_CLASSES) for n in ((SHARED,) if config.mf else SENSORS)})
        self.codes = nn.ModuleDict({sensor: CodeHead(self.features, config.bits) for sensor in SENSORS})
        wanted = config.mim != "off"
        self.projection = nn.ModuleDict({"mim": ProjectionHead(self.features, config.embedding)} if wanted else {})
        # Pooled features share a large common part; without it taken out all cosines start near 1 (*ours*).
        norms = {sensor: nn.BatchNorm1d(self.features, affine=False) for sensor in SENSORS}
        self.norms = nn.ModuleDict(norms if wanted else {})

    def represent(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features ``[B, D]`` of each given sensor."""
        features = {}
        for sensor, image_BCSS in images.items():
            features[sensor] = self.encoders[sensor](image_BCSS)
            head = self.codes[sensor]
            assert isinstance(head, CodeHead)
            head.observe(features[sensor])
        return features

    def classify(self, representation: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[B, L]`` from one sensor's features or from both."""
        if SHARED in self.heads:
            logits_BL: Tensor = self.heads[SHARED](self._fused(representation))
            return logits_BL
        each = [self.heads[sensor](self._fused({sensor: f})) for sensor, f in representation.items()]
        return torch.stack(each).mean(dim=0)

    def project(self, features_BD: Tensor, sensor: str) -> Tensor:
        """MIM's embedding ``[B, P]``, not yet of unit length."""
        projected_BP: Tensor = self.projection["mim"](self.norms[sensor](features_BD))
        return projected_BP

    def encode(self, image_BCSS: Tensor, modality: str) -> tuple[Tensor, Tensor]:
        """Hash logits ``[B, K]`` and unit embeddings ``[B, D]`` of one sensor."""
        features_BD = self.represent({modality: image_BCSS})[modality]
        return self.codes[modality](features_BD), functional.normalize(features_BD.float(), dim=1)

    def _fused(self, features: Mapping[str, Tensor]) -> Tensor:
        if not self.concat:
            return torch.stack(list(features.values())).mean(dim=0)
        absent = torch.zeros_like(next(iter(features.values())))
        return torch.cat([features.get(sensor, absent) for sensor in SENSORS], dim=1)
