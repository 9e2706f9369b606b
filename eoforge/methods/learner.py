"""Interface of a method to the trainer, and the settings of every training run.

It does not import Lightning: services load trained models without it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from eoforge.errors import UsageError
from eoforge.methods.schedule import Schedule

if TYPE_CHECKING:
    from eoforge.data.loading.loader import PatchBatch  # imports Lance, which a config does not need


@dataclass(frozen=True)
class TrainConfig:
    """Settings of every training run.

    Attributes:
        seed: Seed of all random numbers.
        epochs: Passes over the training split.
        batch_size: Patches per batch over all ranks together.
        accumulate: Batches per optimiser step. Negatives and neighbours come from one batch, not from all of them.
        learning_rate: Peak of the schedule; see :func:`~eoforge.methods.schedule.relative_rate`.
        warmup_epochs: Length of the linear warm-up from 0.
        schedule: After the warm-up, "cosine" to zero or "constant".
        weight_decay: Decoupled, as in AdamW; with 0 this is Adam.
        beta2: Decay of the optimiser's squared gradients.
        patience: Stop after this many epochs without a better validation score; None never stops early.
        validation_patches: Limit of the patches of the validation split that are scored after each epoch.
        checkpoint_steps: Optimiser steps between checkpoints; every epoch ends with one too.
        workers: Loader processes per rank; 0 reads in the training process.
        phases: Names of the settings that count epochs of later stages. A caller who chooses ``epochs`` alone bounds
            these too; see :func:`eoforge.config.build_config`.
        batch_setting: Name under which a user sets ``batch_size``; that of a later stage has another one.
    """

    phases: ClassVar[tuple[str, ...]] = ()
    batch_setting: ClassVar[str] = "batch_size"

    seed: int = 0
    epochs: int = 100
    batch_size: int = 256
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup_epochs: float = 1.0
    schedule: Schedule = "cosine"
    weight_decay: float = 0.0
    beta2: float = 0.999
    patience: int | None = None
    validation_patches: int = 1024
    checkpoint_steps: int = 200
    workers: int = 0

    def __post_init__(self) -> None:
        """Checks of ranges.

        Raises:
            UsageError: A value is out of range.
        """
        self._require_positive(
            "epochs", "batch_size", "accumulate", "learning_rate", "validation_patches", "checkpoint_steps"
        )
        self._require_not_negative("seed", "warmup_epochs", "weight_decay", "workers")
        if not 0 <= self.beta2 < 1:
            raise UsageError(f"beta2 must be at least 0 and less than 1; got {self.beta2}")
        if self.patience is not None and self.patience < 1:
            raise UsageError(f"patience must be at least 1, or none; got {self.patience}")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name} must be greater than 0; got {getattr(self, name)}")

    def _require_not_negative(self, *names: str) -> None:
        for name in names:
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name} must not be negative; got {getattr(self, name)}")


def fields_of(config: Any, kind: type[Any]) -> dict[str, Any]:
    """Settings of ``config`` that ``kind``, one of its base classes, has too."""
    return {field.name: getattr(config, field.name) for field in fields(kind)}


class Learner(nn.Module, ABC):
    """A method's network, loss and validation score."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters for the optimiser; the optional ``scale`` multiplies the learning rate of its group."""
        return [{"params": list(self.parameters())}]

    @abstractmethod
    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        """Loss terms by name: ``loss`` is minimised, all are logged. Equal on all ranks if features are gathered."""

    @abstractmethod
    def score(self, batches: Iterator[PatchBatch]) -> dict[str, float]:
        """Validation figures by name; the epoch of highest ``score`` is kept. Called without gradients."""
