"""Raster of the codec: bands on their native grids, with georeference and name.

All grids derive from one base grid, that of the 10 m bands, which need not be present: a band at ``r`` metres has
``ceil(H * 10 / r)`` rows for ``H`` rows of the base grid, and the same for columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eoforge.codec.profile import Profile
from eoforge.data.bands import GROUP_OF, GROUPS, MODALITIES, S1_10M, S2_10M, S2_20M, S2_60M
from eoforge.data.names import parse_patch_id
from eoforge.errors import DataRefused, UsageError
from eoforge.geo.crs import check_crs
from eoforge.geo.footprint import Footprint

if TYPE_CHECKING:  # bounded streams are read without torch and Lance
    from eoforge.data.loading.batch import PatchBatch
    from eoforge.data.records import PatchPair

BASE_METRES = 10
ALIGNMENT = 6
"""Least common multiple of the three Sentinel-2 grids, in base pixels."""
BAND_ORDER: tuple[str, ...] = tuple(GROUP_OF)
"""All bands in the order of the columns of ``patches.lance``."""

FACTORS = {group.column: group.resolution // BASE_METRES for group in GROUPS}
"""Base pixels per pixel of each native grid."""

Transform = tuple[float, float, float, float, float, float]
Masks = Mapping[str, npt.NDArray[np.bool_]]
"""Native grid -> mask ``[h, w]``, True where pixels are valid."""


def factor_of(band: str) -> int:
    """Base pixels per pixel of ``band``: 1, 2 or 6.

    Raises:
        UsageError: There is no such band.
    """
    if band not in GROUP_OF:
        raise UsageError(f"unknown band {band!r}; the bands are {', '.join(BAND_ORDER)}")
    return GROUP_OF[band].resolution // BASE_METRES


def grid_shape(shape: tuple[int, int], factor: int) -> tuple[int, int]:
    """Rows and columns of the grid that is ``factor`` times coarser than the base grid ``shape``."""
    return (-(-shape[0] // factor), -(-shape[1] // factor))


def averaged(pixels: npt.NDArray[np.uint16], ratio: int) -> npt.NDArray[np.uint16]:
    """Means of blocks of ``ratio x ratio`` pixels, which undo nearest-neighbour resampling to a finer grid.

    Halves are rounded up, in integers: as GDAL averages, and the same on every machine. Streams were made so, so an
    image is the same integers wherever it is read.

    Args:
        pixels: ``[H, W]``; an edge that fills no block is repeated.
        ratio: How much coarser the result is.

    Returns:
        ``[ceil(H / ratio), ceil(W / ratio)]``.
    """
    rows, columns = (-(-side // ratio) for side in pixels.shape)
    padding = ((0, rows * ratio - pixels.shape[0]), (0, columns * ratio - pixels.shape[1]))
    blocks = np.pad(pixels, padding, mode="edge").reshape(rows, ratio, columns, ratio)
    total = blocks.sum(axis=(1, 3), dtype=np.uint32)
    means: npt.NDArray[np.uint16] = ((total + ratio * ratio // 2) // (ratio * ratio)).astype(np.uint16)
    return means


def modalities_of(bands: Iterable[str]) -> tuple[str, ...]:
    """Sensors with at least one of these bands, in the order of their codes in a stream."""
    given = set(bands)
    return tuple(modality for modality, names in MODALITIES.items() if given & set(names))


@dataclass(frozen=True)
class Georeference:
    """Georeference of a raster.

    Attributes:
        crs: ``EPSG:<code>`` or WKT; empty where only the transform is known.
        transform: ``(a, b, c, d, e, f)`` of the base grid: x = a * column + b * row + c, y = d * column + e * row + f.

    Raises:
        DataRefused: ``crs`` is anything else.
    """

    crs: str
    transform: Transform

    def __post_init__(self) -> None:
        if self.crs:
            check_crs(self.crs)

    def moved(self, row: int, column: int) -> Georeference:
        """Georeference of a window that starts at this base pixel."""
        a, b, c, d, e, f = self.transform
        return Georeference(self.crs, (a, b, c + a * column + b * row, d, e, f + d * column + e * row))

    def scaled(self, factor: int) -> Transform:
        """Transform of the grid that is ``factor`` times coarser."""
        a, b, c, d, e, f = self.transform
        return (a * factor, b * factor, c, d * factor, e * factor, f)


@dataclass(frozen=True, eq=False)
class Raster:
    """Bands of one area on their native grids.

    Attributes:
        bands: Name -> ``[h, w]`` on its native grid: uint16 (Sentinel-2, reflectance x 10,000) or float32
            (Sentinel-1, dB); kept in ``BAND_ORDER``.
        shape: Rows and columns of the base grid; derived from the finest band if not given.
        georeference: Georeference, None if unknown.
        patch_id: Name, may be empty.
        profile: Nodata, scales, tags and the like; None for the convention of reBEN.
        masks: Masks of the grids that the profile calls masked.
    """

    bands: Mapping[str, npt.NDArray[Any]]
    shape: tuple[int, int] = (0, 0)
    georeference: Georeference | None = None
    patch_id: str = ""
    profile: Profile | None = None
    masks: Masks = field(default_factory=dict)
    modalities: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.bands:
            raise UsageError(f"a raster needs at least one band out of {', '.join(BAND_ORDER)}")
        finest = min(self.bands, key=factor_of)
        factor = factor_of(finest)
        sides = np.shape(self.bands[finest])
        shape = self.shape if self.shape != (0, 0) or len(sides) != 2 else (sides[0] * factor, sides[1] * factor)
        ordered: dict[str, npt.NDArray[Any]] = {}
        for band in BAND_ORDER:
            if band not in self.bands:
                continue
            pixels = np.asarray(self.bands[band])
            wanted, dtype = grid_shape(shape, factor_of(band)), GROUP_OF[band].dtype
            if pixels.shape != wanted or pixels.dtype != np.dtype(dtype) or 0 in wanted:
                raise DataRefused(
                    f"{band}: expected {dtype} of {list(wanted)} pixels (base grid {list(shape)}); "
                    f"got {pixels.dtype} {list(pixels.shape)}"
                )
            ordered[band] = pixels
        masked = {grid for grid, part in self.profile.grids.items() if part.masked} if self.profile else set()
        shapes = {GROUP_OF[band].column: pixels.shape for band, pixels in ordered.items()}
        if masked != set(self.masks) or any(mask.shape != shapes.get(g) for g, mask in self.masks.items()):
            raise DataRefused(f"expected masks of {sorted(masked)} as large as their bands; got {sorted(self.masks)}")
        object.__setattr__(self, "bands", ordered)
        object.__setattr__(self, "shape", (int(shape[0]), int(shape[1])))
        object.__setattr__(self, "modalities", modalities_of(ordered))

    def only(self, modality: str) -> Raster:
        """Raster of the bands of one sensor.

        Raises:
            UsageError: The raster has no band of that sensor.
        """
        chosen = {b: p for b, p in self.bands.items() if b in MODALITIES.get(modality, ())}
        if not chosen:
            raise UsageError(f"the raster has bands of {', '.join(self.modalities)}; none of {modality!r}")
        grids = {GROUP_OF[band].column for band in chosen}
        masks = {grid: mask for grid, mask in self.masks.items() if grid in grids}
        profile = self.profile.only(chosen) if self.profile else None
        return Raster(chosen, self.shape, self.georeference, self.patch_id, profile, masks)

    def window(self, row: int, column: int, height: int, width: int) -> Raster:
        """View of the base pixels ``[row, row + height) x [column, column + width)``, cut at the raster's edge.

        Raises:
            UsageError: The corner is no multiple of ``ALIGNMENT`` or lies outside.
        """
        if row % ALIGNMENT or column % ALIGNMENT or not (0 <= row < self.shape[0] and 0 <= column < self.shape[1]):
            raise UsageError(
                f"a window starts at multiples of {ALIGNMENT} inside {list(self.shape)}; got row {row}, column {column}"
            )
        shape = (min(height, self.shape[0] - row), min(width, self.shape[1] - column))

        def cut(whole: npt.NDArray[Any], f: int) -> npt.NDArray[Any]:
            rows, columns = grid_shape(shape, f)
            return whole[row // f : row // f + rows, column // f : column // f + columns]

        bands = {band: cut(pixels, factor_of(band)) for band, pixels in self.bands.items()}
        masks = {grid: cut(mask, FACTORS[grid]) for grid, mask in self.masks.items()}
        moved = None if self.georeference is None else self.georeference.moved(row, column)
        profile = self.profile.moved(row, column, FACTORS) if self.profile else None
        return Raster(bands, shape, moved, self.patch_id, profile, masks)


def from_pair(pair: PatchPair, modalities: tuple[str, ...] = ("s1", "s2")) -> Raster:
    """A patch as the readers yield it, of the given sensors as far as it has them."""
    groups = {group.column: pixels for group in GROUPS if (pixels := getattr(pair, group.column)) is not None}
    return _assemble(pair.meta.patch_id, groups, modalities, pair.meta.corner)


def from_batch(
    batch: PatchBatch, modalities: tuple[str, ...] = ("s1", "s2"), corners: Sequence[Footprint] | None = None
) -> list[Raster]:
    """The patches of a batch, each as one raster; modalities that the batch does not hold are left out.

    Args:
        batch: The patches.
        modalities: The sensors.
        corners: Places of the patches; None takes those that their names imply.
    """
    columns = {
        group.column: tensor.cpu().numpy() for group in GROUPS if (tensor := getattr(batch, group.column)) is not None
    }
    places: Sequence[Footprint | None] = [None] * len(batch) if corners is None else corners
    return [
        _assemble(name, {c: t[i] for c, t in columns.items()}, modalities, place)
        for i, (name, place) in enumerate(zip(batch.patch_id, places, strict=True))
    ]


def _assemble(
    patch_id: str, groups: Mapping[str, npt.NDArray[Any]], modalities: tuple[str, ...], corner: Footprint | None
) -> Raster:
    known = {band for modality in modalities for band in MODALITIES[modality]}
    bands = {
        band: groups[group.column][i]
        for group in (S2_10M, S2_20M, S2_60M, S1_10M)
        if group.column in groups
        for i, band in enumerate(group.bands)
        if band in known
    }
    return Raster(bands, georeference=_georeference(patch_id, corner), patch_id=patch_id)


def _georeference(patch_id: str, corner: Footprint | None) -> Georeference | None:
    try:
        place = corner or parse_patch_id(patch_id).footprint
    except DataRefused:  # a name of another archive says nothing about the place
        return None
    transform = (float(BASE_METRES), 0.0, float(place.ulx), 0.0, -float(BASE_METRES), float(place.uly))
    return Georeference(f"EPSG:{place.epsg}", transform)
