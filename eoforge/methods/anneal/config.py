"""Settings of ANNEAL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eoforge.data.bands import S1_BANDS, S2_BANDS_10, require_bands
from eoforge.errors import UsageError
from eoforge.hashing.lengths import require_code_bits
from eoforge.methods.learner import TrainConfig
from eoforge.methods.sensors import SensorBands
from eoforge.nn.backbones import require_backbone

Strategy = Literal["anneal", "uncertainty", "diversity", "random", "badge"]


@dataclass(frozen=True)
class Config(SensorBands, TrainConfig):
    """Settings beyond those of every training run (:class:`~eoforge.methods.learner.TrainConfig`).

    ``epochs`` are passes over the annotated pairs after each batch of answers, ``batch_size`` is a number of pairs.

    Attributes:
        modality: Sensor of the patches.
        s1_bands: Radar bands in channel order.
        s2_bands: Optical bands in channel order.
        size: Side of the network's input in pixels.
        interpolation: Resampling of all bands to that size.
        start: Address of a bundle of ``ss_cm_rsir`` whose trained encoder is taken, with its bands, size and
            normalisation; empty for ``backbone`` with random weights. The encoder is frozen in both cases.
        backbone: One of ``eoforge.nn.backbones.BACKBONES``.
        width: First width of the tiny backbones.
        bits: Length K of code and embedding, a multiple of 8 in 16..512.
        hidden: Hidden width of the head that is trained.
        margin: Distance m from which dissimilar pairs cost nothing; unrelated embeddings of length 1 have about 1.4.
        contrastive_weight: Weight of the contrastive loss.
        bce_weight: Weight of the binary classifier of pairs.
        quantisation_weight: Weight of the distance between embeddings and their codes.
        anchor_weight: Weight of the squared change of cosines between random patches since the initial embedding, over
            the number of annotated pairs: it keeps a head from forgetting while pairs are few, and many outweigh it.
        retrain: "warm" continues from the weights of the last batch, "fresh" starts from the initial ones.
        strategy: Choice of pairs: "anneal" (uncertain and diverse), one half of it alone ("uncertainty",
            "diversity"), "badge" (gradient embeddings of pairs), or "random".
        uncertainty: "mgue" by the distance to a threshold in the metric space, "bcgue" by the binary classifier.
        shortlist: Pairs of highest uncertainty that are clustered, per pair of the batch.
        bootstrap: Pairs of the first batch, half of them near and half far in the initial embedding.
        batch: Pairs of every later batch.
        rounds: Number of later batches; the budget is ``bootstrap + rounds * batch`` decisions.
        anchors: Random patches from whose neighbours and strangers the pool is made.
        neighbours: Near partners per anchor in the pool, by the Hamming index.
        strangers: Random partners per anchor in the pool.
        threshold: Label oracle: least Jaccard index of the labels of a similar pair.
        noise: Label oracle: share of answers that are inverted.
    """

    modality: Literal["s1", "s2"] = "s2"
    s1_bands: tuple[str, ...] = S1_BANDS
    s2_bands: tuple[str, ...] = S2_BANDS_10
    size: int = 120
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    start: str = ""
    backbone: str = "resnet50"
    width: int = 32
    bits: int = 128
    hidden: int = 512
    margin: float = 1.4
    contrastive_weight: float = 1.0
    bce_weight: float = 1.0
    quantisation_weight: float = 0.1
    anchor_weight: float = 300.0
    retrain: Literal["warm", "fresh"] = "warm"
    strategy: Strategy = "anneal"
    uncertainty: Literal["mgue", "bcgue"] = "mgue"
    shortlist: int = 3
    bootstrap: int = 100
    batch: int = 100
    rounds: int = 10
    anchors: int = 1000
    neighbours: int = 16
    strangers: int = 16
    threshold: float = 0.5
    noise: float = 0.0

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
        self._require_positive("size", "width", "hidden", "margin", "shortlist", "bootstrap", "batch", "rounds")
        self._require_positive("anchors", "neighbours", "strangers", "threshold")
        self._require_not_negative("contrastive_weight", "bce_weight", "quantisation_weight", "anchor_weight")
        if self.threshold > 1:
            raise UsageError(f"threshold must be at most 1; got {self.threshold}")
        if not 0 <= self.noise < 1:
            raise UsageError(f"noise must be at least 0 and less than 1; got {self.noise}")
        if self.bootstrap < 2:
            raise UsageError(f"bootstrap must be at least 2, a near and a far pair; got {self.bootstrap}")

    @property
    def sensors(self) -> str:
        """The sensor of the patches."""
        return self.modality

    @property
    def budget(self) -> int:
        """Decisions of a whole session."""
        return self.bootstrap + self.rounds * self.batch

    @classmethod
    def tiny(cls) -> Config:
        """Settings that train on 1,000 patches in about a minute on two CPU cores."""
        return cls(
            epochs=20,
            batch_size=64,
            learning_rate=2e-3,
            warmup_epochs=0.0,
            size=60,
            interpolation="bilinear",  # from 120 to 60 this is the mean of 2 x 2 pixels, which reduces speckle
            backbone="tiny",
            bits=128,
            hidden=128,
            bootstrap=40,
            batch=40,
            rounds=5,
            anchors=400,
        )

    @classmethod
    def paper(cls) -> Config:
        """The order of magnitude of such studies (*ours*; the papers were not read): Adam 1e-4, batches of 64 pairs."""
        return cls(epochs=50, batch_size=64, learning_rate=1e-4, warmup_epochs=0.0, bootstrap=500, batch=500, rounds=20)
