"""Patches of a silo: batches from a Lance table with an in-memory cache, their loss and their evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from eoforge.data.labels import NUM_CLASSES
from eoforge.data.loading.batch import PatchBatch, read_rows, require
from eoforge.data.loading.prepare import Prepare
from eoforge.data.tables.statistics import band_statistics
from eoforge.federated.training.config import FederatedConfig
from eoforge.federated.training.scenarios import Rows
from eoforge.metrics.multilabel import labels_of_masks, multilabel_figures
from eoforge.nn.classifier import Network
from eoforge.nn.seeds import derive_seed
from eoforge.storage.addresses import TableRef, open_table

Normalisation = Mapping[str, tuple[float, float]]
"""Band -> (mean, standard deviation)."""
NetworkInput = Callable[[dict[str, Tensor]], Any]
"""Input of a network from the images by sensor."""
_ROWS_PER_READ = 256


class Labelled(NamedTuple):
    """Labelled batch: images by sensor ``[B, C, S, S]``, labels ``[B, L]`` in 0 and 1, and their rows in the table."""

    images: dict[str, Tensor]
    labels: Tensor
    rows: Rows


class Images:
    """Prepared images of a patches table, shared by all silos of one process.

    Args:
        table: A patches table at a version.
        prepare: Preparation of stored pixels by sensor.
        memory_patches: Largest number of cached patches; further ones are read again each time.
    """

    def __init__(self, table: TableRef, prepare: Mapping[str, Prepare], memory_patches: int = 0) -> None:
        self._dataset = open_table(table)
        require(self._dataset, None, tuple(prepare), labels=True)
        self.prepare = dict(prepare)
        self._limit = memory_patches
        self._cache: dict[int, tuple[dict[str, Tensor], Tensor]] = {}

    def take(self, rows: Rows, device: torch.device | str = "cpu") -> Labelled:
        """Prepared patches of ``rows``, in that order."""
        missing = np.array([r for r in rows.tolist() if r not in self._cache], dtype=np.int64)
        if not len(missing):
            cached = [self._cache[r] for r in rows.tolist()]
            images = {m: torch.stack([i[m] for i, _ in cached]) for m in self.prepare}
            return self._on(device, Labelled(images, torch.stack([y for _, y in cached]), rows))
        if len(self._cache) + len(missing) <= self._limit:
            for start in range(0, len(missing), _ROWS_PER_READ):
                self._fill_cache(np.sort(missing[start : start + _ROWS_PER_READ]))
            return self.take(rows, device)
        order = np.argsort(rows, kind="stable")
        batch = self._read(rows[order]).to(device)
        back = torch.from_numpy(np.argsort(order)).to(device)
        images = {m: p.to(device)(batch)[back] for m, p in self.prepare.items()}
        return Labelled(images, labels_of_masks(batch.label_mask, NUM_CLASSES)[back], rows)

    def _fill_cache(self, rows: Rows) -> None:
        batch = self._read(rows)
        images = {m: p(batch) for m, p in self.prepare.items()}
        labels = labels_of_masks(batch.label_mask, NUM_CLASSES)
        for i, row in enumerate(rows.tolist()):
            self._cache[row] = ({m: x[i].clone() for m, x in images.items()}, labels[i])

    def _read(self, rows: Rows) -> PatchBatch:
        return read_rows(self._dataset, rows, tuple(self.prepare), reference_map=False)

    @staticmethod
    def _on(device: torch.device | str, batch: Labelled) -> Labelled:
        return Labelled({m: x.to(device) for m, x in batch.images.items()}, batch.labels.to(device), batch.rows)


def order_of(rows: Rows, batch_size: int, *key: int | str) -> Iterator[Rows]:
    """Batches of ``rows``, shuffled by ``key``.

    A last batch of a single patch is left out unless it is the only one, for one patch has no batch statistics.
    """
    rng = np.random.Generator(np.random.Philox(key=derive_seed("order", *key)))
    shuffled = rng.permutation(rows)
    for start in range(0, len(shuffled), batch_size):
        batch = shuffled[start : start + batch_size]
        if len(batch) > 1 or start == 0:
            yield batch


def normalisation_of(table: TableRef, bands: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each band over the table's training split."""
    return band_statistics(table).normalisation(bands)


