"""Wavefront order: the causal neighbours of pixels, and the waves of pixels that are coded at once.

Pixels with equal ``column + 2 * row`` form a wave: the nine causal neighbours of each lie in earlier waves. Bands of
one grid follow each other ``LAG`` waves apart, so that pixels to the right of and below a pixel are known in earlier
bands. One step codes one wave of every band.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

OWN = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-2, 1), (-2, -1), (-1, -2))
"""Causal neighbours in the band itself: W, N, NW, NE, WW, NN, and three knight's moves."""
SIDE = ((0, 0), (0, -1), (-1, 0), (0, 1), (1, 0), (-1, -1), (-1, 1))
"""Neighbours in an earlier band: the pixel itself, W, N, E, S, NW, NE."""
LAG = 3

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Wavefront:
    """Geometry of one grid of ``H x W`` pixels; ``[P]`` runs over pixels in the order of coding.

    Attributes:
        pixels: Flat position of each ``[P]``.
        starts: First entry of each wave, and P ``[waves + 1]``.
        own: Flat positions ``[P, 9]`` of ``OWN``; beyond the edge the next causal pixel is used, or, where none exists,
            position ``H * W`` with the band's start value.
        side: Flat positions ``[P, 7]`` of ``SIDE``, cut at the edges.
    """

    pixels: Integers
    starts: Integers
    own: Integers
    side: Integers

    def steps(self, bands: int) -> Iterator[tuple[Integers, Integers]]:
        """Bands ``[n]`` and entries of ``pixels [n]`` of each step, empty steps left out."""
        waves = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        step = (waves[None, :] + LAG * np.arange(bands)[:, None]).ravel()
        order = np.argsort(step, kind="stable")  # within a step band by band, within a band as in ``pixels``
        band, entry = np.divmod(order, len(waves))
        starts = np.flatnonzero(np.diff(step[order], prepend=-1))
        for start, end in pairwise([*starts.tolist(), len(order)]):
            yield band[start:end], entry[start:end]


@lru_cache(maxsize=8)
def wavefront(height: int, width: int) -> Wavefront:
    """Geometry of a grid, cached for rasters of equal size."""
    rows, columns = (grid.ravel() for grid in np.indices((height, width), dtype=np.int64))
    wave = columns + 2 * rows
    order = np.lexsort((rows, wave))
    rows, columns, wave = rows[order], columns[order], wave[order]
    starts = np.searchsorted(wave, np.arange(wave[-1] + 2))

    west = np.where(columns > 0, rows * width + columns - 1, np.maximum(rows - 1, 0) * width + columns)
    west[0] = height * width
    own = np.empty((len(rows), len(OWN)), dtype=np.int64)
    for i, (down, right) in enumerate(OWN):
        y, x = rows + down, np.clip(columns + right, 0, width - 1)
        # A clipped column may give a pixel that is not yet coded, or the pixel itself: W replaces it.
        causal = (y >= 0) & (x + 2 * y < wave)
        own[:, i] = np.where(causal, np.maximum(y, 0) * width + x, west)
    side = np.stack(
        [np.clip(rows + down, 0, height - 1) * width + np.clip(columns + right, 0, width - 1) for down, right in SIDE],
        axis=1,
    )
    return Wavefront(rows * width + columns, starts.astype(np.int64), own, side)
