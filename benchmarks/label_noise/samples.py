"""The two data sets of the benchmark, whole in memory: the synthetic archive, and EuroSAT's RGB tiles by folder.

Shape legend: N samples, C bands, S pixels, L classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from eoforge.data.labels import CLASSES
from eoforge.data.split import SPLITS
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.losses.robust import Target
from eoforge.nn.seeds import derive_seed

SIDE = 30
"""Side of the images in pixels: what the tiny backbone averages its input to anyway."""
ARCHIVE_SEED = 11
_OPTICAL = ("s2_10m", "s2_20m")


@dataclass(frozen=True)
class Samples:
    """Samples of one data set.

    Attributes:
        target: ``multi`` or ``single``.
        images: float32 ``[N, C, S, S]``, normalised by the training split.
        labels: bool ``[N, L]``; of a single label one is true.
        split: Number of the split in ``eoforge.data.split.SPLITS``, ``[N]``.
        places: Country (or, without one, the class) of each sample, ``[N]``.
    """

    target: Target
    images: Tensor
    labels: np.ndarray
    split: np.ndarray
    places: np.ndarray

    def rows(self, name: str) -> np.ndarray:
        """Numbers of the samples of a split."""
        return np.flatnonzero(self.split == SPLITS.index(name))

    def targets(self, labels: np.ndarray) -> Tensor:
        """Labels as the losses take them: ``[N, L]`` in 0 and 1, or class indices ``[N]``."""
        return torch.from_numpy(labels.argmax(axis=1) if self.target == "single" else labels.astype(np.float32))


def synthetic(patches: int) -> Samples:
    """Sentinel-2 bands of 10 and 20 m of the synthetic archive; official split."""
    images, labels, split, places = [], [], [], []
    for pair in synthetic_pairs(patches, ARCHIVE_SEED):
        bands = [torch.from_numpy(getattr(pair, name).astype(np.float32))[None] for name in _OPTICAL]
        images.append(torch.cat([functional.adaptive_avg_pool2d(b, SIDE) for b in bands], dim=1)[0])
        labels.append([name in pair.meta.labels for name in CLASSES])
        split.append(SPLITS.index(pair.meta.split))
        places.append(pair.meta.country)
    return _normalised("multi", torch.stack(images), np.array(labels), np.array(split), np.array(places))


def eurosat(folder: Path) -> Samples:
    """Tiles of 64 x 64 pixels by folder of class; 70 / 10 / 20 % of each class by a draw from its name.

    Raises:
        FileNotFoundError: The folder has no images.
    """
    from PIL import Image

    classes = sorted(p.name for p in folder.iterdir() if p.is_dir())
    images, labels, split = [], [], []
    for number, name in enumerate(classes):
        files = sorted((folder / name).glob("*.jpg"))
        order = np.random.default_rng(derive_seed("eurosat", name)).permutation(len(files))
        for place, index in enumerate(order):
            pixels = np.asarray(Image.open(files[index]).convert("RGB"), dtype=np.float32)
            tile = torch.from_numpy(pixels).permute(2, 0, 1)[None]
            images.append(functional.adaptive_avg_pool2d(tile, SIDE)[0])
            labels.append(np.arange(len(classes)) == number)
            split.append(int(np.searchsorted([0.7, 0.8], place / len(files), side="right")))
    if not images:
        raise FileNotFoundError(f"no class folders with .jpg files in {folder}")
    truth = np.array(labels)
    places = np.array(classes)[truth.argmax(axis=1)]
    return _normalised("single", torch.stack(images), truth, np.array(split), places)


def _normalised(target: Target, images: Tensor, labels: np.ndarray, split: np.ndarray, places: np.ndarray) -> Samples:
    training = images[torch.from_numpy(split == 0)]
    mean, std = training.mean(dim=(0, 2, 3), keepdim=True), training.std(dim=(0, 2, 3), keepdim=True)
    return Samples(target, (images - mean) / std, labels, split, places)
