"""Image encoders ``[B, C, S, S] -> [B, D]``: two from timm, and a small one that trains on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eoforge.errors import UsageError

VIT_PATCH = 15
"""Divides the 120 pixels of a patch into 8 x 8 tokens."""


_MAP_SIDE = 30
_NORM_GROUP = 16
_VARIANCE_FLOOR = 1e-4


class TinyCnn(nn.Module):
    """Means down to about 30 x 30 pixels, three convolutions with group norm, then mean and deviation over the map.

    Averaging first takes most of the speckle and of the arithmetic away. Group norm keeps patches independent of each
    other: an encoding cannot depend on who shares the batch. The deviation is kept beside the mean because parcels and
    borders, which the mean hides, tell land covers apart.

    Args:
        channels: Input bands C.
        size: Side of the input in pixels.
        width: Channels of the first convolution; the later ones have two and four times as many.
    """

    def __init__(self, channels: int, size: int, width: int) -> None:
        super().__init__()
        stages: list[nn.Module] = [nn.AvgPool2d(max(1, size // _MAP_SIDE))]
        previous = channels
        for stage, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            stages += [
                nn.Conv2d(previous, stage, kernel_size=3, stride=stride, padding=1, bias=False),
                nn.GroupNorm(max(1, stage // _NORM_GROUP), stage),
                nn.GELU(),
            ]
            previous = stage
        self.stages = nn.Sequential(*stages)
        self.features = 2 * previous

    def forward(self, image_BCSS: Tensor) -> Tensor:
        """``[B, C, S, S]`` to ``[B, 8 * width]``."""
        map_BDP = self.stages(image_BCSS).flatten(2)
        variance_BD, mean_BD = torch.var_mean(map_BDP, dim=2, correction=0)
        # The floor keeps the square root's gradient finite where a map is constant.
        return torch.cat([mean_BD, (variance_BD + _VARIANCE_FLOOR).sqrt()], dim=1)


class _TimmBackbone(nn.Module):
    def __init__(self, model: nn.Module, features: int) -> None:
        super().__init__()
        self.model = model
        self.features = features

    def forward(self, image_BCSS: Tensor) -> Tensor:
        features_BD: Tensor = self.model(image_BCSS)
        return features_BD


BACKBONES: tuple[str, ...] = ("tiny", "resnet50", "vit_small_patch15")


def build_backbone(name: str, channels: int, size: int, width: int = 32) -> TinyCnn | _TimmBackbone:
    """A fresh encoder with random weights.

    Args:
        name: One of ``BACKBONES``.
        channels: Input bands C.
        size: Side of the input in pixels; a multiple of 15 for the ViT.
        width: First width of the tiny one (a multiple of 8); the others ignore it.

    Raises:
        UsageError: The name is unknown, or the size or width does not fit.
    """
    if name not in BACKBONES:
        raise UsageError(f"backbone must be one of {', '.join(BACKBONES)}; got {name!r}")
    if name == "tiny":
        if width < 8 or width % 8:
            raise UsageError(f"the tiny backbone needs a width that is a multiple of 8; got {width}")
        return TinyCnn(channels, size, width)
    import timm  # slow to import, and the tiny backbone does without

    if name == "resnet50":
        model = timm.create_model("resnet50", pretrained=False, in_chans=channels, num_classes=0)
    else:
        if size % VIT_PATCH:
            raise UsageError(f"{name} needs a size that is a multiple of {VIT_PATCH} pixels; got {size}")
        model = timm.create_model(
            "vit_small_patch16_224",
            pretrained=False,
            in_chans=channels,
            num_classes=0,
            img_size=size,
            patch_size=VIT_PATCH,
        )
    features = model.num_features
    assert isinstance(features, int)
    return _TimmBackbone(model, features)
