"""Settings of MM-FL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from eoforge.data.bands import S1_BANDS, S2_BANDS_10, require_bands
from eoforge.errors import UsageError
from eoforge.federated.strategies.mm_fl import Mim
from eoforge.federated.training.config import STUDY, TINY, FederatedConfig


@dataclass(frozen=True)
class Config(FederatedConfig):
    """Settings beyond those of every federated run.

    Attributes:
        mf: One classifier for both sensors; without it every sensor is a federation of its own.
        fw: Grouped whitening in place of the first batch norms.
        mim: Mutual information: ``off``, ``relay`` (silos with one sensor) or ``paired`` (silos with both).
        fusion: Fusion of the features of both sensors: ``mean`` or ``concat``.
        mim_weight: Weight lambda of the contrastive term.
        temperature: Temperature T of the contrastive term.
        embedding: Length of MIM's embeddings.
        slots: Rows of a relay table.
        s1_bands: Radar bands in channel order.
        s2_bands: Optical bands in channel order.
    """

    mf: bool = True
    fw: bool = True
    mim: Mim = "relay"
    fusion: Literal["mean", "concat"] = "mean"
    mim_weight: float = 1.0
    temperature: float = 0.5
    embedding: int = 128
    slots: int = 1 << 18
    s1_bands: tuple[str, ...] = S1_BANDS
    s2_bands: tuple[str, ...] = S2_BANDS_10

    def __post_init__(self) -> None:
        """Range checks.

        Raises:
            UsageError: A value is out of range.
        """
        super().__post_init__()
        require_bands(self.s1_bands, "s1")
        require_bands(self.s2_bands, "s2")
        if not self.mf and self.fusion == "concat":
            raise UsageError("fusion=concat needs the shared classifier (mf=true); without it use mean")
        self.strategy()

    @property
    def sensor_bands(self) -> dict[str, tuple[str, ...]]:
        """See :class:`FederatedConfig`."""
        return {"s1": self.s1_bands, "s2": self.s2_bands}

    @property
    def strategy_name(self) -> str:
        """See :class:`FederatedConfig`."""
        return "mm_fl"

    def options(self) -> dict[str, Any]:
        """See :class:`FederatedConfig`."""
        return {
            "weighting": self.weighting,
            "mim": self.mim,
            "weight": self.mim_weight,
            "temperature": self.temperature,
            "slots": self.slots,
            "embedding": self.embedding,
            "salt": self.seed,
        }

    @classmethod
    def tiny(cls) -> Config:
        """See ``TINY``; one sensor per silo, so twice as many silos. The contrastive term learns faster with Adam.

        With ``mim_weight`` 0.05 its gradient is about as large as the task's; with 1 it is 3 to 22 times as large.
        """
        small = {"slots": 8192, "embedding": 32, "optimizer": "adam", "learning_rate": 2e-3, "mim_weight": 0.05}
        settings: dict[str, Any] = {**TINY, **small}
        return cls(**settings)

    @classmethod
    def paper(cls) -> Config:
        """Seven countries, 14 silos, ResNet-50; rounds and optimiser of the sister study."""
        return cls(**STUDY)
