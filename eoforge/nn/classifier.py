"""The network that silos train: an encoder, MOON's projection where it is asked for, and a linear classifier.

Shape legend: B patches, C bands, S pixels, D features, P projection, L labels, K bits::

    image [B,C,S,S] -> encoder -> f [B,D] -+-> (projection: Linear ReLU Linear) -> z [B,P] -> head -> logits [B,L]
                                           +-> z = f without a projection
    z, detached -> running mean and deviation -> fixed +-1 projection -> code [B,K]

Codes take no training: they are signs of fixed random combinations of the standardised z, the usual locality-sensitive
hash for cosines. So a federated run ends in a bundle that can be indexed and served, and federation pays for 2 D
numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from eoforge.errors import UsageError
from eoforge.nn.backbones import build_backbone
from eoforge.nn.seeds import derive_seed

BACKBONES: tuple[str, ...] = ("tiny", "tiny_bn", "resnet50", "mlp_mixer", "convmixer", "poolformer", "vit_small")
"""The four of the sister study (arXiv 2405.15405), a ViT, and two small ones: ``tiny`` normalises by groups,
``tiny_bn`` by batches."""
ModuleT = TypeVar("ModuleT", bound=nn.Module)
_MIXER_PATCH, _MIXER_BLOCKS, _MIXER_WIDTH, _MIXER_RATIO = 8, 8, 512, 4.0


class Network(nn.Module, ABC):
    """What a silo trains: a representation that objectives may look at, then a linear classifier."""

    @abstractmethod
    def represent(self, images: Any) -> Any:
        """What the last linear layer is given: ``[B, D]``, or one such per sensor."""

    @abstractmethod
    def classify(self, representation: Any) -> Tensor:
        """Logits ``[B, L]``."""


class CodeHead(nn.Module):
    """Binary codes without training: signs of a fixed projection of the standardised representation.

    Args:
        features: Length D of the representation.
        bits: Code length K.
    """

    projection: Tensor

    def __init__(self, features: int, bits: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features, affine=False)
        # Raw Philox words are the one NumPy stream that is promised never to change.
        words = np.random.Philox(key=derive_seed("fl codes", features, bits)).random_raw(features * bits // 64 + 1)
        signs = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")[: features * bits]
        plus_minus = signs.reshape(features, bits).astype(np.float32) * 2 - 1
        self.register_buffer("projection", torch.from_numpy(plus_minus), persistent=False)

    def observe(self, representation_BD: Tensor) -> None:
        """Takes the batch into the running statistics; does nothing outside training."""
        if self.training and len(representation_BD) > 1:
            self.norm(representation_BD.detach().float())

    def forward(self, representation_BD: Tensor) -> Tensor:
        """Hash logits ``[B, K]``."""
        logits_BK: Tensor = self.norm(representation_BD.float()) @ self.projection
        return logits_BK


class Classifier(Network):
    """One sensor's classifier."""

    def __init__(
        self, backbone: str, channels: int, size: int, width: int, projection: int, bits: int, classes: int
    ) -> None:
        """Args:
        backbone: One of ``BACKBONES``.
        channels: Input bands C.
        size: Side of the input in pixels.
        width: First width of the tiny backbones.
        projection: Length P of MOON's projection; 0 for none.
        bits: Code length.
        classes: Labels L.
        """
        super().__init__()
        self.encoder, features = encoder(backbone, channels, size, width)
        self.projection: nn.Module = nn.Identity()
        if projection:
            first, last = nn.Linear(features, features), nn.Linear(features, projection)
            for layer in (first, last):
                # PyTorch's own start shrinks what varies between patches fourfold over these two layers, and the
                # encoder's gradients with it: short runs then learn next to nothing (*ours*).
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

    def encode(self, image_BCSS: Tensor, modality: str) -> tuple[Tensor, Tensor]:
        """Hash logits ``[B, K]`` and unit embeddings ``[B, D]``; there is one sensor, whatever its name."""
        z_BD = self.represent(image_BCSS)
        return self.codes(z_BD), functional.normalize(z_BD.float(), dim=1)


def encoder(backbone: str, channels: int, size: int, width: int) -> tuple[nn.Module, int]:
    """A fresh encoder ``[B, C, S, S] -> [B, D]`` and its D.

    Raises:
        UsageError: The name is unknown, or size or width do not fit it.
    """
    if backbone not in BACKBONES:
        raise UsageError(f"backbone must be one of {', '.join(BACKBONES)}; got {backbone!r}")
    if backbone in ("tiny", "tiny_bn"):
        tiny = build_backbone("tiny", channels, size, width)
        if backbone == "tiny_bn":
            replace(tiny, nn.GroupNorm, lambda norm: nn.BatchNorm2d(norm.num_channels))
        return tiny, tiny.features
    if backbone in ("resnet50", "vit_small"):
        large = build_backbone("resnet50" if backbone == "resnet50" else "vit_small_patch15", channels, size)
        return large, large.features
    import timm  # slow to import

    if backbone == "mlp_mixer":
        from timm.models.mlp_mixer import MlpMixer

        if size % _MIXER_PATCH:
            raise UsageError(f"mlp_mixer needs a size that is a multiple of {_MIXER_PATCH} pixels; got {size}")
        tokens = (size // _MIXER_PATCH) ** 2
        model: nn.Module = MlpMixer(
            num_classes=0,
            img_size=size,
            in_chans=channels,
            patch_size=_MIXER_PATCH,
            num_blocks=_MIXER_BLOCKS,
            embed_dim=_MIXER_WIDTH,
            # Fourfold width in both directions gives the 20.6 M parameters that the study reports (*ours*).
            mlp_ratio=(_MIXER_RATIO * tokens / _MIXER_WIDTH, _MIXER_RATIO),
        )
    else:
        name = "convmixer_768_32" if backbone == "convmixer" else "poolformer_s12"
        model = timm.create_model(name, pretrained=False, in_chans=channels, num_classes=0)
    features = model.num_features
    assert isinstance(features, int)
    return model, features


def replace(module: nn.Module, kind: type[ModuleT], build: Callable[[ModuleT], nn.Module]) -> None:
    """Puts ``build(child)`` in place of every child of ``kind``, at any depth."""
    for name, child in module.named_children():
        if isinstance(child, kind):
            setattr(module, name, build(child))
        else:
            replace(child, kind, build)
