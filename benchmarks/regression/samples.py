"""Data sets of the benchmark: shares of forest and water of the synthetic archive, and scikit-learn's diabetes study.

Shape legend: N samples, F features. Images enter as plain features, because 480 trainings of a CNN take hours: mean,
deviation and 10, 50 and 90 % quantiles of each band, and of the vegetation and water index.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eoforge.data.labels import IGNORE_INDEX, INDEX, clc_to_classes
from eoforge.data.records import PatchPair
from eoforge.data.split import SPLITS
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.targets import SHARES
from eoforge.nn.seeds import derive_seed

ARCHIVE_SEED = 17
NAMES = ("forest_share", "water_share", "diabetes")
_QUANTILES = (10, 50, 90)


@dataclass(frozen=True)
class Samples:
    """Samples of one data set.

    Attributes:
        train: Features of the training set, ``[N, F]``.
        values: Their targets, ``[N]``; a cell reads those of its labelled samples alone.
        test: Features of the test set.
        truth: Their targets.
        low: Least valid value, or None.
        high: Greatest valid value, or None.
    """

    train: Tensor
    values: npt.NDArray[np.float64]
    test: Tensor
    truth: npt.NDArray[np.float64]
    low: float | None = None
    high: float | None = None


def samples_of(name: str, patches: int, cache: Path) -> Samples:
    """One of ``NAMES``; features of the archive are made once and kept below ``cache``."""
    return _diabetes() if name == "diabetes" else _archive(name, patches, cache)


def _diabetes() -> Samples:
    """442 patients, ten features; a quarter, drawn once, is the test set."""
    from sklearn.datasets import load_diabetes

    features, values = load_diabetes(return_X_y=True)
    order = np.random.default_rng(derive_seed("diabetes test")).permutation(len(values))
    test, train = order[: len(order) // 4], order[len(order) // 4 :]
    inputs = torch.from_numpy(features.astype(np.float32))
    return Samples(inputs[train], values[train].astype(float), inputs[test], values[test].astype(float), 0.0, None)


def _archive(name: str, patches: int, cache: Path) -> Samples:
    path = cache / f"archive-{ARCHIVE_SEED}-{patches}.npz"
    if not path.exists():
        pairs = synthetic_pairs(patches, ARCHIVE_SEED)
        rows = [(features_of(p), *(_share(p, t) for t in NAMES[:2]), SPLITS.index(p.meta.split)) for p in pairs]
        features, forest, water, split = zip(*rows, strict=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, features=features, forest_share=forest, water_share=water, split=split)
        partial.replace(path)
    with np.load(path) as kept:
        inputs, values, split = torch.from_numpy(kept["features"]), kept[name], kept["split"]
    train, test = (np.flatnonzero(split == SPLITS.index(one)) for one in ("train", "test"))
    return Samples(inputs[train], values[train], inputs[test], values[test], 0.0, 1.0)


def features_of(pair: PatchPair) -> npt.NDArray[np.float32]:
    """Features ``[F]`` of a patch."""
    assert pair.s2_10m is not None
    assert pair.s2_20m is not None
    ten, twenty = pair.s2_10m.astype(np.float32), pair.s2_20m.astype(np.float32)
    green, red, near, short = ten[1], ten[2], ten[3], twenty[4]
    coarse = green.reshape(60, 2, 60, 2).mean(axis=(1, 3))
    layers = [*ten, *twenty, (near - red) / (near + red + 1), (coarse - short) / (coarse + short + 1)]
    parts = [(one.mean(), one.std(), *np.percentile(one, _QUANTILES)) for one in layers]
    return np.array(parts, dtype=np.float32).ravel()


def _share(pair: PatchPair, target: str) -> float:
    assert pair.reference_map is not None
    classes = clc_to_classes(pair.reference_map)
    return float(np.isin(classes, [INDEX[label] for label in SHARES[target]]).sum() / (classes != IGNORE_INDEX).sum())
