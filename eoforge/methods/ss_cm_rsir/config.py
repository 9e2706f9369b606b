"""Settings of SS-CM-RSIR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eoforge.data.bands import S1_BANDS, S2_BANDS_10, require_bands
from eoforge.hashing.lengths import require_code_bits
from eoforge.methods.learner import TrainConfig
from eoforge.methods.sensors import SensorBands
from eoforge.nn.backbones import require_backbone


@dataclass(frozen=True)
class Config(SensorBands, TrainConfig):
    """Settings beyond those of every training run (:class:`~eoforge.methods.learner.TrainConfig`).

    Attributes:
        s1_bands: Radar bands in channel order.
        s2_bands: Optical bands in channel order.
        size: Side of the network's input in pixels.
        interpolation: Resampling of all bands to that size.
        flips: Whether to mirror patches at random, both sensors alike.
        backbone: One of ``eoforge.nn.backbones.BACKBONES``, once per sensor.
        width: First width of the tiny backbone.
        projection: Length P of the projections that the inter-modal loss compares.
        bits: Code length K, a multiple of 8 in 16..512.
        hash_hidden: Hidden width of the hash heads.
        temperature: Temperature of the inter-modal loss on projections.
        hash_temperature: Temperature of the inter-modal loss on hash outputs.
        ramp_start: Initial value of alpha and beta, which grow exponentially to their maxima in the last epoch.
        similarity_weight: Maximum of alpha, the weight of the intra-modal similarity.
        discrepancy_weight: Maximum of beta, the weight of the modal discrepancy.
        port_sign: Whether to add alpha times the intra-modal similarity, as the authors' port does, instead of
            subtracting it.
        quantisation_weight: Weight of the quantisation term (hash outputs towards -1 and 1).
        balance_weight: Weight of the bit balance.
        balance_over: "bits" balances each code, "samples" balances each bit.
        hash_reduction: "mean" (weights hold for every batch size) or "sum" (the released code's).
        detach_hash: Whether the hash loss has no gradient into the encoders, as with heads on a frozen encoder.
    """

    s1_bands: tuple[str, ...] = S1_BANDS
    s2_bands: tuple[str, ...] = S2_BANDS_10
    size: int = 120
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    flips: bool = True
    backbone: str = "resnet50"
    width: int = 32
    projection: int = 128
    bits: int = 128
    hash_hidden: int = 768
    temperature: float = 0.1
    hash_temperature: float = 0.5
    ramp_start: float = 1e-4
    similarity_weight: float = 1.0
    discrepancy_weight: float = 1.0
    port_sign: bool = False
    quantisation_weight: float = 0.1
    balance_weight: float = 0.1
    balance_over: Literal["bits", "samples"] = "bits"
    hash_reduction: Literal["sum", "mean"] = "mean"
    detach_hash: bool = False

    def __post_init__(self) -> None:
        """Checks of ranges.

        Raises:
            UsageError: A value is out of range.
        """
        super().__post_init__()
        require_bands(self.s1_bands, "s1")
        require_bands(self.s2_bands, "s2")
        require_backbone(self.backbone)
        require_code_bits(self.bits)
        self._require_positive(
            "size", "width", "projection", "hash_hidden", "temperature", "hash_temperature", "ramp_start"
        )
        self._require_not_negative("similarity_weight", "discrepancy_weight", "quantisation_weight", "balance_weight")

    @classmethod
    def tiny(cls) -> Config:
        """Settings that train on 1,000 pairs in one to two minutes on two CPU cores."""
        return cls(
            epochs=20,
            batch_size=128,
            learning_rate=2e-3,
            weight_decay=1e-4,
            size=60,
            interpolation="bilinear",  # from 120 to 60 this is the mean of 2 x 2 pixels, which reduces speckle
            backbone="tiny",
            hash_hidden=256,
            temperature=0.2,
            hash_temperature=0.2,
        )

    @classmethod
    def paper(cls) -> Config:
        """Two ResNet-50, batch 256, 100 epochs, Adam 1e-3: the settings of the predecessor; the paper was not read."""
        return cls(epochs=100, batch_size=256, learning_rate=1e-3, weight_decay=0.0)
