"""Patches of a silo with one sensor or both, and the slots of their cells in relay tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from eoforge.federated.training.data import NetworkInput, TableData
from eoforge.federated.training.scenarios import Rows
from eoforge.nn.classifier import Network
from eoforge.nn.seeds import derive_seed


class SensorBatch(NamedTuple):
    """Labelled batch: images by sensor ``[B, C, S, S]``, labels ``[B, L]``, and relay slots ``[B]``."""

    images: dict[str, Tensor]
    labels: Tensor
    slots: Tensor


def slots_of(cells: Sequence[str], salt: int, slots: int) -> Tensor:
    """Relay slot of each cell ``[N]``: the same at every silo of a run, and another with another salt."""
    return torch.tensor([derive_seed("relay", salt, cell) % slots for cell in cells], dtype=torch.int64)


def images_of_sensors(sensors: Sequence[str]) -> NetworkInput:
    """Network input of the images of ``sensors`` alone."""
    return lambda images: {sensor: images[sensor] for sensor in sensors}


class SensorData(TableData):
    """Labelled patches of one silo; see :class:`eoforge.federated.strategies.mm_fl.SensorSiloData`.

    Args:
        arguments: Positional arguments of :class:`TableData`; ``sensors`` in the order of ``SENSORS``.
        slots: Relay slot of every row of the table.
        settings: Keyword arguments of :class:`TableData`.
    """

    def __init__(self, *arguments: Any, slots: Tensor, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.slots = slots

    def in_order(self) -> Iterator[SensorBatch]:
        """All training patches once, in the table's order."""
        for start in range(0, len(self.training), self.batch_size):
            yield self.take(self.training[start : start + self.batch_size])

    def take(self, rows: Rows) -> SensorBatch:
        """See :class:`TableData`."""
        batch = self.images.take(rows, self.device)
        slots = self.slots[torch.from_numpy(rows)].to(self.device)
        return SensorBatch(self.network_input(batch.images), batch.labels, slots)

    def network_input(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`TableData`: the images of the silo's sensors."""
        return {sensor: images[sensor] for sensor in self.sensors}

    def loss(self, network: Network, batch: SensorBatch) -> tuple[Tensor, Any, Any]:
        """Binary cross entropy with each sensor alone, mean over the silo's sensors: inference may have one only."""
        features = network.represent(batch.images)
        losses = [
            functional.binary_cross_entropy_with_logits(network.classify({sensor: f}), batch.labels)
            for sensor, f in features.items()
        ]
        return torch.stack(losses).mean(), batch, features
