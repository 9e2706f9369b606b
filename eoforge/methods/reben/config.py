"""Settings of the reBEN baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eoforge.data.bands import S1_BANDS, S2_BANDS_10, require_bands
from eoforge.data.labels import NUM_CLASSES
from eoforge.errors import UsageError
from eoforge.methods.learner import TrainConfig
from eoforge.methods.sensors import SensorBands

PAPER_BACKBONES: tuple[str, ...] = (
    "resnet50",
    "resnet101",
    "convnextv2_base",
    "vit_base_patch8_224",
    "mobilevit_s",
    "mixer_b16_224",
    "convmixer_768_32",
)
"""Backbones of the published weights, by their names in timm."""
DECODERS: tuple[str, ...] = ("unet", "unetplusplus", "fpn", "linknet", "manet", "pan", "upernet", "deeplabv3plus")
"""Decoders of pixel maps, by their names in segmentation_models_pytorch."""
_OFFICIAL_TRAIN, _OFFICIAL_VALIDATION = 237_871, 122_342
_WARMUP_STEPS = 1000


@dataclass(frozen=True)
class Config(SensorBands, TrainConfig):
    """Settings beyond those of every training run (:class:`~eoforge.methods.learner.TrainConfig`).

    Attributes:
        task: "scene" for labels of a patch, "pixels" for a class per pixel.
        sensors: Sensors of the input; "s1s2" stacks the bands of both, Sentinel-1 first.
        s1_bands: Radar bands in channel order.
        s2_bands: Optical bands in channel order.
        size: Side of the input in pixels.
        interpolation: Resampling of all bands to that size.
        flips: Whether to mirror patches at random, all bands and the map alike.
        backbone: "tiny" or "tiny_bn" (scenes alone), or the name of a network of timm.
        width: First width of the tiny backbones.
        decoder: For pixels, one of ``DECODERS``.
        dropout: Dropout before the last layer (scenes).
        drop_path: Stochastic depth, in networks that have it.
        loss: For scenes "bce", "focal" or "asymmetric"; for pixels "bce" is cross entropy, "focal" its focal form.
        positive_weight: Bound of a class's weight, which is its ratio of negatives to positives in the training split
            (scenes) or the ratio of the mean class to it (pixels); 0 weights nothing.
        focal_gamma: Focusing of the focal loss.
        gamma_negative: Focusing of the asymmetric loss on absent labels.
        gamma_positive: Focusing of the asymmetric loss on present labels.
        clip: Shift of the probabilities of absent labels in the asymmetric loss.
    """

    task: Literal["scene", "pixels"] = "scene"
    sensors: Literal["s1", "s2", "s1s2"] = "s1s2"
    s1_bands: tuple[str, ...] = S1_BANDS
    s2_bands: tuple[str, ...] = S2_BANDS_10
    size: int = 120
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    flips: bool = True
    backbone: str = "resnet50"
    width: int = 32
    decoder: str = "unet"
    dropout: float = 0.15
    drop_path: float = 0.15
    loss: Literal["bce", "focal", "asymmetric"] = "bce"
    positive_weight: float = 0.0
    focal_gamma: float = 2.0
    gamma_negative: float = 4.0
    gamma_positive: float = 1.0
    clip: float = 0.05

    def __post_init__(self) -> None:
        """Checks of ranges.

        Raises:
            UsageError: A value is out of range.
        """
        super().__post_init__()
        require_bands(self.s1_bands, "s1")
        require_bands(self.s2_bands, "s2")
        self._require_positive("size", "width")
        self._require_not_negative("positive_weight", "focal_gamma", "gamma_negative", "gamma_positive")
        if 0 < self.positive_weight < 1:
            raise UsageError(f"positive_weight must be 0, or a bound of at least 1; got {self.positive_weight}")
        for name in ("dropout", "drop_path", "clip"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 0 and less than 1; got {getattr(self, name)}")
        if self.task == "pixels":
            if self.backbone.startswith("tiny"):
                raise UsageError(f"pixel maps need an encoder of timm, such as resnet50; got {self.backbone!r}")
            if self.decoder not in DECODERS:
                raise UsageError(f"decoder must be one of {', '.join(DECODERS)}; got {self.decoder!r}")
            if self.loss == "asymmetric":
                raise UsageError("the asymmetric loss is one of labels; pixels take bce (cross entropy) or focal")

    @property
    def outputs(self) -> int:
        """Number of outputs of a network of scenes."""
        return NUM_CLASSES

    @classmethod
    def tiny(cls) -> Config:
        """Settings that train on 1,000 patches in about a minute on two CPU cores."""
        return cls(
            epochs=20,
            batch_size=64,
            learning_rate=3e-3,
            weight_decay=0.01,
            patience=5,
            size=60,
            interpolation="bilinear",  # from 120 to 60 this is the mean of 2 x 2 pixels, which reduces speckle
            backbone="tiny_bn",
        )

    @classmethod
    def paper(cls) -> Config:
        """The published recipe; 1,000 steps of warm-up are counted in epochs of the official training split."""
        return cls(
            epochs=100,
            batch_size=512,
            learning_rate=1e-3,
            warmup_epochs=_WARMUP_STEPS / (_OFFICIAL_TRAIN // 512),
            weight_decay=0.01,
            patience=5,
            validation_patches=_OFFICIAL_VALIDATION,
        )
