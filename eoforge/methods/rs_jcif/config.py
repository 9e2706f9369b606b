"""Settings of RS-JCIF: codec, hash objective, and the two stages of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from eoforge.codec.learned.config import CodecConfig
from eoforge.data.bands import MODALITIES, S1_BANDS, S2_BANDS, require_bands
from eoforge.errors import UsageError
from eoforge.geo.footprint import PATCH_METRES
from eoforge.methods.learner import TrainConfig, fields_of
from eoforge.methods.rs_jcif.gradients import RULES, Rule
from kernels.soft_pairwise import Form

_SIDE = PATCH_METRES // 10
_CROP_STEP = 12  # whole pixels of all three grids, and whole cells of the codec
Similarity = Literal["labels", "teacher", "partner"]


@dataclass(frozen=True)
class Compression(TrainConfig):
    """Settings of the first stage, the codec alone, with those of ``TrainConfig`` for this stage.

    Attributes:
        s1_bands: Radar bands; empty for an optical codec.
        s2_bands: Optical bands; empty for a radar codec.
        channels: Width of the codec's transforms.
        latent: Channels M of the latent, which is stored and hashed.
        hyper: Channels of the hyper-latent.
        stages: Halvings between the 20 m grid and the latent.
        kernel: Side of the transforms' convolutions.
        bits: Code length K, a multiple of 8 in 16..512.
        hash_hidden: Width of the hash module.
        steps: Quality steps of the one model, at least 8.
        lambda_min: Weight of distortion against rate at quality 0.
        lambda_max: The same at the highest quality; steps between them are geometric.
        transform_rate: Learning rate of the non-linear paths of analysis and synthesis, relative to that of entropy
            model and hash module.
        linear_rate: The same for their linear paths, whose initial weights are principal components.
        crop: Side in 10 m pixels of the window of a training step, a multiple of 12; 72 is a whole number of blocks of
            the tiny preset and costs little more than a third of 120.
        flips: Whether to mirror patches at random, both sensors alike.
    """

    s1_bands: tuple[str, ...] = S1_BANDS
    s2_bands: tuple[str, ...] = S2_BANDS
    channels: int = 128
    latent: int = 192
    hyper: int = 128
    stages: int = 3
    kernel: int = 5
    bits: int = 128
    hash_hidden: int = 512
    steps: int = 8
    lambda_min: float = 16.0
    lambda_max: float = 16384.0
    transform_rate: float = 0.1
    linear_rate: float = 0.01
    crop: int = 120
    flips: bool = True

    def __post_init__(self) -> None:
        """Checks of ranges.

        Raises:
            UsageError: A value is out of range.
        """
        super().__post_init__()
        for modality, bands in self.all_bands.items():
            if bands:
                require_bands(bands, modality)
        if not self.bands:
            raise UsageError("a codec needs bands of at least one sensor; got none")
        self._require_positive("transform_rate", "linear_rate")
        if self.crop % _CROP_STEP or not _CROP_STEP <= self.crop <= _SIDE:
            raise UsageError(f"crop must be a multiple of {_CROP_STEP} up to {_SIDE}; got {self.crop}")
        self.codec({band: (0.0, 1.0) for bands in self.bands.values() for band in bands})

    @property
    def all_bands(self) -> dict[str, tuple[str, ...]]:
        """Sensor -> bands, possibly none."""
        return {"s1": self.s1_bands, "s2": self.s2_bands}

    @property
    def bands(self) -> dict[str, tuple[str, ...]]:
        """Sensor -> bands, in the order of ``MODALITIES``, without sensors that have no bands."""
        return {modality: self.all_bands[modality] for modality in MODALITIES if self.all_bands[modality]}

    def codec(self, normalisation: Mapping[str, tuple[float, float]]) -> CodecConfig:
        """Config of the codec of these settings.

        Args:
            normalisation: Band -> (mean, standard deviation).

        Raises:
            UsageError: A value is out of the codec's range.
        """
        names = {field.name for field in dataclasses.fields(CodecConfig)} & {f.name for f in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in names - {"s1_bands", "s2_bands"}}
        chosen = {band: normalisation[band] for bands in self.bands.values() for band in bands}
        return dataclasses.replace(CodecConfig(), **values).for_bands(chosen)


@dataclass(frozen=True)
class Config(Compression):
    """Settings of a whole run: the codec alone, then codec and hash together.

    Attributes:
        joint_epochs: Passes of the second stage.
        joint_batch_size: Patches per step of the second stage, over all ranks together.
        joint_learning_rate: Peak of the second stage's schedule.
        rule: Combination of the two tasks' gradients on the analysis transform; see ``gradients``.
        fixed_weight: Weight of the hash task under ``rule=fixed``.
        hash_weight: Weight of the hash loss under every rule; it makes both tasks' gradients on the shared weights
            about equally long.
        code_quality: Quality step of the codes that ``encode`` makes for an index (the code in a stream is that of the
            stream's quality); None for the middle step.
        similarity: Target of the pairwise loss: label sets ("labels"), features of a self-supervised bundle
            ("teacher"), or the identity of places ("partner", a contrastive loss).
        teacher: URI of a bundle of a method that encodes both sensors, for ``similarity=teacher``.
        partner_temperature: Temperature of the contrast of ``similarity=partner``.
        pair_form: "corrected", "published" or "cosine"; see ``pairwise.soft_pairwise_to``.
        pair_weight: Weight of the pairwise loss.
        classification_weight: Weight of the class loss; label-free modes have none.
        quantisation_weight: Weight of the quantisation term (outputs towards -1 and 1).
        bit_balance_weight: Weight of the balance over the bits of each code.
        sample_balance_weight: Weight of the balance of each bit over patches.
        bank: Rows of the memory bank of the pairwise loss; 0 for none.
    """

    phases: ClassVar[tuple[str, ...]] = ("joint_epochs",)

    joint_epochs: int = 30
    joint_batch_size: int = 64
    joint_learning_rate: float = 1e-4
    rule: Rule = "pcgrad"
    fixed_weight: float = 1.0
    hash_weight: float = 1.0
    code_quality: float | None = None
    similarity: Similarity = "labels"
    teacher: str = ""
    partner_temperature: float = 0.2
    pair_form: Form = "cosine"
    pair_weight: float = 1.0
    classification_weight: float = 1.0
    quantisation_weight: float = 0.1
    bit_balance_weight: float = 0.01
    sample_balance_weight: float = 1.0
    bank: int = 0

    def __post_init__(self) -> None:
        """Checks of the base, and ranges of the second stage's settings."""
        super().__post_init__()
        self._require_positive("joint_epochs", "joint_batch_size", "joint_learning_rate", "fixed_weight", "hash_weight")
        self._require_positive("partner_temperature")
        self._require_not_negative("pair_weight", "classification_weight", "quantisation_weight", "bank")
        self._require_not_negative("bit_balance_weight", "sample_balance_weight")
        if self.rule not in RULES:
            raise UsageError(f"rule must be one of {', '.join(RULES)}; got {self.rule!r}")
        if (self.similarity == "teacher") != bool(self.teacher):
            raise UsageError(
                f"similarity=teacher needs teacher=BUNDLE, only it does; got {self.similarity!r} and {self.teacher!r}"
            )
        if self.similarity == "partner" and len(self.bands) < len(MODALITIES):
            raise UsageError("similarity=partner compares two sensors; name bands of both")
        if not 0 <= self.quality <= self.steps - 1:
            raise UsageError(f"code_quality must lie in 0..{self.steps - 1}; got {self.code_quality}")

    @property
    def quality(self) -> float:
        """Quality step of codes for an index."""
        return (self.steps - 1) // 2 if self.code_quality is None else self.code_quality

    @classmethod
    def tiny(cls) -> Config:
        """Settings that train on 400 pairs in about a minute on two idle CPU cores."""
        return cls(
            epochs=4,
            batch_size=16,
            learning_rate=4e-3,
            warmup_epochs=0.5,
            validation_patches=96,
            channels=16,
            latent=128,
            hyper=16,
            stages=2,
            kernel=3,
            bits=64,
            hash_hidden=128,
            crop=72,
            joint_epochs=8,
            hash_weight=8.0,  # makes both tasks' gradients on the shared weights about equally long
            joint_batch_size=32,
            joint_learning_rate=3e-3,
        )

    @classmethod
    def paper(cls) -> Config:
        """N = 128, M = 192, Adam 1e-4 (*ours*, after CompressAI; the settings of the paper were not read)."""
        return cls(epochs=100, batch_size=16, learning_rate=1e-4)

    def compression(self) -> Compression:
        """Settings of the first stage, which runs with equal ones share."""
        return Compression(**fields_of(self, Compression))

    def joint(self, first: str, tasks: Tasks = "both") -> JointStage:
        """Settings of the second stage on the codec of the bundle with the id ``first``."""
        values = fields_of(self, Config) | {
            "epochs": self.joint_epochs,
            "batch_size": self.joint_batch_size,
            "learning_rate": self.joint_learning_rate,
            "warmup_epochs": min(1.0, self.joint_epochs / 4),
            "first": first,
            "tasks": tasks,
        }
        return JointStage(**values)


Tasks = Literal["both", "hash"]


@dataclass(frozen=True)
class JointStage(Config):
    """Settings of the second stage: ``Config`` with the second schedule as that of the run.

    Attributes:
        first: Id of the first stage's bundle; it is part of the run's identity.
        tasks: "both", or "hash" for the baseline: a network of the same shape that is trained for codes alone.
    """

    batch_setting: ClassVar[str] = "joint_batch_size"

    first: str = ""
    tasks: Tasks = "both"
