"""A silo's patches as batches: from a Lance table, or from memory where a table is small and read over and over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from eoforge.data.labels import NUM_CLASSES
from eoforge.data.loading.batch import PatchBatch, read_rows
from eoforge.data.loading.prepare import Prepare
from eoforge.federated.training.scenarios import Rows
from eoforge.metrics.multilabel import multilabel_figures
from eoforge.nn.classifier import Network
from eoforge.nn.seeds import derive_seed
from eoforge.storage.addresses import TableRef, open_table

_READ = 256


class Labelled(NamedTuple):
    """Images by sensor ``[B, C, S, S]``, labels ``[B, L]`` in 0 and 1, and the rows they come from."""

    images: dict[str, Tensor]
    labels: Tensor
    rows: Rows


class Images:
    """Network inputs of a table's rows, for all silos of one process.

    Args:
        table: A patches table at a version.
        prepare: The way from stored pixels to the network's input, per sensor.
        memory_patches: At most this many prepared patches are kept; further ones are read again each time.
    """

    def __init__(self, table: TableRef, prepare: Mapping[str, Prepare], memory_patches: int = 0) -> None:
        self._dataset = open_table(table)
        self.prepare = dict(prepare)
        self._limit = memory_patches
        self._kept: dict[int, tuple[dict[str, Tensor], Tensor]] = {}

    def take(self, rows: Rows, device: torch.device | str = "cpu") -> Labelled:
        """The patches of ``rows``, in their order."""
        missing = np.array([r for r in rows.tolist() if r not in self._kept], dtype=np.int64)
        if not len(missing):
            kept = [self._kept[r] for r in rows.tolist()]
            images = {m: torch.stack([i[m] for i, _ in kept]) for m in self.prepare}
            return self._on(device, Labelled(images, torch.stack([y for _, y in kept]), rows))
        if len(self._kept) + len(missing) <= self._limit:
            for start in range(0, len(missing), _READ):
                self._keep(np.sort(missing[start : start + _READ]))
            return self.take(rows, device)
        order = np.argsort(rows, kind="stable")
        batch = self._read(rows[order]).to(device)
        back = torch.from_numpy(np.argsort(order)).to(device)
        images = {m: p.to(device)(batch)[back] for m, p in self.prepare.items()}
        return Labelled(images, labels_of(batch)[back], rows)

    def _keep(self, rows: Rows) -> None:
        batch = self._read(rows)
        images = {m: p(batch) for m, p in self.prepare.items()}
        labels = labels_of(batch)
        for i, row in enumerate(rows.tolist()):
            self._kept[row] = ({m: x[i].clone() for m, x in images.items()}, labels[i])

    def _read(self, rows: Rows) -> PatchBatch:
        return read_rows(self._dataset, rows, tuple(self.prepare), reference_map=False)

    @staticmethod
    def _on(device: torch.device | str, batch: Labelled) -> Labelled:
        return Labelled({m: x.to(device) for m, x in batch.images.items()}, batch.labels.to(device), batch.rows)


def labels_of(batch: PatchBatch) -> Tensor:
    """float32 ``[B, 19]``, 1 where the label is present."""
    bits = torch.arange(NUM_CLASSES, device=batch.label_mask.device)
    return (batch.label_mask[:, None] >> bits & 1).float()


def order_of(rows: Rows, batch_size: int, *key: int | str) -> Iterator[Rows]:
    """``rows`` shuffled by ``key``, cut into batches.

    A last batch of a single patch is left out unless it is the only one: batch statistics of one patch are none.
    """
    rng = np.random.Generator(np.random.Philox(key=derive_seed("order", *key)))
    shuffled = rng.permutation(rows)
    for start in range(0, len(shuffled), batch_size):
        batch = shuffled[start : start + batch_size]
        if len(batch) > 1 or start == 0:
            yield batch


class TableData:
    """One silo's labelled patches of one sensor; see :class:`eoforge.federated.training.local.SiloData`.

    Args:
        images: Of the table.
        training: Rows to train on.
        held_out: Rows to evaluate on.
        silo: Its id.
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
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self.training, self.held_out = images, training, held_out
        self.silo, self.batch_size, self.seed, self.device = silo, batch_size, seed, device
        self.modality = next(iter(images.prepare))

    @property
    def examples(self) -> int:
        """Training patches."""
        return len(self.training)

    def batches(self, round_number: int, epoch: int) -> Iterator[Labelled]:
        """One pass in an order of its own."""
        for rows in order_of(self.training, self.batch_size, self.seed, self.silo, round_number, epoch):
            yield self.images.take(rows, self.device)

    def loss(self, network: Network, batch: Labelled) -> tuple[Tensor, Tensor, Tensor]:
        """Binary cross entropy, mean over patches and labels."""
        images = batch.images[self.modality]
        representation = network.represent(images)
        loss = functional.binary_cross_entropy_with_logits(network.classify(representation), batch.labels)
        return loss, images, representation

    def evaluate(self, network: Network) -> Mapping[str, float]:
        """F1 and mAP on the held-out rows."""
        pick = itemgetter(self.modality)
        return evaluate(network, self.images, self.held_out, pick, self.batch_size, self.device)


@torch.no_grad()
def evaluate(
    network: Network,
    images: Images,
    rows: Rows,
    pick: Callable[[dict[str, Tensor]], Any],
    batch_size: int,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """F1 and mAP of ``network`` on ``rows``, with their number as ``examples``; ``pick`` makes its input of the images
    by sensor."""
    network.eval()
    logits, labels = [], []
    for start in range(0, len(rows), batch_size):
        batch = images.take(rows[start : start + batch_size], device)
        logits.append(network.classify(network.represent(pick(batch.images))))
        labels.append(batch.labels)
    return {**multilabel_figures(torch.cat(logits).float().sigmoid(), torch.cat(labels)), "examples": float(len(rows))}
