"""Settings that GRID and RS-IRL-SVAE share: those of the reBEN baselines, of the objectives, and of the codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eoforge.data.labels import NUM_CLASSES
from eoforge.errors import UsageError
from eoforge.hashing.lengths import require_code_bits
from eoforge.methods.noise_robust.relations import count_of
from eoforge.methods.noise_robust.settings import NoiseSettings
from eoforge.methods.reben.config import Config as RebenConfig


@dataclass(frozen=True)
class RobustConfig(RebenConfig, NoiseSettings):
    """Settings beyond those of :class:`~eoforge.methods.reben.config.Config` and :class:`NoiseSettings`.

    Attributes:
        task: As there, or "relations": features that know which classes lie beside which, for retrieval alone.
        sensors: As there; a bundle of one sensor also encodes, one of both classifies alone.
        bits: Code length K, a multiple of 8 in 16..512.
        non_negative: Whether the features are outputs of a ReLU, as DenseNet's: the feature decoder ends with one then.
    """

    task: Literal["scene", "pixels", "relations"] = "scene"  # type: ignore[assignment]  # one more than the baselines
    sensors: Literal["s1", "s2", "s1s2"] = "s2"
    dropout: float = 0.0
    drop_path: float = 0.0
    bits: int = 128
    non_negative: bool = False

    def __post_init__(self) -> None:
        """Checks of ranges.

        Raises:
            UsageError: A value is out of range, or a setting of the plain loss has no place beside these objectives.
        """
        RebenConfig.__post_init__(self)
        NoiseSettings.__post_init__(self)
        require_code_bits(self.bits)
        if self.task == "relations" and self.sensors == "s1s2":
            raise UsageError("task=relations trains an encoder, and an encoder has one sensor; got sensors=s1s2")
        if self.loss != "bce" or self.positive_weight:
            raise UsageError(
                "the objective compares losses of samples, and so takes loss=bce and positive_weight=0; "
                f"got {self.loss} and {self.positive_weight:g}"
            )

    @property
    def outputs(self) -> int:
        """As there; the numbers of an adjacency for relations."""
        return count_of(NUM_CLASSES) if self.task == "relations" else NUM_CLASSES

    @classmethod
    def paper(cls) -> RobustConfig:
        """DenseNet-121 from random weights, Adam 1e-3, batch 128, 100 epochs, d = 128, lambda = 0.2 (*confirmed*).

        The released code has no schedule; ours falls by a cosine, as every training here.
        """
        return cls(
            epochs=100,
            batch_size=128,
            learning_rate=1e-3,
            warmup_epochs=0.0,
            weight_decay=0.0,
            backbone="densenet121",
            non_negative=True,
        )
