"""The networks of the reBEN baselines.

Shape legend: B patches, C bands of all sensors, S pixels, D features, L = 19 classes::

    s1 [B,2,S,S]  --+-> stack [B,C,S,S] -+-> scene:  timm network -> f [B,D] -> last layer -> logits [B,L]
    s2 [B,10,S,S] --+                    +-> pixels: timm encoder -> decoder -> logits [B,L,S,S]

Bands are stacked before the first layer, Sentinel-1 first (*confirmed*: the order of the weights v0.2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from eoforge.data.labels import NUM_CLASSES
from eoforge.errors import UsageError
from eoforge.methods.reben.config import Config
from eoforge.nn.backbones import build_backbone
from eoforge.nn.classifier import Network

_STRIDE = 32
"""Side of an image for encoder and decoder: a multiple of this."""


def stacked(images: Mapping[str, Tensor], sensors: tuple[str, ...]) -> Tensor:
    """Image ``[B, C, S, S]`` of all bands, in the order of ``sensors``.

    Raises:
        UsageError: A sensor is missing.
    """
    if missing := [sensor for sensor in sensors if sensor not in images]:
        raise UsageError(f"this network reads {' and '.join(sensors)} together; missing: {', '.join(missing)}")
    return torch.cat([images[sensor] for sensor in sensors], dim=1)


class SceneNetwork(Network):
    """Classifier of patches.

    Attributes:
        model: A network of timm with its classifier, or a small one; weights keep timm's names below ``model.``.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.sensors = tuple(config.sensor_bands)
        self.alone = len(self.sensors) == 1
        self.model = _Tiny(config) if config.backbone.startswith("tiny") else _timm(config)

    def represent(self, images: Any) -> Tensor:
        """Features ``[B, D]``, dropout included, from images by sensor."""
        image_BCSS = stacked(images, self.sensors)
        features_BD: Tensor = self.model.forward_head(self.model.forward_features(image_BCSS), pre_logits=True)
        return features_BD

    def classify(self, representation: Any) -> Tensor:
        logits_BL: Tensor = self.model.get_classifier()(representation)
        return logits_BL


class _Tiny(nn.Module):
    """A small CNN with the interface of timm's networks."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder, features = build_backbone(config.backbone, config.channels, config.size, config.width)
        self.drop = nn.Dropout(config.dropout)
        self.fc = nn.Linear(features, config.outputs)

    def forward_features(self, image_BCSS: Tensor) -> Tensor:
        features_BD: Tensor = self.encoder(image_BCSS)
        return features_BD

    def forward_head(self, features_BD: Tensor, pre_logits: bool) -> Tensor:
        dropped_BD: Tensor = self.drop(features_BD)
        return dropped_BD if pre_logits else self.fc(dropped_BD)

    def get_classifier(self) -> nn.Module:
        return self.fc


def _timm(config: Config) -> Any:
    import timm  # slow to import, and the tiny backbones do without

    options: dict[str, Any] = {"drop_path_rate": config.drop_path}
    if _known_timm(config.backbone).fixed_input_size:
        options["img_size"] = config.size
    while True:
        try:
            return timm.create_model(
                config.backbone,
                pretrained=False,
                in_chans=config.channels,
                num_classes=config.outputs,
                drop_rate=config.dropout,
                **options,
            )
        except (TypeError, AssertionError, ValueError, RuntimeError) as error:
            if "'drop_path_rate'" in str(error) and options.pop("drop_path_rate", None) is not None:
                continue  # ConvMixer has no residual branches to drop
            raise UsageError(
                f"timm cannot build {config.backbone} for {config.channels} bands of {config.size} x {config.size} "
                f"pixels: {error}"
            ) from error


def _known_timm(name: str) -> Any:
    """Default settings of a network of timm.

    Raises:
        UsageError: There is no such network.
    """
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"{name.split('_')[0]}*")[:5]
        hint = f"; like it: {', '.join(near)}" if near else ""
        raise UsageError(f"backbone must be tiny, tiny_bn or a network of timm; got {name!r}{hint}")
    return timm.get_pretrained_cfg(name)


class PixelNetwork(nn.Module):
    """Map of classes: an encoder of timm and a decoder of segmentation_models_pytorch.

    Images are mirrored at their edges up to the next multiple of 32 pixels, and the logits are cut back.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        self.sensors = tuple(config.sensor_bands)
        self.alone = len(self.sensors) == 1
        self.size, self.padding = config.size, -config.size % _STRIDE
        self.before = self.padding // 2
        _known_timm(config.backbone)
        try:
            self.model = smp.create_model(
                config.decoder,
                encoder_name=f"tu-{config.backbone}",
                encoder_weights=None,
                in_channels=config.channels,
                classes=NUM_CLASSES,
            )
        except (TypeError, AssertionError, ValueError, RuntimeError, KeyError) as error:
            raise UsageError(f"{config.backbone} cannot be the encoder of {config.decoder}: {error}") from error

    def represent(self, images: Mapping[str, Tensor]) -> Tensor:
        """Features ``[B, D, h, w]`` of the decoder for the mirrored images."""
        image_BCSS = stacked(images, self.sensors)
        margins = (self.before, self.padding - self.before) * 2
        padded = functional.pad(image_BCSS, margins, mode="reflect") if self.padding else image_BCSS
        features: Tensor = self.model.decoder(self.model.encoder(padded))
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Logits ``[B, L, S, S]`` of the last layer."""
        return self.cut(self.model.segmentation_head(features))

    def cut(self, logits: Tensor) -> Tensor:
        """Logits of the images from those of the mirrored ones, resampled first if these have another resolution."""
        side = self.size + self.padding
        if logits.shape[-1] != side:
            logits = functional.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)
        return logits[..., self.before : self.before + self.size, self.before : self.before + self.size]

    def predict(self, images: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[B, L, S, S]`` from images by sensor, ``[B, C, S, S]`` each."""
        return self.classify(self.represent(images))


def build(config: Config) -> SceneNetwork | PixelNetwork:
    """Network of the task with initial weights.

    Raises:
        UsageError: The network cannot be built, or does not take images of that size.
    """
    network = PixelNetwork(config) if config.task == "pixels" else SceneNetwork(config)
    side = config.size
    blank = {sensor: torch.zeros(1, len(bands), side, side) for sensor, bands in config.sensor_bands.items()}
    try:
        with torch.no_grad():
            network.eval().predict(blank)
    except (AssertionError, RuntimeError) as error:  # a vision transformer whose patches do not divide the image
        raise UsageError(f"{config.backbone} takes no images of {side} x {side} pixels: {error}") from error
    return network.train()