def images_of(
    table: TableRef, config: FederatedConfig, normalisation: Normalisation, sensors: tuple[str, ...] | None = None
) -> Images:
    """Images of ``table`` as the networks of a run read them.

    Args:
        table: A patches table at a version.
        config: Settings of the run.
        normalisation: Normalisation of the run, equal for all silos.
        sensors: Sensors to read; all of the run if None.
    """
    prepare = {}
    for sensor, bands in config.sensor_bands.items():
        if sensors is None or sensor in sensors:
            prepare[sensor] = Prepare.of(bands, normalisation, config.size, config.interpolation)
    return Images(table, prepare, config.memory_patches)


class TableData:
    """Labelled patches of one silo; see :class:`eoforge.federated.strategies.objective.SiloData`.

    Args:
        images: Images of the table.
        training: Rows of the training patches.
        held_out: Rows of the patches to evaluate on.
        silo: Id of the silo.
        sensors: Sensors of the silo; the first one's images are the network's input.
        batch_size: Patches per step.
        seed: Seed of the order.
        device: Device of the network.
    """

    def __init__(
        self,
        images: Images,
        training: Rows,
        held_out: Rows,
        silo: str,
        sensors: tuple[str, ...],
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self.training, self.held_out = images, training, held_out
        self.silo, self.sensors = silo, sensors
        self.batch_size, self.seed, self.device = batch_size, seed, device

    @property
    def examples(self) -> int:
        """Number of training patches."""
        return len(self.training)

    @property
    def evaluates(self) -> bool:
        """Whether there are held-out patches."""
        return len(self.held_out) > 0

    def batches(self, round_number: int, epoch: int) -> Iterator[Any]:
        """Batches of one pass; the order depends on seed, silo, round and epoch."""
        for rows in order_of(self.training, self.batch_size, self.seed, self.silo, round_number, epoch):
            yield self.take(rows)

    def take(self, rows: Rows) -> Any:
        """One batch, as :meth:`loss` reads it."""
        return self.images.take(rows, self.device)

    def network_input(self, images: dict[str, Tensor]) -> Any:
        """Input of the network from the images by sensor."""
        return images[self.sensors[0]]

    def loss(self, network: Network, batch: Any) -> tuple[Tensor, Any, Any]:
        """Binary cross entropy, mean over patches and labels."""
        images = self.network_input(batch.images)
        representation = network.represent(images)
        loss = functional.binary_cross_entropy_with_logits(network.classify(representation), batch.labels)
        return loss, images, representation

    def evaluate(self, network: Network) -> Mapping[str, float]:
        """F1 and mAP on the held-out rows."""
        return evaluate(network, self.images, self.held_out, self.network_input, self.batch_size, self.device)


def evaluate(
    network: Network,
    images: Images,
    rows: Rows,
    network_input: NetworkInput,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """F1 and mAP of ``network`` on ``rows``, with their number as ``examples``."""
    logits, labels = logits_of(network, images, rows, network_input, batch_size, device)
    return {**multilabel_figures(logits.sigmoid(), labels), "examples": float(len(rows))}


@torch.no_grad()
def logits_of(
    network: Network,
    images: Images,
    rows: Rows,
    network_input: NetworkInput,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Logits float ``[N, L]`` and labels ``[N, L]`` of ``rows``, which are not empty."""
    network.eval()
    logits, labels = [], []
    for start in range(0, len(rows), batch_size):
        batch = images.take(rows[start : start + batch_size], device)
        logits.append(network.classify(network.represent(network_input(batch.images))))
        labels.append(batch.labels)
    return torch.cat(logits).float(), torch.cat(labels)
