"""Image encoders ``[B, C, S, S] -> [B, D]``: five from timm, and a small CNN that trains on a CPU.

The names of weights are part of every bundle. A ResNet or ViT keeps them below ``model.``; the three mixers, which only
federated bundles hold, have no prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from eoforge.errors import UsageError

ModuleT = TypeVar("ModuleT", bound=nn.Module)

VIT_PATCH = 15
"""Side of a ViT's tokens in pixels: 8 x 8 tokens for the 120 pixels of a patch."""
_MIXER_PATCH, _MIXER_BLOCKS, _MIXER_WIDTH, _MIXER_RATIO = 8, 8, 512, 4.0
_MAP_SIDE = 30
_NORM_GROUP = 16
_VARIANCE_FLOOR = 1e-4


class TinyCnn(nn.Module):
    """A CNN of three convolutions on means of about 30 x 30 pixels, pooled to mean and deviation over the map.

    The average pooling at the start removes most of the speckle and of the arithmetic. Group norm keeps an encoding
    independent of the other patches of the batch. The deviation carries parcels and borders, which the mean loses.

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


class _Prefixed(nn.Module):
    """A timm model whose weights are named ``model. ...``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_BCSS: Tensor) -> Tensor:
        features_BD: Tensor = self.model(image_BCSS)
        return features_BD


BACKBONES: tuple[str, ...] = (
    "tiny",
    "tiny_bn",
    "resnet50",
    "mlp_mixer",
    "convmixer",
    "poolformer",
    "vit_small",
    "vit_small_patch15",
)
"""Names of :func:`build_backbone`: ``tiny`` normalises by groups, ``tiny_bn`` by batches; ``resnet50`` and the three
mixers are those of the sister study of FL-RS (arXiv 2405.15405); ``vit_small_patch15`` is the name of ``vit_small`` in
bundles of SS-CM-RSIR."""


def require_backbone(name: str) -> None:
    """Raises :class:`UsageError` if ``name`` is none of ``BACKBONES``."""
    if name not in BACKBONES:
        raise UsageError(f"backbone must be one of {', '.join(BACKBONES)}; got {name!r}")


def build_backbone(name: str, channels: int, size: int, width: int = 32) -> tuple[nn.Module, int]:
    """An image encoder with random weights, and its number of features D.

    Args:
        name: One of ``BACKBONES``.
        channels: Input bands C.
        size: Side of the input in pixels; a multiple of 15 for the ViT and of 8 for the MLP-Mixer.
        width: First width of the tiny ones (a multiple of 8); the others ignore it.

    Raises:
        UsageError: The name is unknown, or the size or width does not fit.
    """
    require_backbone(name)
    if name in ("tiny", "tiny_bn"):
        if width < 8 or width % 8:
            raise UsageError(f"the tiny backbones need a width that is a multiple of 8; got {width}")
        tiny = TinyCnn(channels, size, width)
        if name == "tiny_bn":
            replace_layers(tiny, nn.GroupNorm, lambda norm: nn.BatchNorm2d(norm.num_channels))
        return tiny, tiny.features
    if name.startswith("vit"):
        _require_multiple(name, size, VIT_PATCH)
    if name == "mlp_mixer":
        _require_multiple(name, size, _MIXER_PATCH)
    model = _timm_model(name, channels, size)
    features = model.num_features
    assert isinstance(features, int)
    return _Prefixed(model) if name == "resnet50" or name.startswith("vit") else model, features


def _require_multiple(name: str, size: int, patch: int) -> None:
    if size % patch:
        raise UsageError(f"{name} needs a size that is a multiple of {patch} pixels; got {size}")


def _timm_model(name: str, channels: int, size: int) -> nn.Module:
    import timm  # slow to import, and the tiny backbones do without

    if name == "mlp_mixer":
        from timm.models.mlp_mixer import MlpMixer

        tokens = (size // _MIXER_PATCH) ** 2
        return MlpMixer(
            num_classes=0,
            img_size=size,
            in_chans=channels,
            patch_size=_MIXER_PATCH,
            num_blocks=_MIXER_BLOCKS,
            embed_dim=_MIXER_WIDTH,
            # Fourfold width in both directions gives the 20.6 M parameters that the study reports (*ours*).
            mlp_ratio=(_MIXER_RATIO * tokens / _MIXER_WIDTH, _MIXER_RATIO),
        )
    names = {"resnet50": "resnet50", "convmixer": "convmixer_768_32", "poolformer": "poolformer_s12"}
    sizes: dict[str, Any] = {} if name in names else {"img_size": size, "patch_size": VIT_PATCH}
    model: nn.Module = timm.create_model(
        names.get(name, "vit_small_patch16_224"), pretrained=False, in_chans=channels, num_classes=0, **sizes
    )
    return model


def replace_layers(module: nn.Module, kind: type[ModuleT], build: Callable[[ModuleT], nn.Module]) -> None:
    """Replaces every child of ``kind``, at any depth, by ``build(child)``."""
    for name, child in module.named_children():
        if isinstance(child, kind):
            setattr(module, name, build(child))
        else:
            replace_layers(child, kind, build)
