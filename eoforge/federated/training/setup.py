"""Method-specific parts of federated training, and the trainer of one silo.

FL-RS and MM-FL share everything in this folder; what differs between them is a :class:`TrainingSetup`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from eoforge.errors import NotFound, UsageError
from eoforge.federated.training.config import FederatedConfig
from eoforge.federated.training.data import NetworkInput, Normalisation, TableData, images_of
from eoforge.federated.training.local import SiloTrainer
from eoforge.federated.training.scenarios import PatchMetadata
from eoforge.nn.build import choose_device
from eoforge.storage.addresses import TableRef


class TrainingSetup(ABC):
    """Network, silo data and evaluation of a federated method. ``config`` is always of the method's own type."""

    @abstractmethod
    def build(self, config: Any) -> Any:
        """Network (:class:`eoforge.nn.classifier.Network`) with the initial weights of the run."""

    @abstractmethod
    def data(self, config: Any, cells: Sequence[str]) -> Callable[..., TableData]:
        """Constructor of a silo's data, with the arguments of :class:`TableData`.

        Args:
            config: Settings of the run.
            cells: Cell of every patch of the silo's table.
        """

    @abstractmethod
    def silo_sensors(self, config: Any) -> dict[str, tuple[str, ...]]:
        """Simulated silos of one share of patches: suffix of the silo's id -> its sensors."""

    @abstractmethod
    def views(self, config: Any) -> dict[str, NetworkInput]:
        """Evaluations of the global model: prefix of the figures' names -> input of the network; all sensors last."""


def silo_trainer(
    setup: TrainingSetup,
    config: FederatedConfig,
    table: TableRef,
    silo: str,
    sensors: Sequence[str],
    normalisation: Normalisation,
    device: str | None = None,
) -> SiloTrainer:
    """Trainer of one silo in the service: trains on its training split, evaluates on its validation split.

    Args:
        setup: Method of the run.
        config: Settings of the run; countries and months apply, the scenario does not: a silo is what its table holds.
        table: Table of the silo.
        silo: Id of the silo.
        sensors: Sensors that the silo takes part with.
        normalisation: Normalisation of the run, equal for all silos.
        device: Device to train on; CUDA where there is one if None.

    Raises:
        NotFound: The table holds fewer training patches than the run wants of a silo.
        UsageError: The silo takes part with no sensor of the run.
    """
    held = tuple(sensor for sensor in config.sensor_bands if sensor in sensors)
    if not held:
        raise UsageError(
            f"the run reads {' or '.join(config.sensor_bands)}; this silo takes part with "
            f"{', '.join(sensors) or 'no sensor'}"
        )
    pinned = table.pinned()
    metadata = PatchMetadata.read(pinned)
    training, validation = (
        metadata.rows_of(split, config.countries, config.months) for split in ("train", "validation")
    )
    if len(training) < config.min_patches:
        raise NotFound(f"{table} holds {len(training)} training patches for this run; expected {config.min_patches}")
    images, where = images_of(pinned, config, normalisation, held), choose_device(device)
    data = setup.data(config, metadata.cell.tolist())(
        images, training, validation, silo, held, batch_size=config.batch_size, seed=config.seed, device=where
    )
    return SiloTrainer(config.strategy(), lambda: setup.build(config), data, config.local(), where)
