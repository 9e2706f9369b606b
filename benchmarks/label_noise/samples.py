"""The data sets of the benchmark, whole in memory: the synthetic archive with labels or maps, and EuroSAT's RGB tiles.

Shape legend: N samples, C bands, S pixels, F numbers that describe an image, L classes.

Scenes are described once by the distribution and the edges of each band, so that a training of a small network takes a
CPU second, and a table of hundreds of trainings some minutes. Maps are trained from pixels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from eoforge.data.bands import S2_10M
from eoforge.data.labels import CLASSES, clc_to_classes
from eoforge.data.split import SPLITS
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.losses.robust import Target
from eoforge.nn.seeds import derive_seed

EUROSAT = (
    Path(os.environ.get("EOFORGE_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    / "eurosat-rgb-subset"
)
SIDE = 15
"""Side of the images of maps in pixels of 80 m."""
ARCHIVE_SEED = 11
_OPTICAL = ("s2_10m", "s2_20m")
_QUANTILES, _SCALES, _FAR = (0.05, 0.25, 0.5, 0.75, 0.95), (1, 2, 4), 5.0


@dataclass(frozen=True)
class Samples:
    """Samples of one data set.

    Attributes:
        target: ``multi``, ``single`` or ``pixels``.
        images: float32, normalised by the training split: descriptions ``[N, F]``, for ``pixels`` ``[N, C, S, S]``.
        labels: bool ``[N, L]``; of a single label one is true.
        split: Number of the split in ``eoforge.data.split.SPLITS``, ``[N]``.
        classes: Names of the labels.
        maps: For ``pixels``: class indices uint8 ``[N, S, S]``; labels are then the classes of the map.
    """

    target: Target
    images: Tensor
    labels: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...]
    maps: np.ndarray | None = None

    def truth(self, rows: np.ndarray) -> np.ndarray:
        """Clean labels bool ``[n, L]``, or maps ``[n, S, S]``."""
        return (self.labels if self.maps is None else self.maps)[rows]

    def rows(self, name: str) -> np.ndarray:
        """Numbers of the samples of a split."""
        return np.flatnonzero(self.split == SPLITS.index(name))

    def targets(self, labels: np.ndarray) -> Tensor:
        """Labels or maps as the losses take them: ``[N, L]`` in 0 and 1, or class indices ``[N]``, ``[N, S, S]``."""
        if self.target == "pixels":
            return torch.from_numpy(labels.astype(np.int64))
        return torch.from_numpy(labels.argmax(axis=1) if self.target == "single" else labels.astype(np.float32))


def synthetic(patches: int, cache: Path | None = None, *, maps: bool = False) -> Samples:
    """Sentinel-2 bands of 10 and 20 m of the synthetic archive; official split.

    Args:
        patches: Number of patches.
        cache: Folder that keeps the images, as the generator takes longer than a training.
        maps: Whether the labels are those of pixels.
    """
    stored = None if cache is None else cache / f"synthetic-{patches}-{SIDE}-{ARCHIVE_SEED}.npz"
    if stored is not None and stored.exists():
        with np.load(stored) as kept:
            found = {name: kept[name] for name in kept.files}
    else:
        found = _drawn(patches)
        if stored is not None:
            np.savez(stored, **found)  # type: ignore[arg-type]
    images = torch.from_numpy(found["images" if maps else "described"])
    scene = _normalised("multi", images, found["labels"], found["split"], CLASSES)
    if not maps:
        return scene
    present = np.stack([np.isin(np.arange(len(CLASSES)), one) for one in found["maps"]])
    return replace(scene, target="pixels", labels=present, maps=found["maps"])


def _drawn(patches: int) -> dict[str, np.ndarray]:
    found: dict[str, list[Any]] = {"images": [], "described": [], "labels": [], "split": [], "maps": []}
    step = S2_10M.size // SIDE
    for pair in synthetic_pairs(patches, ARCHIVE_SEED):
        bands = [torch.from_numpy(getattr(pair, name).astype(np.float32)) for name in _OPTICAL]
        found["images"].append(torch.cat([functional.adaptive_avg_pool2d(b, SIDE) for b in bands]).numpy())
        found["described"].append(torch.cat([described(b) for b in bands]).numpy())
        found["labels"].append([name in pair.meta.labels for name in CLASSES])
        found["split"].append(SPLITS.index(pair.meta.split))
        assert pair.reference_map is not None, "a synthetic pair has its map"
        found["maps"].append(clc_to_classes(pair.reference_map)[step // 2 :: step, step // 2 :: step])
    return {name: np.array(values) for name, values in found.items()}


def described(image_CSS: Tensor) -> Tensor:
    """Means, deviations, five quantiles and edges at three scales of each band: ``[13 C]``."""
    flat_CP = image_CSS.flatten(1)
    parts = [flat_CP.mean(dim=1), flat_CP.std(dim=1), *torch.quantile(flat_CP, torch.tensor(_QUANTILES), dim=1)]
    for scale in _SCALES:
        coarse = functional.avg_pool2d(image_CSS, scale)
        parts += [coarse.diff(dim=axis).abs().mean(dim=(1, 2)) for axis in (1, 2)]
    return torch.cat(parts)


def eurosat(folder: Path) -> Samples:
    """Tiles of 64 x 64 pixels by folder of class; 50 / 10 / 40 % of each class by a draw from its name.

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
            images.append(described(torch.from_numpy(pixels).permute(2, 0, 1)))
            labels.append(np.arange(len(classes)) == number)
            split.append(int(np.searchsorted([0.5, 0.6], place / len(files), side="right")))
    if not images:
        raise FileNotFoundError(f"no class folders with .jpg files in {folder}")
    return _normalised("single", torch.stack(images), np.array(labels), np.array(split), tuple(classes))


def _normalised(
    target: Target, images: Tensor, labels: np.ndarray, split: np.ndarray, classes: tuple[str, ...]
) -> Samples:
    training = images[torch.from_numpy(split == 0)]
    over = (0, *range(2, images.dim()))
    mean, std = training.mean(dim=over, keepdim=True), training.std(dim=over, keepdim=True)
    return Samples(target, ((images - mean) / std).clamp(-_FAR, _FAR), labels, split, classes)
