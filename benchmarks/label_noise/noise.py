"""Noise of a training split: that of the injectors on labels and maps, and maps that lie beside their images.

Shape legend: N samples, L classes, S pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.label_noise.samples import Samples
from eoforge.data.labels import IGNORE_INDEX
from eoforge.data.noise.maps import relabelled, shifted
from eoforge.data.noise.scene import Noise, inject
from eoforge.nn.seeds import derive_seed

SHIFTED = "shifted"


@dataclass(frozen=True)
class Shift:
    """Maps moved by ``rate`` pixels in a direction of their own.

    Attributes:
        rate: Pixels of the benchmark's maps, 80 m each.
        seed: Of the directions.
        kind: Its name.
    """

    rate: float
    seed: int = 0
    kind: str = SHIFTED


def noise_of(kind: str, rate: float, seed: int) -> Noise | Shift:
    """Noise by name."""
    return Shift(rate, seed) if kind == SHIFTED else Noise(kind, rate, seed)


def corrupted(samples: Samples, rows: np.ndarray, noise: Noise | Shift) -> np.ndarray:
    """Labels bool ``[N, L]``, or maps uint8 ``[N, S, S]``, that training reads for the given rows."""
    if samples.maps is None:
        assert isinstance(noise, Noise), "labels of scenes cannot be moved"
        return inject(samples.labels[rows], noise)
    maps = samples.maps[rows]
    if isinstance(noise, Shift):
        rng = np.random.Generator(np.random.Philox(derive_seed("benchmark shift", noise.seed)))
        angles = rng.uniform(0, 2 * np.pi, len(maps))
        moves = np.rint(noise.rate * np.stack([np.sin(angles), np.cos(angles)], axis=1)).astype(int).tolist()
        return np.stack([shifted(one, *move) for one, move in zip(maps, moves, strict=True)])
    clean = samples.labels[rows]
    pairs = zip(maps, clean, inject(clean, noise), strict=True)
    return np.stack([relabelled(one, before, after) for one, before, after in pairs])


def one_hot(samples: Samples, truth: np.ndarray, noisy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and training labels as rows ``[M, L]`` of what can be wrong, and which of all elements these are.

    For labels of scenes these are the rows as they are; for maps a row is a pixel with a class.
    """
    if samples.maps is None:
        return truth, noisy, np.ones(len(truth), dtype=bool)
    known = (noisy != IGNORE_INDEX).ravel()
    classes = np.arange(len(samples.classes))
    hot = [maps.ravel()[known][:, None] == classes for maps in (truth, noisy)]
    return hot[0], hot[1], known
