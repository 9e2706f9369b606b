"""A silo's patches of one sensor or of both, each with the slot of its cell in relay tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from eoforge.federated.training.data import Images, evaluate, order_of
from eoforge.federated.training.scenarios import Rows
from eoforge.nn.classifier import Network
from eoforge.nn.seeds import derive_seed


class SensorBatch(NamedTuple):
    """Images by sensor ``[B, C, S, S]``, labels ``[B, L]``, and slots ``[B]``."""

    images: dict[str, Tensor]
    labels: Tensor
    slots: Tensor


def slots_of(cells: Sequence[str], salt: int, slots: int) -> Tensor:
    """Slot of each cell ``[N]``: the same at every silo of a run, and another with another salt."""
    return torch.tensor([derive_seed("relay", salt, cell) % slots for cell in cells], dtype=torch.int64)


class SensorData:
    """See :class:`eoforge.federated.training.local.SiloData`.

    Args:
        images: Of the table, both sensors.
        cells: Names of the table's patches.
        training: Rows to train on.
        held_out: Rows to evaluate on.
        silo: Its id.
        sensors: What the silo holds, in the order of ``SENSORS``.
        slots: Slot of every row of the table.
        batch_size: Patches per step.
        seed: Of the order.
        device: Where the network is.
    """

    def __init__(
        self,
        images: Images,
        training: Rows,
        held_out: Rows,
        silo: str,
        sensors: tuple[str, ...],
        slots: Tensor,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self.training, self.held_out, self.silo = images, training, held_out, silo
        self.sensors, self.slots = sensors, slots
        self.batch_size, self.seed, self.device = batch_size, seed, device

    @property
    def examples(self) -> int:
        """Training patches."""
        return len(self.training)

    def batches(self, round_number: int, epoch: int) -> Iterator[SensorBatch]:
        """One pass in an order of its own."""
        for rows in order_of(self.training, self.batch_size, self.seed, self.silo, round_number, epoch):
            yield self._take(rows)

    def in_order(self) -> Iterator[SensorBatch]:
        """All training patches once, in the table's order."""
        for start in range(0, len(self.training), self.batch_size):
            yield self._take(self.training[start : start + self.batch_size])

    def _take(self, rows: Rows) -> SensorBatch:
        batch = self.images.take(rows, self.device)
        chosen = {sensor: batch.images[sensor] for sensor in self.sensors}
        return SensorBatch(chosen, batch.labels, self.slots[torch.from_numpy(rows)].to(self.device))

    def loss(self, network: Network, batch: SensorBatch) -> tuple[Tensor, Any, Any]:
        """Binary cross entropy of each sensor alone, mean over the silo's sensors: the classifier must do without the
        other one."""
        features = network.represent(batch.images)
        each = [
            functional.binary_cross_entropy_with_logits(network.classify({sensor: f}), batch.labels)
            for sensor, f in features.items()
        ]
        return torch.stack(each).mean(), batch, features

    def evaluate(self, network: Network) -> Mapping[str, float]:
        """F1 and mAP on the held-out rows, by the sensors that the silo holds."""
        pick = sensors_of(self.sensors)
        return evaluate(network, self.images, self.held_out, pick, self.batch_size, self.device)


def sensors_of(sensors: Sequence[str]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """For :func:`~eoforge.federated.training.data.evaluate`: the images of ``sensors`` alone."""
    return lambda images: {sensor: images[sensor] for sensor in sensors}
