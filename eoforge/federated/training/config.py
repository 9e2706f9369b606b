"""Settings that every federated run has: scenario, rounds, local training, input and network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from eoforge.errors import UsageError
from eoforge.federated.strategies.base import Averaging
from eoforge.federated.strategies.registry import make_strategy
from eoforge.federated.training.local import LocalSettings
from eoforge.federated.training.scenarios import SCENARIOS, STUDY_COUNTRIES, STUDY_MONTHS
from eoforge.hashing.lengths import require_code_bits
from eoforge.nn.backbones import BACKBONES


@dataclass(frozen=True)
class FederatedConfig(ABC):
    """Settings of a federated run; a method adds its own by a subclass.

    Attributes:
        scenario: Partition of the patches into silos, for simulations.
        countries: Participating countries; all if empty.
        months: Months of the training patches (DS1, DS2) and of held-out patches; all if empty.
        min_patches: Least training patches of a silo; smaller silos are left out.
        rounds: Communication rounds.
        fraction: Share of silos per round.
        local_epochs: Passes over a silo's patches per round.
        batch_size: Patches per step.
        optimizer: Optimiser of the silos, new in every round.
        learning_rate: Learning rate of the silos in the first round.
        decay: Factor of the learning rate per round.
        momentum: Momentum of SGD.
        weight_decay: L2 penalty of the optimiser.
        clip: Largest gradient norm; none for no limit.
        weighting: Weight of a silo in the mean.
        size: Side of the network's input in pixels.
        interpolation: Resampling of 20 and 60 m bands to that size.
        backbone: One of ``eoforge.nn.backbones.BACKBONES``.
        width: First width of the tiny backbones.
        bits: Code length in bits.
        memory_patches: Largest number of prepared patches that are kept in memory.
        seed: Seed of everything random.
    """

    scenario: str = "ds2"
    countries: tuple[str, ...] = ()
    months: tuple[int, ...] = ()
    min_patches: int = 2
    rounds: int = 30
    fraction: float = 1.0
    local_epochs: int = 3
    batch_size: int = 128
    optimizer: Literal["sgd", "adam"] = "adam"
    learning_rate: float = 1e-3
    decay: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float | None = None
    weighting: Literal["uniform", "examples"] = "examples"
    size: int = 120
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    backbone: str = "resnet50"
    width: int = 32
    bits: int = 128
    memory_patches: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Range checks.

        Raises:
            UsageError: A value is out of range.
        """
        require_known("scenario", self.scenario, SCENARIOS)
        require_known("backbone", self.backbone, BACKBONES)
        for name in ("rounds", "local_epochs", "batch_size", "learning_rate", "decay", "size", "width", "min_patches"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise UsageError(f"{name} must be greater than 0; got {value}")
        if not 0 < self.fraction <= 1 or not 0 <= self.momentum < 1 or self.weight_decay < 0 or self.seed < 0:
            raise UsageError(
                "expected 0 < fraction <= 1, 0 <= momentum < 1, weight_decay >= 0 and seed >= 0; got "
                f"{self.fraction}, {self.momentum}, {self.weight_decay} and {self.seed}"
            )
        if any(not 1 <= month <= 12 for month in self.months):
            raise UsageError(f"months must be in 1..12; got {', '.join(map(str, self.months))}")
        require_code_bits(self.bits)

    @property
    @abstractmethod
    def strategy_name(self) -> str:
        """Name of the run's strategy in ``eoforge.federated.strategies.registry.STRATEGIES``."""

    @property
    @abstractmethod
    def sensor_bands(self) -> dict[str, tuple[str, ...]]:
        """Bands by sensor, in channel order."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Options of the strategy, as :func:`~eoforge.federated.strategies.registry.make_strategy` takes them."""

    def strategy(self) -> Averaging:
        """Strategy of the run.

        Raises:
            UsageError: The strategy has no such option, or a value is out of range.
        """
        return make_strategy(self.strategy_name, self.options())

    @property
    def bands_read(self) -> tuple[str, ...]:
        """Bands of all sensors together."""
        return tuple(band for bands in self.sensor_bands.values() for band in bands)

    def local(self) -> LocalSettings:
        """Settings of a silo's training."""
        shared = {field.name: getattr(self, field.name) for field in fields(LocalSettings) if field.name != "epochs"}
        return LocalSettings(epochs=self.local_epochs, **shared)

    def as_dict(self) -> dict[str, Any]:
        """Settings as plain values, for bundles and digests."""
        return asdict(self)


TINY: dict[str, Any] = {
    "rounds": 10,
    "local_epochs": 2,
    "batch_size": 32,
    "optimizer": "sgd",
    "learning_rate": 0.3,
    "momentum": 0.9,
    "clip": 10.0,
    "size": 30,
    "interpolation": "bilinear",
    "backbone": "tiny_bn",
    "width": 16,
    "bits": 64,
    "memory_patches": 4096,
}
"""Settings of the ``tiny`` presets: ten silos of 1,000 patches in all, a minute or two on two CPU cores."""
STUDY: dict[str, Any] = {"countries": STUDY_COUNTRIES, "months": STUDY_MONTHS, "weighting": "uniform"}
"""Seven countries in summer; with the defaults ResNet-50, Adam 1e-3, batch 128, 30 rounds of 3 epochs."""


def require_known(name: str, value: str, known: tuple[str, ...]) -> None:
    """Check of a setting that is one of several names.

    Raises:
        UsageError: The value is none of them.
    """
    if value not in known:
        raise UsageError(f"{name} must be one of {', '.join(known)}; got {value!r}")
