"""Settings of CSMAE: of a training step, of pre-training, and of a whole run.

The imports are torch and NumPy only: the benchmark of a step runs on machines without Lance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from eoforge.data.bands import S1_BANDS, S2_BANDS_10, require_bands
from eoforge.errors import UsageError
from eoforge.hashing.lengths import require_code_bits
from eoforge.methods.learner import TrainConfig, fields_of
from eoforge.methods.schedule import Schedule

VITS: dict[str, tuple[int, int, int]] = {
    "micro": (96, 3, 4),
    "tiny": (192, 3, 12),
    "small": (384, 6, 12),
    "base": (768, 12, 12),
    "large": (1024, 16, 24),
}
"""Encoder -> (width, heads, depth). ``micro`` is *ours*, for CPUs; the others are those of the released code."""

MAX_TOKENS = 256


@dataclass(frozen=True)
class Settings:
    """Settings of a training step.

    Attributes:
        variant: Encoder and decoder, each (C)ommon to the sensors or (S)ensor-specific.
        s1_bands: Radar bands in channel order.
        s2_bands: Optical bands in channel order: ten, all twelve, or any other choice.
        size: Side of the network's input in pixels.
        patch: Side of a patch in pixels.
        vit: Encoder, one of ``VITS``.
        shared_depth: Blocks at the end of a sensor-specific encoder that both sensors share.
        decoder_width: Channels of the decoder.
        decoder_depth: Its blocks.
        decoder_heads: Its attention heads.
        feature: Feature of an image: "gap", the normed mean of its patch tokens, or "cls".
        mask_ratio: Share of masked patches of the first sensor.
        masking: How the second sensor's mask follows from the first's.
        reconstruction: Positions of the tokens of one sensor when they predict the other; see ``masking.py``.
        norm_pix: Standardise every target patch by its own mean and deviation.
        umr_weight: Weight of the reconstruction of each sensor from itself.
        cmr_weight: Weight of the reconstruction of each sensor from the other.
        mim_weight: Weight of the contrast between the sensors' features.
        mde_weight: Weight of the discrepancy term, which is subtracted.
        temperature: Temperature of the contrast.
        sharing: Whether to embed visible patches only, predict masked ones only, and run a trunk once for all its
            decodes; the plain path (False) has the same losses and gradients up to rounding.
    """

    variant: Literal["cecd", "cesd", "secd", "sesd"] = "secd"
    s1_bands: tuple[str, ...] = S1_BANDS
    s2_bands: tuple[str, ...] = S2_BANDS_10
    size: int = 120
    patch: int = 15
    vit: Literal["micro", "tiny", "small", "base", "large"] = "base"
    shared_depth: int = 2
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    feature: Literal["gap", "cls"] = "gap"
    mask_ratio: float = 0.5
    masking: Literal["identical", "disjoint", "random"] = "random"
    reconstruction: Literal["disjoint", "identical"] = "disjoint"
    norm_pix: bool = False
    umr_weight: float = 1.0
    cmr_weight: float = 1.0
    mim_weight: float = 1.0
    mde_weight: float = 0.0
    temperature: float = 0.5
    sharing: bool = True

    def __post_init__(self) -> None:
        """Checks of ranges.

        Raises:
            UsageError: A value is out of range, or two values do not fit.
        """
        require_bands(self.s1_bands, "s1")
        require_bands(self.s2_bands, "s2")
        if self.patch < 1 or self.size < 1 or self.size % self.patch or self.tokens > MAX_TOKENS:
            raise UsageError(
                f"patch must divide size into at most {MAX_TOKENS} patches; got size {self.size}, patch {self.patch}"
            )
        if not 1 <= self.keep["s1"] < self.tokens:
            raise UsageError(
                f"mask_ratio must mask at least one of {self.tokens} patches and not all; got {self.mask_ratio}"
            )
        if not 1 <= self.shared_depth <= VITS[self.vit][2]:
            raise UsageError(f"shared_depth must lie in 1..{VITS[self.vit][2]} for {self.vit}; got {self.shared_depth}")
        if self.decoder_depth < 1 or self.decoder_heads < 1 or self.decoder_width % (4 * self.decoder_heads):
            raise UsageError(
                "decoder_depth and decoder_heads must be positive and decoder_width a multiple of 4 x decoder_heads; "
                f"got {self.decoder_depth}, {self.decoder_heads}, {self.decoder_width}"
            )
        weights = (self.umr_weight, self.cmr_weight, self.mim_weight, self.mde_weight)
        if min(weights) < 0 or not self.umr_weight + self.cmr_weight > 0 or not self.temperature > 0:
            raise UsageError(
                "weights must not be negative, umr_weight or cmr_weight must be positive, and so must temperature; "
                f"got weights {weights}, temperature {self.temperature}"
            )

    @property
    def sensor_bands(self) -> dict[str, tuple[str, ...]]:
        """Bands per sensor, in channel order."""
        return {"s1": self.s1_bands, "s2": self.s2_bands}

    @property
    def tokens(self) -> int:
        """Number of patches L of an image."""
        return (self.size // self.patch) ** 2

    @property
    def keep(self) -> dict[str, int]:
        """Number of visible patches per sensor; under disjoint masking they are complementary."""
        first = int(self.tokens * (1 - self.mask_ratio))
        return {"s1": first, "s2": self.tokens - first if self.masking == "disjoint" else first}

    @property
    def width(self) -> int:
        """Channels D of tokens and features."""
        return VITS[self.vit][0]

    @property
    def depths(self) -> tuple[int, int]:
        """Sensor-specific and shared blocks of the encoder ("multi" and "cross" in the released configs)."""
        depth = VITS[self.vit][2]
        return (0, depth) if self.variant.startswith("ce") else (depth - self.shared_depth, self.shared_depth)

    @property
    def common_decoder(self) -> bool:
        """Whether one trunk decodes both sensors."""
        return self.variant.endswith("cd")


@dataclass(frozen=True)
class Pretraining(TrainConfig, Settings):
    """Settings of masked pre-training; those of :class:`~eoforge.methods.learner.TrainConfig` are those of this stage.

    Attributes:
        interpolation: Resampling of all bands to ``size``.
        flips: Whether to mirror patches at random, both sensors alike.
        released: Path of a checkpoint of the released code to start from; empty starts from random weights.
    """

    interpolation: Literal["nearest", "bilinear", "bicubic"] = "nearest"
    flips: bool = True
    released: str = ""

    def __post_init__(self) -> None:
        """Checks of the bases."""
        TrainConfig.__post_init__(self)
        Settings.__post_init__(self)


@dataclass(frozen=True)
class Config(Pretraining):
    """Settings of a whole run: pre-training, then hash heads on the frozen encoder.

    Attributes:
        bits: Code length K, a multiple of 8 in 16..512.
        hash_hidden: Hidden width of the hash heads.
        hash_epochs: Passes over the cached features.
        hash_batch_size: Patches per step of the heads, over all ranks together.
        hash_learning_rate: Peak of the heads' schedule.
        hash_warmup_epochs: Length of the heads' warm-up.
        hash_schedule: Shape of the heads' schedule after the warm-up.
        hash_weight_decay: Weight decay of the heads.
        hash_beta2: Decay of the squared gradients of the heads' optimiser.
        hash_temperature: Temperature of the contrast between the sensors' hash outputs.
        quantisation_weight: Weight of the quantisation term (hash outputs towards -1 and 1).
        balance_weight: Weight of the bit balance.
        balance_over: "bits" balances each code, "samples" balances each bit.
        hash_reduction: "mean" (weights hold for every batch size) or "sum" (the released code's).
        standardise: Whether to standardise features over the training split before the heads.
    """

    phases: ClassVar[tuple[str, ...]] = ("hash_epochs",)

    bits: int = 128
    hash_hidden: int = 768
    hash_epochs: int = 25
    hash_batch_size: int = 128
    hash_learning_rate: float = 1e-4
    hash_warmup_epochs: float = 1.0
    hash_schedule: Schedule = "cosine"
    hash_weight_decay: float = 0.01
    hash_beta2: float = 0.999
    hash_temperature: float = 0.5
    quantisation_weight: float = 0.1
    balance_weight: float = 0.1
    balance_over: Literal["bits", "samples"] = "bits"
    hash_reduction: Literal["sum", "mean"] = "mean"
    standardise: bool = True

    def __post_init__(self) -> None:
        """Checks of the bases, and ranges of the heads' settings."""
        super().__post_init__()
        require_code_bits(self.bits)
        self._require_positive("hash_hidden", "hash_epochs", "hash_batch_size", "hash_learning_rate")
        self._require_positive("hash_temperature")
        self._require_not_negative("quantisation_weight", "balance_weight", "hash_warmup_epochs", "hash_weight_decay")
        if not 0 <= self.hash_beta2 < 1:
            raise UsageError(f"hash_beta2 must be at least 0 and less than 1; got {self.hash_beta2}")

    @classmethod
    def tiny(cls) -> Config:
        """Settings that train on 1,000 pairs in a few minutes on two CPU cores."""
        return cls(
            epochs=20,
            batch_size=64,
            learning_rate=1e-3,
            warmup_epochs=2.0,
            weight_decay=0.05,
            beta2=0.95,
            size=60,
            patch=10,
            interpolation="bilinear",  # from 120 to 60 this is the mean of 2 x 2 pixels, which reduces speckle
            vit="micro",
            decoder_width=64,
            decoder_depth=1,
            decoder_heads=4,
            temperature=0.2,
            hash_hidden=256,
            hash_epochs=20,
            hash_batch_size=64,
            hash_learning_rate=2e-3,
            hash_temperature=0.2,
        )

    @classmethod
    def paper(cls) -> Config:
        """The authors' configuration (SECD, their best for cross-sensor retrieval), band order included.

        The heads are those of DA4DTE: AdamW with its default decay and betas, at a constant rate. The README lists what
        differs beyond settings.
        """
        return cls(
            seed=42,
            epochs=150,
            batch_size=128,
            learning_rate=1e-4,
            warmup_epochs=10.0,
            weight_decay=0.05,
            beta2=0.95,
            s1_bands=("VH", "VV"),
            s2_bands=("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B11", "B12", "B8A"),
            interpolation="bicubic",
            hash_warmup_epochs=0.0,
            hash_schedule="constant",
            quantisation_weight=0.001,
            balance_weight=0.01,
            hash_reduction="sum",
            standardise=False,
        )

    def pretraining(self) -> Pretraining:
        """Settings of the first stage, which runs with equal ones share."""
        return Pretraining(**fields_of(self, Pretraining))

    def heads(self, pretrained: str) -> HashStage:
        """Settings of the second stage on the encoder of the bundle with the id ``pretrained``."""
        values = fields_of(self, Config) | {
            "epochs": self.hash_epochs,
            "batch_size": self.hash_batch_size,
            "learning_rate": self.hash_learning_rate,
            "warmup_epochs": self.hash_warmup_epochs,
            "schedule": self.hash_schedule,
            "weight_decay": self.hash_weight_decay,
            "beta2": self.hash_beta2,
            "pretrained": pretrained,
        }
        return HashStage(**values)


@dataclass(frozen=True)
class HashStage(Config):
    """Settings of the second stage: ``Config`` with the heads' schedule as that of the run.

    Attributes:
        pretrained: Id of the pre-training bundle; it is part of the run's identity.
    """

    batch_setting: ClassVar[str] = "hash_batch_size"

    pretrained: str = ""
