"""Tiling of large rasters: windows, payloads of tiles, and blending of decoded tiles without seams.

Windows of neighbouring tiles overlap by twice the overlap, where decoded pixels are blended with weights that fall
linearly from one to zero. Tiles are finished one after the other: memory holds one tile and the overlap of the row
above, never the whole raster.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from eoforge.codec.profile import Profile
from eoforge.codec.raster import FACTORS, Georeference, Masks, Raster, factor_of, grid_shape
from eoforge.codec.slices import FileSlice
from eoforge.data.bands import GROUP_OF
from eoforge.errors import DataRefused

TILE = 504
"""Side of a tile in base pixels, a multiple of all grids."""
OVERLAP = 24
"""Overlap of a tile of a learned stream with each neighbour, in base pixels."""
LENGTH = struct.Struct("<I")
"""Entry of the table at the start of the payload of a tiled stream: payload length of one tile."""

Pixels = Mapping[str, npt.NDArray[Any]]
_Floats = npt.NDArray[np.float32]


class Source(Protocol):
    """Source of windows: a :class:`Raster`, or files that are read window by window."""

    @property
    def bands(self) -> Mapping[str, object]:
        """Mapping whose keys are the band names; the values are not read."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the base grid."""

    @property
    def georeference(self) -> Georeference | None:
        """Georeference, None if unknown."""

    @property
    def patch_id(self) -> str:
        """Name, may be empty."""

    @property
    def profile(self) -> Profile | None:
        """Nodata, scales, tags and the like; None for the convention of reBEN."""

    def window(self, row: int, column: int, height: int, width: int) -> Raster:
        """Raster of a window; see :meth:`Raster.window`."""


@dataclass(frozen=True)
class Window:
    """Window of one tile in base pixels, overlap included and cut at the raster's edges."""

    row: int
    column: int
    height: int
    width: int


@dataclass(frozen=True)
class Block:
    """Finished pixels of all bands, and masks; ``row`` and ``column`` are the first base pixel."""

    row: int
    column: int
    pixels: Pixels
    masks: Masks = field(default_factory=dict)


def is_tiled(shape: tuple[int, int]) -> bool:
    """Whether a raster is tiled: it is larger than one tile with its overlap."""
    return max(shape) > TILE + 2 * OVERLAP


def plan(shape: tuple[int, int], tile: int, overlap: int) -> list[Window]:
    """Windows of the tiles of a raster, row by row; one window if ``tile`` is 0."""
    if not tile:
        return [Window(0, 0, *shape)]

    def spans(side: int) -> list[tuple[int, int]]:
        # A remainder within the overlap of the previous tile needs no tile of its own.
        starts = range(0, max(1, side - overlap), tile)
        return [(max(0, s - overlap), min(side, s + tile + overlap)) for s in starts]

    columns = spans(shape[1])
    return [Window(top, left, bottom - top, right - left) for top, bottom in spans(shape[0]) for left, right in columns]


def split(payload: memoryview | FileSlice, count: int) -> Sequence[memoryview | FileSlice]:
    """Payloads of ``count`` tiles, from the payload of a tiled stream.

    Raises:
        DataRefused: The lengths of the tiles do not add up to the length of the payload.
    """
    table = count * LENGTH.size
    if len(payload) < table:
        raise DataRefused(
            f"damaged stream: {count} tiles need a table of {table} bytes; the payload has {len(payload)}"
        )
    lengths = [length for (length,) in LENGTH.iter_unpack(bytes(payload[:table]))]
    if table + sum(lengths) != len(payload):
        raise DataRefused(
            f"damaged stream: its tiles claim {sum(lengths)} bytes; the payload has {len(payload) - table}"
        )
    parts, start = [], table
    for length in lengths:
        parts.append(payload[start : start + length])
        start += length
    return parts


def blocks(decoded: Iterable[tuple[Window, Pixels]], shape: tuple[int, int], overlap: int) -> Iterator[Block]:
    """Finished blocks of a raster, one per tile; together they cover the raster once.

    Args:
        decoded: Windows in the order of :func:`plan` with their pixels.
        shape: Base grid of the raster.
        overlap: Overlap of :func:`plan`.
    """
    # Weighted pixels of earlier tiles that later tiles complete: from the row above, for the row below, from the left.
    above: dict[str, _Floats] = {}
    below: dict[str, _Floats] = {}
    beside: dict[str, _Floats] = {}
    for window, image in decoded:
        if not overlap:
            yield Block(window.row, window.column, image)
            continue
        if window.column == 0:
            above, below, beside = below, {}, {}
        done = {}
        for band, pixels in image.items():
            f = factor_of(band)
            lap, left, (height, width) = 2 * overlap // f, window.column // f, pixels.shape
            weights = (
                _ramp(window.row, window.height, shape[0], overlap, f),
                _ramp(window.column, window.width, shape[1], overlap, f),
            )
            mixed = np.outer(*weights).astype(np.float32) * pixels
            rows = height if window.row + window.height == shape[0] else height - lap
            columns = width if window.column + window.width == shape[1] else width - lap
            if rows < height:
                if band not in below:
                    below[band] = np.zeros((lap, grid_shape(shape, f)[1]), dtype=np.float32)
                below[band][:, left : left + width] += mixed[rows:]
            right_edge = mixed[:rows, columns:].copy()
            if band in beside:
                mixed[:rows, :lap] += beside[band]
            beside[band] = right_edge
            if band in above:
                mixed[:lap, :columns] += above[band][:, left : left + columns]
            done[band] = _cast(mixed[:rows, :columns], band)
        yield Block(window.row, window.column, done)


def _ramp(start: int, length: int, side: int, overlap: int, factor: int) -> npt.NDArray[np.float64]:
    """Blending weights of a window along one axis; weights of neighbouring windows add up to one."""
    count = -(-length // factor)
    weights = np.ones(count)
    width = min(2 * overlap // factor, count)
    rise = (np.arange(width) + 0.5) / width
    if start > 0:
        weights[:width] *= rise
    if start + length < side:
        weights[count - width :] *= rise[::-1]
    return weights


def _cast(values: _Floats, band: str) -> npt.NDArray[Any]:
    dtype = np.dtype(GROUP_OF[band].dtype)
    return np.rint(values).astype(dtype) if dtype.kind == "u" else values.astype(dtype)


def assemble(bands: Sequence[str], shape: tuple[int, int], parts: Iterable[Block]) -> Pixels:
    """Whole bands, assembled from blocks."""
    return assemble_masked(bands, shape, parts)[0]


def assemble_masked(bands: Sequence[str], shape: tuple[int, int], parts: Iterable[Block]) -> tuple[Pixels, Masks]:
    """Whole bands and masks, assembled from blocks."""
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    whole = {b: np.empty(grid_shape(shape, factor_of(b)), dtype=GROUP_OF[b].dtype) for b in bands}
    for block in parts:
        for band, pixels in block.pixels.items():
            top, left = block.row // factor_of(band), block.column // factor_of(band)
            whole[band][top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        for grid, mask in block.masks.items():
            top, left = block.row // FACTORS[grid], block.column // FACTORS[grid]
            if grid not in masks:
                masks[grid] = np.ones(grid_shape(shape, FACTORS[grid]), dtype=bool)
            masks[grid][top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return whole, masks
