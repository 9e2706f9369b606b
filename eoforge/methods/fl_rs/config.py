"""Settings of FL-RS."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from eoforge.data.bands import S1_BANDS, S2_BANDS_10, require_bands
from eoforge.federated.strategies.registry import STRATEGIES, options_of
from eoforge.federated.training.config import STUDY, TINY, FederatedConfig, require_known

ALGORITHMS: tuple[str, ...] = tuple(name for name in STRATEGIES if name != "mm_fl")
"""Strategies for silos with one sensor: all but MM-FL's."""


@dataclass(frozen=True)
class Config(FederatedConfig):
    """Settings beyond those of every federated run. None means the strategy's own default.

    Attributes:
        algorithm: One of ``ALGORITHMS``.
        mu: Weight of FedProx's or MOON's extra term.
        temperature: Temperature of MOON.
        alpha: Weight of FedDC's or FedDyn's extra term.
        server_step: Server step eta_g of SCAFFOLD.
        rate: Learning rate of pFedLA's hypernetworks.
        unseen: Source of the global model's batch normalisation under FedBN.
        bands: Bands of one sensor, in channel order.
    """

    algorithm: str = "fedavg"
    mu: float | None = None
    temperature: float | None = None
    alpha: float | None = None
    server_step: float | None = None
    rate: float | None = None
    unseen: Literal["average", "none"] | None = None
    bands: tuple[str, ...] = S2_BANDS_10

    def __post_init__(self) -> None:
        """Range checks.

        Raises:
            UsageError: A value is out of range.
        """
        super().__post_init__()
        require_known("algorithm", self.algorithm, ALGORITHMS)
        require_bands(self.bands, self.modality)
        self.strategy()

    @property
    def modality(self) -> str:
        """Sensor of the bands."""
        return "s1" if set(self.bands) & set(S1_BANDS) else "s2"

    @property
    def sensor_bands(self) -> dict[str, tuple[str, ...]]:
        """See :class:`FederatedConfig`."""
        return {self.modality: self.bands}

    @property
    def strategy_name(self) -> str:
        """See :class:`FederatedConfig`."""
        return self.algorithm

    def options(self) -> dict[str, Any]:
        """See :class:`FederatedConfig`: every setting of this class that is not None."""
        own = {f.name for f in fields(self)} - {f.name for f in fields(FederatedConfig)} - {"algorithm", "bands"}
        given = {name: getattr(self, name) for name in sorted(own) if getattr(self, name) is not None}
        seeded = {"seed": self.seed} if "seed" in options_of(self.algorithm) else {}
        return {"weighting": self.weighting, **seeded, **given}

    @classmethod
    def tiny(cls) -> Config:
        """See ``TINY``."""
        return cls(**TINY)

    @classmethod
    def paper(cls) -> Config:
        """The sister study's setting, see ``STUDY``; SCAFFOLD and FedDC need ``optimizer=sgd``."""
        return cls(**STUDY)
