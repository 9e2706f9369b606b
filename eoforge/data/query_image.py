"""Query images from files of users: bands by name, the sensor, and windows of a patch's size on native grids.

Files may be one GeoTIFF of several bands, GeoTIFFs of single bands, or a folder of these. What has another size or
pixel size than a patch is cropped, cut into windows or resampled, and a note says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.backscatter import require_decibels
from eoforge.data.bands import GROUP_OF, MODALITIES, S2_10M, band_in_name, canonical_band
from eoforge.errors import DataRefused, LimitExceeded, NotFound, UsageError
from eoforge.geo.gdal import open_geotiff, refusing, transform_of

SIDE = S2_10M.size
MAX_WINDOWS = 400
MAX_PIXELS = 1 << 24
MAX_BYTES = 1 << 29
"""Pixels of all bands together; 400 patches of twelve bands of 16 bits, all at 10 m, have a quarter of it."""
SENSORS = {"s1": "Sentinel-1", "s2": "Sentinel-2"}
_BASE_METRES = S2_10M.resolution
_ALIGNMENT = 6  # pixels of 10 m in one of 60 m
_SUFFIXES = (".tif", ".tiff")
_METRES_PER_DEGREE = 111_320.0
_MAX_METRES = 100_000.0
"""Largest pixel that is believed; a degree and more is an error of the file."""
_TOLERANCE = 0.12  # degrees stand for metres, and products in other projections differ by some per cent
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Window:
    """Window of a patch's size: its upper-left corner in pixels of 10 m, and its bands on their native grids."""

    row: int
    column: int
    bands: Mapping[str, Array]


@dataclass(frozen=True)
class QueryImage:
    """Image of one sensor as windows of a patch's size.

    Attributes:
        modality: ``s1`` or ``s2``.
        windows: At least one.
        notes: What was left out, cropped or resampled, in sentences for people.
    """

    modality: str
    windows: tuple[Window, ...]
    notes: tuple[str, ...]


