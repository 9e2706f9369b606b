"""Numbers of patches or pixels per class in the training split."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eoforge.data.labels import IGNORE_INDEX, NUM_CLASSES
from eoforge.data.loading.batch import PatchFilter
from eoforge.data.loading.loader import PatchLoader
from eoforge.metrics.multilabel import labels_of_masks
from eoforge.storage.addresses import TableRef, open_table

_BATCH = 256


class Counts(NamedTuple):
    """Patches or pixels per class ``[L]``, and of all classes together (patches: those of the split)."""

    classes_L: Tensor
    total: int


def class_counts(table: TableRef, task: str) -> Counts:
    """Counts of the training split: of labelled patches for scenes, of labelled pixels for pixel maps."""
    if task == "scene":
        rows = open_table(table).to_table(columns=["label_mask"], filter="split = 'train'")
        masks = torch.from_numpy(rows.column("label_mask").to_numpy().astype("int64"))
        return Counts(labels_of_masks(masks, NUM_CLASSES).sum(dim=0), len(masks))
    counts_L = torch.zeros(NUM_CLASSES, dtype=torch.float64)
    loader = PatchLoader(
        table, batch_size=_BATCH, modalities=("s1",), reference_map=True, filter=PatchFilter(splits=("train",))
    )
    for batch in loader:
        assert batch.reference_map is not None
        known = batch.reference_map[batch.reference_map != IGNORE_INDEX].long()
        counts_L += torch.bincount(known, minlength=NUM_CLASSES)[:NUM_CLASSES]
    return Counts(counts_L, int(counts_L.sum()))
