"""Settings of DML-S2R and its baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eoforge.data.bands import S1_BANDS, S2_BANDS_10, require_bands
from eoforge.data.targets import Policy, Target, with_defaults
from eoforge.errors import UsageError
from eoforge.methods.learner import TrainConfig
from eoforge.methods.sensors import SensorBands

System = Literal["dml_s2r", "supervised", "mean_teacher", "self_training", "coreg", "tnnr", "ucvme", "rankup"]
SYSTEMS: tuple[System, ...] = (
    "dml_s2r", "supervised", "mean_teacher", "self_training", "coreg", "tnnr", "ucvme", "rankup",
)  # fmt: skip


@dataclass(frozen=True)
class Config(SensorBands, TrainConfig):
    """Settings beyond those of every training run (:class:`~eoforge.methods.learner.TrainConfig`).

    Attributes:
        system: DML-S2R, or one of the baselines that train by the same loop.
        target: What is predicted: a share (``forest_share``, ``water_share``, ``share:CLASS``, ...), a numeric column
            of the table, or a column of ``labels_file``.
        labels: Share of the training split that is labelled, chosen by ``seed``; 1 uses every label.
        labels_file: CSV file with the columns ``patch_id`` and ``target``; empty for targets of the table.
        labels_digest: SHA-256 of that file, filled in by the training; if given, the file must have it.
        unknown_ids: Whether ids of the file that are not in the table are refused or left out and counted.
        unit: Unit of the target, for people.
        low: Least valid value of the target; shares have 0.
        high: Greatest valid value; shares have 1.
        out_of_range: Whether labels out of that range are refused or clipped and counted. Predictions are always
            brought into the range.
        folds: Parts of the labelled patches. For each part one more network is trained without its labels; the errors
            of these networks calibrate the intervals and choose the epoch, and the network that is kept learns from
            every label. Training takes ``folds + 1`` times as long, prediction does not. 0 holds out one part instead.
        holdout: Share of the labelled patches that calibrate the intervals and choose the epoch, and train nothing; for
            ``folds=0``.
        level: Share of the truth that an interval should hold.
        sensors: Sensors of the input; "s1s2" stacks the bands of both, Sentinel-1 first.
        s1_bands: Radar bands in channel order.
        s2_bands: Optical bands in channel order.
        size: Side of the input in pixels.
        interpolation: Resampling of all bands to that size.
        flips: Whether to mirror patches at random.
        jitter: Deviation of the noise that is added to an input during training; three times as much in strong views.
        backbone: Image encoder, one of ours or any of timm; plain vectors take a perceptron of two layers in its place.
        width: First width of the tiny backbones.
        hidden: Width of the layers of heads and of the perceptron.
        embedding: Length of the features phi, in which neighbours are searched.
        difference: f^d of two patches: "pair" by a network of both, made antisymmetric, or "single" as the difference
            of two numbers.
        metric: Loss of the second step: "triplet" or "log_ratio".
        margin: Margin of the triplet loss, for features of length 1.
        mining: Distance of two targets of which one is unknown: "difference" is ``|f^d|`` of the two, "pseudo" the
            distance of values that f^d gives from the nearest labelled inputs of the batch.
        mined: Positives, and negatives, per anchor.
        metric_weight: Weight of the loss of the second step.
        pair_weight: Weight of the first step's loss within the second step, over the labelled pairs of its batches; 0
            is the plain alternation.
        pseudo_weight: Weight, within the second step, of f^d's error against values that come from the nearest labelled
            inputs of the batch.
        alternate: Epochs of one step before the other one follows.
        labelled_share: Share of a batch that is labelled, where a batch holds unlabelled patches too.
        neighbours: Labelled patches from which a prediction is made.
        weights: Weights of these: "uniform", or "softmin" of the distance.
        unlabelled_weight: Weight of a baseline's loss on unlabelled patches.
        dropout: Dropout of the networks of UCVME.
        average: Decay of the averaged weights by which DML-S2R and the mean teacher predict; 0 takes the last ones.
        confidence: Probability from which RankUp believes an order.
    """

    system: System = "dml_s2r"
    target: str = "forest_share"
    labels: float = 1.0
    labels_file: str = ""
    labels_digest: str = ""
    unknown_ids: Literal["refuse", "skip"] = "refuse"
    unit: str = ""
    low: float | None = None
    high: float | None = None
    out_of_range: Policy = "refuse"
    folds: int = 5
    holdout: float = 0.2
    level: float = 0.9
    sensors: Literal["s1", "s2", "s1s2"] = "s2"
    s1_bands: tuple[str, ...] = S1_BANDS
    s2_bands: tuple[str, ...] = S2_BANDS_10
    size: int = 120
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    flips: bool = True
    jitter: float = 0.05
    backbone: str = "resnet50"
    width: int = 32
    hidden: int = 64
    embedding: int = 64
    difference: Literal["pair", "single"] = "single"
    metric: Literal["triplet", "log_ratio"] = "triplet"
    margin: float = 0.2
    mining: Literal["difference", "pseudo"] = "difference"
    mined: int = 4
    metric_weight: float = 3.0
    pair_weight: float = 1.0
    pseudo_weight: float = 0.3
    alternate: int = 1
    labelled_share: float = 0.5
    neighbours: int = 10
    weights: Literal["uniform", "softmin"] = "uniform"
    unlabelled_weight: float = 1.0
    dropout: float = 0.05
    average: float = 0.99
    confidence: float = 0.95

    def __post_init__(self) -> None:
        """Checks of ranges.

        Raises:
            UsageError: A value is out of range.
        """
        super().__post_init__()
        require_bands(self.s1_bands, "s1")
        require_bands(self.s2_bands, "s2")
        self._require_positive("size", "width", "hidden", "embedding", "mined", "alternate", "neighbours", "margin")
        self._require_not_negative("jitter", "metric_weight", "pair_weight", "pseudo_weight", "unlabelled_weight")
        for name in ("holdout", "level", "labelled_share"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{name} must be greater than 0 and less than 1; got {getattr(self, name)}")
        for name in ("dropout", "average", "confidence"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 0 and less than 1; got {getattr(self, name)}")
        if self.folds < 0 or self.folds == 1:
            raise UsageError(f"folds must be at least 2, or 0 for a held-out part; got {self.folds}")
        if not 0 < self.labels <= 1:
            raise UsageError(f"labels is a share of the training split, above 0 and at most 1; got {self.labels}")
        if not self.target:
            raise UsageError("target must name what is predicted, such as forest_share")
        self.described_target()  # refuses a wrong range

    def described_target(self) -> Target:
        """Name, unit, range and policy of the target."""
        target = Target(self.target, self.unit, self.low, self.high, self.out_of_range)
        return target if self.labels_file else with_defaults(target)

    def step(self, epoch: int) -> int:
        """Step of the alternation in an epoch: 1 learns f^d from labelled pairs, 2 the metric from all patches."""
        return 1 + (epoch // self.alternate) % 2

    def labelled_part(self, epoch: int) -> float:
        """Share of a batch that is drawn from the labelled patches in an epoch."""
        if self.system in ("supervised", "coreg") or (self.system == "dml_s2r" and self.step(epoch) == 1):
            return 1.0
        return self.labelled_share

    @classmethod
    def tiny(cls) -> Config:
        """Settings that train on 1,000 patches in about a minute on two CPU cores."""
        return cls(
            epochs=21,  # an odd number, so that the last step is the one of f^d
            batch_size=64,
            learning_rate=2e-3,
            weight_decay=1e-4,
            size=30,
            backbone="tiny",
            width=16,
            average=0.98,
        )

    @classmethod
    def paper(cls) -> Config:
        """A full-size configuration; the paper's own settings were not readable (*ours*)."""
        return cls(epochs=101, batch_size=128, learning_rate=1e-3, weight_decay=1e-4)