def read_query_image(
    paths: Sequence[Path], bands: Sequence[str] = (), modality: str | None = None, most_windows: int = MAX_WINDOWS
) -> QueryImage:
    """Query image from files.

    Args:
        paths: One GeoTIFF of several bands, GeoTIFFs of single bands, or one folder of them.
        bands: Names of the bands in the order of channels, or of files of one band; by default the descriptions in
            the files count, then the names of the files.
        modality: Expected sensor; by default that of the bands.
        most_windows: Most windows; the pixels that are read are bounded in the same proportion.

    Raises:
        NotFound: A path does not exist, or the folder holds no GeoTIFF.
        UsageError: A band is unnamed, unknown or given twice, or the image shows both sensors and none is chosen.
        DataRefused: A file is no readable GeoTIFF, or the image is of another sensor, or its pixels are in another
            unit or incomplete.
        LimitExceeded: The image has too many pixels or windows.
    """
    notes: list[str] = []
    most_pixels, most_bytes = (most * most_windows // MAX_WINDOWS for most in (MAX_PIXELS, MAX_BYTES))
    left = most_bytes
    files = _files(paths)
    found: dict[str, Array] = {}
    metres: dict[str, float | None] = {}
    given = [_known(name) for name in bands]
    if given and len(files) > 1 and len(given) != len(files):
        raise UsageError(f"expected one band name for each of the {len(files)} files; got {len(given)}")
    for number, path in enumerate(files):
        with _opened(path) as dataset:
            own = given if len(files) == 1 else given[number : number + 1]
            names = own or _names(dataset, path)
            if not any(names):
                notes.append(f"{path.name} names no band and was left out")
                continue
            if len(names) != dataset.count:
                raise UsageError(f"{path.name} has {dataset.count} bands; got {len(names)} names: {', '.join(names)}")
            if dataset.width * dataset.height > most_pixels:
                raise LimitExceeded(f"{path.name} has {dataset.height} x {dataset.width} pixels; at most {most_pixels}")
            for channel, name in enumerate(names, start=1):
                if name in found:
                    raise UsageError(f"band {name} is given twice, again by {path.name}")
                if name not in GROUP_OF:
                    notes.append(f"band {name or channel} of {path.name} is none that indexes know and was left out")
                    continue
                left -= dataset.width * dataset.height * np.dtype(dataset.dtypes[channel - 1]).itemsize
                if left < 0:
                    raise LimitExceeded(
                        f"the image has more than {most_bytes >> 20} MiB of pixels; cut out a part of it"
                    )
                with refusing(path.name):
                    found[name], metres[name] = dataset.read(channel), _pixel_metres(dataset, path.name)
    sensor = _sensor(found, modality, [path.name for path in files])
    chosen = {name: _in_unit(name, pixels, notes) for name, pixels in found.items() if name in MODALITIES[sensor]}
    return QueryImage(sensor, _windows(chosen, metres, notes, most_windows), tuple(dict.fromkeys(notes)))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """File of which the header has been read; a georeference is welcome, and none is needed."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with open_geotiff(path, path.name) as dataset:
            yield dataset


def _files(paths: Sequence[Path]) -> list[Path]:
    if len(paths) == 1 and paths[0].is_dir():
        inside = sorted(p for p in paths[0].iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))
        if not inside:
            raise NotFound(f"no GeoTIFF (.tif, .tiff) in the folder {paths[0]}")
        return inside
    for path in paths:
        if not path.is_file():
            raise NotFound(f"no image at {path}")
    return list(paths)


def _known(name: str) -> str:
    band = canonical_band(name)
    if band is None:
        raise UsageError(f"unknown band {name!r}; expected names such as B02, B8A, VV")
    return band


def _names(dataset: Any, path: Path) -> list[str]:
    """Band of each channel by description, or by the file's name; all empty if a file of one band names none."""
    described = [canonical_band(text or "") or "" for text in dataset.descriptions]
    if all(described):
        return described
    if dataset.count == 1:
        return [band_in_name(path.stem) or ""]
    raise UsageError(
        f"{path.name} has {dataset.count} bands, of which {sum(map(bool, described))} are named; give their names in "
        "the order of the channels with --bands, such as --bands B02,B03,B04"
    )


def _sensor(found: Mapping[str, Array], wanted: str | None, files: Sequence[str]) -> str:
    present = [m for m, names in MODALITIES.items() if set(names) & set(found)]
    if not present:
        raise UsageError(
            f"no band is named in {', '.join(files[:3])}; name files like x_B02.tif, or give the names with --bands"
        )
    if wanted is None and len(present) > 1:
        raise UsageError("the image has bands of both sensors; choose one: --from s1 or --from s2")
    if wanted is not None and wanted not in present:
        seen = ", ".join(name for name in found)
        raise DataRefused(
            f"the image is of {SENSORS[present[0]]} (bands {seen}), and the query says {wanted}, {SENSORS[wanted]}; "
            f"expected bands {', '.join(MODALITIES[wanted])}"
        )
    return wanted or present[0]


def _in_unit(name: str, pixels: Array, notes: list[str]) -> Array:
    """Pixels as archives hold them: reflectance x 10,000 as uint16, or backscatter in dB as float32."""
    if name in MODALITIES["s1"]:
        if pixels.dtype.kind != "f":
            raise DataRefused(f"band {name} holds {pixels.dtype}; expected backscatter in dB as floating point")
        require_decibels(pixels[np.isfinite(pixels)][None], f"band {name}")
        return pixels.astype(np.float32)
    if pixels.dtype.kind not in "uif":
        raise DataRefused(f"band {name} holds {pixels.dtype}; expected reflectance x 10,000 as real numbers")
    if pixels.dtype == np.uint8:
        raise DataRefused(f"band {name} has 8 bits: a picture for the eye; expected reflectance x 10,000 in 16 bits")
    if pixels.dtype.kind == "f":
        top = float(np.nanmax(pixels)) if np.isfinite(pixels).any() else 0.0
        if top <= 2.0:
            notes.append("reflectance from 0 to 1 was multiplied by 10,000")
            pixels = pixels * 10_000
        pixels = np.rint(np.nan_to_num(pixels, nan=0.0))
    return np.clip(pixels, 0, np.iinfo(np.uint16).max).astype(np.uint16)


def _pixel_metres(dataset: Any, what: str) -> float | None:
    """Height of a pixel in metres; None where the file does not say it.

    Raises:
        DataRefused: The height is not finite, or that of a country.
    """
    height = abs(transform_of(dataset, what)[4])
    crs = dataset.crs
    if crs is None or not height or not (crs.is_geographic or crs.is_projected):
        return None
    metres = float(height * (_METRES_PER_DEGREE if crs.is_geographic else crs.linear_units_factor[1]))
    if metres > _MAX_METRES:
        raise DataRefused(f"{what}: a pixel is {metres:.3g} m high; expected at most {_MAX_METRES:.0f} m")
    return metres


def _windows(
    bands: Mapping[str, Array], metres: Mapping[str, float | None], notes: list[str], most: int
) -> tuple[Window, ...]:
    largest = max(bands, key=lambda name: bands[name].size)
    native = min(GROUP_OF[n].resolution for n in bands if bands[n].shape == bands[largest].shape)
    pixel = metres[largest]
    if pixel is None:
        pixel = float(native)
    on_grid = [r for r in (10, 20, 60) if abs(pixel / r - 1) <= _TOLERANCE]
    exact = on_grid[0] if on_grid else pixel
    if not on_grid:
        notes.append(f"resampled from {pixel:.3g} m to the {_BASE_METRES} m of patches")
    shape = tuple(round(side * exact / _BASE_METRES) for side in bands[largest].shape)
    if min(shape) < SIDE:
        notes.append(
            f"{shape[0]} x {shape[1]} pixels of 10 m were stretched to the {SIDE} x {SIDE} of a patch; hits may show "
            "another scale"
        )
        shape = (max(shape[0], SIDE), max(shape[1], SIDE))
    rows, columns = shape
    corners = _corners(rows, columns, notes, most)
    # All grids must divide: the remainder at the lower and right edge is never part of a window.
    whole = {name: _resized(pixels, rows, columns, GROUP_OF[name].resolution) for name, pixels in bands.items()}
    cut = [Window(row, column, _cut(whole, row, column)) for row, column in corners]
    complete = [window for window in cut if all(_complete(pixels) for pixels in window.bands.values())]
    if not complete:
        raise DataRefused("the image has pixels without data (0 in optical, NaN in radar bands) in every window")
    if len(complete) < len(cut):
        notes.append(f"{len(cut) - len(complete)} of {len(cut)} windows have pixels without data and were left out")
    return tuple(complete)


def _corners(rows: int, columns: int, notes: list[str], most: int) -> list[tuple[int, int]]:
    down, across = rows // SIDE, columns // SIDE
    if down * across > most:
        raise LimitExceeded(
            f"the image covers {down} x {across} patches; at most {most} are asked for. Cut out a part of it"
        )
    if down * across == 1:
        if (rows, columns) != (SIDE, SIDE):
            notes.append(f"cropped to the middle {SIDE} x {SIDE} of {rows} x {columns} pixels of 10 m")
        return [tuple((side - SIDE) // 2 // _ALIGNMENT * _ALIGNMENT for side in (rows, columns))]  # type: ignore[list-item]  # two sides
    notes.append(
        f"{rows} x {columns} pixels of 10 m were cut into {down * across} windows of {SIDE} x {SIDE}; each is a query"
    )
    return [(row * SIDE, column * SIDE) for row in range(down) for column in range(across)]


def _cut(whole: Mapping[str, Array], row: int, column: int) -> dict[str, Array]:
    out = {}
    for name, pixels in whole.items():
        factor, side = GROUP_OF[name].resolution // _BASE_METRES, GROUP_OF[name].size
        top, left = row // factor, column // factor
        out[name] = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    return out


def _complete(pixels: Array) -> bool:
    return bool(np.isfinite(pixels).all() if pixels.dtype.kind == "f" else pixels.all())


def _resized(pixels: Array, rows: int, columns: int, resolution: int) -> Array:
    """Band on its native grid of an area: unchanged, block means of a finer grid, or interpolated."""
    factor = resolution // _BASE_METRES
    shape = (-(-rows // factor), -(-columns // factor))
    if pixels.shape == shape:
        return pixels
    ratio = pixels.shape[0] // shape[0]
    height, width = (ratio * (side // ratio) for side in pixels.shape) if ratio else (0, 0)
    if ratio > 1 and pixels.shape == (rows, columns):
        blocks = pixels[:height, :width].reshape(height // ratio, ratio, width // ratio, ratio)
        means = blocks.mean(axis=(1, 3))
    else:
        places = [
            np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1) for n, m in zip(shape, pixels.shape, strict=True)
        ]
        means = _interpolated(pixels.astype(np.float64), *places)
    return (np.rint(means) if pixels.dtype.kind == "u" else means).astype(pixels.dtype)


def _interpolated(pixels: npt.NDArray[np.float64], y: Array, x: Array) -> npt.NDArray[np.float64]:
    """Bilinear values at rows ``y`` and columns ``x``."""
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    bottom, right = np.minimum(top + 1, pixels.shape[0] - 1), np.minimum(left + 1, pixels.shape[1] - 1)
    down, across = (y - top)[:, None], (x - left)[None]
    upper = pixels[np.ix_(top, left)] * (1 - across) + pixels[np.ix_(top, right)] * across
    lower = pixels[np.ix_(bottom, left)] * (1 - across) + pixels[np.ix_(bottom, right)] * across
    values: npt.NDArray[np.float64] = upper * (1 - down) + lower * down
    return values
