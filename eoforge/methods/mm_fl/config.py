"""Settings of MM-FL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from eoforge.data.bands import S1_BANDS, S2_BANDS_10, require_bands
from eoforge.errors import UsageError
from eoforge.federated.strategies.mm_fl import Mim, MultiModal
from eoforge.methods.fl_rs.config import STUDY, TINY, FederatedConfig


@dataclass(frozen=True)
class Config(FederatedConfig):
    """Settings beyond those of every federated run.

    Attributes:
        mf: One classifier for both sensors; without it every sensor is a federation of its own.
        fw: Grouped whitening in place of the first batch norms.
        mim: Mutual information: ``off``, ``relay`` (silos with one sensor) or ``paired`` (silos with both).
        fusion: Of the features of both sensors: ``mean`` or ``concat``.
        mim_weight: lambda.
        temperature: T of the contrast.
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
        """Checks what types cannot say.

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
    def bands(self) -> dict[str, tuple[str, ...]]:
        """By sensor."""
        return {"s1": self.s1_bands, "s2": self.s2_bands}

    def options(self) -> dict[str, Any]:
        """Of the strategy, as :func:`~eoforge.federated.strategies.registry.make_strategy` takes them."""
        return {
            "weighting": self.weighting,
            "mim": self.mim,
            "weight": self.mim_weight,
            "temperature": self.temperature,
            "slots": self.slots,
            "embedding": self.embedding,
            "salt": self.seed,
        }

    def strategy(self) -> MultiModal:
        """The server's side."""
        return MultiModal(**self.options())

    @classmethod
    def tiny(cls) -> Config:
        """See ``TINY``; one sensor per silo, so twice as many silos. The contrast learns faster with Adam.

        Its weight makes its gradient about as large as the task's: with 1 it is 3 to 22 times as large in a short run.
        """
        small = {"slots": 8192, "embedding": 32, "optimizer": "adam", "learning_rate": 2e-3, "mim_weight": 0.05}
        settings: dict[str, Any] = {**TINY, **small}
        return cls(**settings)

    @classmethod
    def paper(cls) -> Config:
        """Seven countries, 14 silos, ResNet-50; rounds and optimiser are the sister study's, the paper's are unread."""
        return cls(**STUDY)
