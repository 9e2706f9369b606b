"""Settings of FL-RS."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from eoforge.data.bands import S1_BANDS, S2_BANDS_10, require_bands
from eoforge.errors import UsageError
from eoforge.federated.strategies.registry import ALGORITHMS, make_strategy, options_of
from eoforge.federated.training.local import LocalSettings
from eoforge.federated.training.scenarios import SCENARIOS, STUDY_COUNTRIES, STUDY_MONTHS
from eoforge.hashing.lengths import require_code_bits
from eoforge.nn.backbones import BACKBONES


@dataclass(frozen=True)
class FederatedConfig:
    """What every federated run has.

    Attributes:
        scenario: How patches fall on silos when one process plays all of them.
        countries: Which take part; all if empty.
        months: Of training (DS1, DS2) and of everything held out; all if empty.
        min_patches: Smaller silos are left out.
        rounds: Communication rounds.
        fraction: Share of silos per round.
        local_epochs: Passes over a silo's patches per round.
        batch_size: Patches per step.
        optimizer: Of the silos, fresh in every round.
        learning_rate: Of the silos.
        decay: The learning rate shrinks by this factor per round.
        momentum: Of SGD.
        weight_decay: L2.
        clip: Largest gradient norm; none for no limit.
        weighting: How silos count in the mean.
        size: Side of the network's input in pixels.
        interpolation: How 20 and 60 m bands come to that size.
        backbone: One of ``eoforge.nn.backbones.BACKBONES``.
        width: First width of the tiny ones.
        bits: Code length.
        memory_patches: Prepared patches kept in memory.
        seed: Of everything random.
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
        """Checks what types cannot say.

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

    def local(self) -> LocalSettings:
        """How silos train."""
        return LocalSettings(
            epochs=self.local_epochs,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            decay=self.decay,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            clip=self.clip,
            seed=self.seed,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for bundles and digests."""
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
    """Checks a setting that is one of several names.

    Raises:
        UsageError: It is none of them.
    """
    if value not in known:
        raise UsageError(f"{name} must be one of {', '.join(known)}; got {value!r}")


@dataclass(frozen=True)
class Config(FederatedConfig):
    """Settings beyond those of every federated run. None means the algorithm's own default.

    Attributes:
        algorithm: One of the nine.
        mu: FedProx's or MOON's weight.
        temperature: MOON's.
        alpha: FedDC's or FedDyn's.
        server_step: SCAFFOLD's eta_g.
        rate: Of pFedLA's hypernetworks.
        unseen: FedBN: where the global model's normalisation comes from.
        bands: All of one sensor, in channel order.
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
        """Checks what types cannot say.

        Raises:
            UsageError: A value is out of range.
        """
        super().__post_init__()
        require_known("algorithm", self.algorithm, ALGORITHMS)
        require_bands(self.bands, self.modality)
        make_strategy(self.algorithm, self.options())

    @property
    def modality(self) -> str:
        """The sensor of the bands."""
        return "s1" if set(self.bands) & set(S1_BANDS) else "s2"

    def options(self) -> dict[str, Any]:
        """Of the algorithm, as :func:`~eoforge.federated.strategies.registry.make_strategy` takes them.

        Raises:
            UsageError: An option is set that the algorithm does not have.
        """
        given = {
            name: value
            for name in ("mu", "temperature", "alpha", "server_step", "rate", "unseen")
            if (value := getattr(self, name)) is not None
        }
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
