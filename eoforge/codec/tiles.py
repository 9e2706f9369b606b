"""Large rasters in tiles: which windows, how they are kept in one payload, how they become one image without seams.

Windows of neighbouring tiles overlap by twice the overlap; there the decoded pixels are mixed with weights that fall
linearly from one to zero, so that nothing jumps at a border. Rows of tiles are finished one after the other: memory
holds one row of tiles, never the raster.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from eoforge.codec.raster import Georeference, Raster, factor_of, grid_shape
from eoforge.data.bands import GROUP_OF
from eoforge.errors import DataRefused

TILE = 504
"""Side of a tile in base pixels, a multiple of all grids."""
OVERLAP = 24
"""Base pixels that a tile of a lossy stream reaches into each neighbour."""
_LENGTH = struct.Struct("<I")

Pixels = Mapping[str, npt.NDArray[Any]]


class Source(Protocol):
    """Where windows come from: a :class:`Raster`, or a file that is read piece by piece."""

    @property
    def bands(self) -> Mapping[str, object]:
        """The names of its bands (the values are not looked at)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the base grid."""

    @property
    def georeference(self) -> Georeference | None:
        """Where it lies."""

    @property
    def patch_id(self) -> str:
        """Its name."""

    def window(self, row: int, column: int, height: int, width: int) -> Raster:
        """As :meth:`Raster.window`."""


@dataclass(frozen=True)
class Window:
    """Base pixels of one tile, overlap included and cut at the raster's edges."""

    row: int
    column: int
    height: int
    width: int


def is_tiled(shape: tuple[int, int]) -> bool:
    """Whether a raster is cut: up to one tile with its overlap it stays whole."""
    return max(shape) > TILE + 2 * OVERLAP


def plan(shape: tuple[int, int], tile: int, overlap: int) -> list[list[Window]]:
    """Rows of windows; one window if ``tile`` is 0."""
    if not tile:
        return [[Window(0, 0, *shape)]]

    def spans(side: int) -> list[tuple[int, int]]:
        # A rest that lies within the overlap of the tile before it needs no tile of its own.
        starts = range(0, max(1, side - overlap), tile)
        return [(max(0, s - overlap), min(side, s + tile + overlap)) for s in starts]

    return [[Window(top, left, bottom - top, right - left) for left, right in spans(shape[1])]
            for top, bottom in spans(shape[0])]  # fmt: skip


def join(payloads: Sequence[bytes]) -> bytes:
    """One payload of many: their lengths, then they themselves."""
    lengths = b"".join(_LENGTH.pack(len(payload)) for payload in payloads)
    return lengths + b"".join(payloads)


def split(payload: memoryview, count: int) -> list[memoryview]:
    """The ``count`` payloads that :func:`join` joined.

    Raises:
        DataRefused: The lengths do not add up to what is there.
    """
    table = count * _LENGTH.size
    if len(payload) < table:
        raise DataRefused(f"damaged stream: {count} tiles need a table of {table} bytes; there are {len(payload)}")
    lengths = [length for (length,) in _LENGTH.iter_unpack(payload[:table])]
    if table + sum(lengths) != len(payload):
        raise DataRefused(f"damaged stream: its tiles claim {sum(lengths)} bytes; there are {len(payload) - table}")
    parts, start = [], table
    for length in lengths:
        parts.append(payload[start : start + length])
        start += length
    return parts


def strips(
    rows: Iterable[tuple[Sequence[Window], Iterable[Pixels]]], shape: tuple[int, int], tile: int, overlap: int
) -> Iterator[tuple[int, Pixels]]:
    """Finished strips of a raster, top to bottom.

    Args:
        rows: Rows of windows with the pixels of each, in the order of :func:`plan`.
        shape: Base grid of the raster.
        tile: Side of a tile, 0 for one piece.
        overlap: As it was planned with.

    Yields:
        First base row of the strip, and its bands over the whole width.
    """
    if not tile or not overlap:
        for windows, images in rows:
            yield windows[0].row, _beside(windows, images, shape)
        return
    carried: dict[str, npt.NDArray[np.float64]] = {}
    for windows, images in rows:
        first, last = windows[0].row, windows[0].row + windows[0].height
        mixed: dict[str, npt.NDArray[np.float64]] = {}
        for window, image in zip(windows, images, strict=True):
            for band, pixels in image.items():
                f = factor_of(band)
                if band not in mixed:
                    mixed[band] = np.zeros(grid_shape((window.height, shape[1]), f))
                weights = np.outer(
                    _ramp(window.row, window.height, shape[0], overlap, f),
                    _ramp(window.column, window.width, shape[1], overlap, f),
                )
                left = window.column // f
                mixed[band][:, left : left + pixels.shape[1]] += weights * pixels
        for band, above in carried.items():
            mixed[band][: len(above)] += above
        # The next row of tiles starts 2 * overlap above the end of this one: what lies above that is finished.
        end = last if last == shape[0] else last - 2 * overlap
        done = {band: values[: grid_shape((end - first, 1), factor_of(band))[0]] for band, values in mixed.items()}
        carried = {band: values[len(done[band]) :] for band, values in mixed.items()}
        yield first, {band: _cast(values, band) for band, values in done.items()}


def _beside(windows: Sequence[Window], images: Iterable[Pixels], shape: tuple[int, int]) -> Pixels:
    """Tiles without overlap, side by side."""
    if len(windows) == 1:
        return next(iter(images))
    row: dict[str, npt.NDArray[Any]] = {}
    for window, image in zip(windows, images, strict=True):
        for band, pixels in image.items():
            f = factor_of(band)
            if band not in row:
                row[band] = np.empty(grid_shape((window.height, shape[1]), f), dtype=GROUP_OF[band].dtype)
            left = window.column // f
            row[band][:, left : left + pixels.shape[1]] = pixels
    return row


def _ramp(start: int, length: int, side: int, overlap: int, factor: int) -> npt.NDArray[np.float64]:
    """Weights of a window's pixels along one axis; those of neighbours add up to one."""
    count = -(-length // factor)
    weights = np.ones(count)
    width = min(2 * overlap // factor, count)
    rise = (np.arange(width) + 0.5) / width
    if start > 0:
        weights[:width] *= rise
    if start + length < side:
        weights[count - width :] *= rise[::-1]
    return weights


def _cast(values: npt.NDArray[np.float64], band: str) -> npt.NDArray[Any]:
    dtype = np.dtype(GROUP_OF[band].dtype)
    return np.rint(values).astype(dtype) if dtype.kind == "u" else values.astype(dtype)


def assemble(bands: Sequence[str], shape: tuple[int, int], found: Iterable[tuple[int, Pixels]]) -> Pixels:
    """Whole bands out of strips."""
    whole = {b: np.empty(grid_shape(shape, factor_of(b)), dtype=GROUP_OF[b].dtype) for b in bands}
    for row, strip in found:
        for band, pixels in strip.items():
            top = row // factor_of(band)
            whole[band][top : top + len(pixels)] = pixels
    return whole
