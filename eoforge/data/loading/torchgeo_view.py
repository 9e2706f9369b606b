"""Dataset with the keys and types of ``BigEarthNetV2`` of torchgeo, backed by a Lance table.

Differences correct errors of torchgeo: backscatter is float (torchgeo truncates dB to integers), VV comes before VH
(torchgeo sorts file names), pixels of unlabelled CLC codes are 255 instead of raw codes, and an unknown split is an
error instead of an empty dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from eoforge.data.bands import MODALITIES
from eoforge.data.labels import multi_hot
from eoforge.data.loading.batch import PatchFilter, read_rows, require, select_rows
from eoforge.data.loading.prepare import Prepare
from eoforge.data.loading.reopened import ReopenedTable
from eoforge.data.split import SPLITS
from eoforge.errors import UsageError
from eoforge.storage.addresses import TableRef

_BANDS: dict[str, tuple[str, ...]] = {"s1": ("s1",), "s2": ("s2",), "all": ("s1", "s2")}
_SPLIT_ALIASES = {"val": "validation"}

Sample = dict[str, torch.Tensor]


class TorchgeoView(Dataset[Sample]):
    """Map-style dataset of one split; see :func:`as_torchgeo`. Workers of a DataLoader may not be forked."""

    def __init__(
        self,
        table: TableRef | str,
        split: str,
        bands: str,
        transforms: Callable[[Sample], Sample] | None,
        interpolation: str,
    ) -> None:
        self._table = ReopenedTable(table)
        self.split = split
        self.modalities = _BANDS[bands]
        self.transforms = transforms
        chosen = PatchFilter(splits=(split,))
        require(self._table.here, chosen.sql(), self.modalities, labels=True)
        self._rows = select_rows(self._table.here, chosen)
        self._prepare = {
            m: Prepare(b, np.zeros(len(b)), np.ones(len(b)), 120, interpolation) for m, b in MODALITIES.items()
        }

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Sample by index; negative indices count from the end, as in a list."""
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Samples in the order of ``indices``, read in one sorted request (the DataLoader's batched hook)."""
        rows, place = np.unique(self._rows[np.asarray(indices, dtype=np.int64)], return_inverse=True)
        batch = read_rows(self._table.here, rows, self.modalities, reference_map=True)
        images = {m: self._prepare[m](batch) for m in self.modalities}
        labels = torch.from_numpy(multi_hot(batch.label_mask.numpy().astype(np.uint32))).long()
        assert batch.reference_map is not None  # requested above
        masks = batch.reference_map.long()[:, None]
        return [self._sample(images, masks, labels, int(i)) for i in place]

    def _sample(self, images: Sample, masks: torch.Tensor, labels: torch.Tensor, i: int) -> Sample:
        keys = {m: "image" if len(images) == 1 else f"image_{m}" for m in images}
        sample = {keys[m]: image[i].clone() for m, image in images.items()}
        sample |= {"mask": masks[i].clone(), "label": labels[i].clone()}
        return sample if self.transforms is None else self.transforms(sample)


def as_torchgeo(
    table: TableRef | str,
    split: str = "train",
    bands: str = "all",
    transforms: Callable[[Sample], Sample] | None = None,
    *,
    interpolation: str = "bilinear",
) -> TorchgeoView:
    """Dataset of one split in the form of torchgeo.

    Args:
        table: A patches table, optionally at a version.
        split: ``train``, ``val`` (or ``validation``) or ``test``.
        bands: ``s1``, ``s2`` or ``all``.
        transforms: Function applied to each sample.
        interpolation: ``bilinear`` (as torchgeo) or ``nearest`` (as ConfigILM) for the 20 m and 60 m bands.

    Returns:
        Samples with ``image`` float32 ``[2 or 12, 120, 120]`` (for ``all``: ``image_s1`` and ``image_s2``), raw values
        with bands in spectral order and VV before VH; ``mask`` int64 ``[1, 120, 120]`` with classes 0..18 and 255 for
        no class; ``label`` int64 ``[19]`` in torchgeo's (the original) class order.

    Raises:
        UsageError: The split or the bands are unknown.
        NotFound: The table does not exist.
    """
    split = _SPLIT_ALIASES.get(split, split)
    if split not in SPLITS or bands not in _BANDS:
        raise UsageError(
            f"expected a split out of {', '.join(SPLITS)} (or val) and bands out of {', '.join(_BANDS)}; "
            f"got {split!r}, {bands!r}"
        )
    return TorchgeoView(table, split, bands, transforms, interpolation)
