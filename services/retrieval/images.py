"""Query images: from bytes of strangers to checked arrays on native grids. Sizes are checked before memory is taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.codec.geotiff import GeoTiff, open_raster
from eoforge.codec.raster import averaged
from eoforge.data.backscatter import require_decibels
from eoforge.data.bands import GROUP_OF, GROUPS, MODALITIES, S2_10M, canonical_band, require_modality
from eoforge.errors import DataRefused, LimitExceeded, UsageError
from eoforge.geo.gdal import MAX_BANDS

if TYPE_CHECKING:
    from eoforge.data.loading.batch import PatchBatch

FULL_SIDE = S2_10M.size
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Raster:
    """One sensor's image of a patch: column of ``patches.lance`` -> ``[C, H, W]`` on its native grid."""

    modality: str
    columns: Mapping[str, Array]


def from_bands(message: pb.BandImage, modality: str, needed: Sequence[str]) -> Raster:
    """An image given as arrays.

    Args:
        message: The image.
        modality: Its sensor.
        needed: Bands that the encoder reads.

    Raises:
        UsageError: A band is missing, unknown or not of a patch's size.
        LimitExceeded: There are too many bands.
        DataRefused: Pixels carry no data.
    """
    if len(message.bands) > MAX_BANDS:
        raise LimitExceeded(f"an image may have {MAX_BANDS} bands; this one has {len(message.bands)}")
    return assemble(((b.name, _samples(b, modality)) for b in message.bands), modality, needed)


def from_geotiff(message: pb.GeoTiffImage, modality: str, needed: Sequence[str], max_bytes: int) -> Raster:
    """An image given as GeoTIFF files.

    Raises:
        UsageError: A band is missing, unnamed or not of a patch's size.
        LimitExceeded: There are too many files, bands or bytes.
        DataRefused: A file is no readable GeoTIFF, or pixels carry no data.
    """
    size = sum(len(f.content) for f in message.files)
    if size > max_bytes:
        raise LimitExceeded(f"the files of an image may have {max_bytes} bytes; these have {size}")
    files = [GeoTiff(f.content, tuple(canonical_band(name) or name for name in f.bands)) for f in message.files]
    with open_raster(files, max_pixels=FULL_SIDE**2, shape=(FULL_SIDE, FULL_SIDE)) as source:
        return assemble(source.given(), modality, needed)


def assemble(bands: Iterable[tuple[str, Array]], modality: str, needed: Sequence[str]) -> Raster:
    """Puts bands ``[H, W]`` into the tensors of their groups; bands that nobody asks for stay zero.

    A 20 m or 60 m band given as 120 x 120 is averaged back to its native grid, which undoes nearest-neighbour
    resampling exactly.

    Raises:
        UsageError: A needed band is missing, or a band is named twice.
        DataRefused: A needed band holds NaN or infinity (radar) or 0, which means no data (optical), or is not in dB.
    """
    known = MODALITIES[require_modality(modality)]
    columns = empty_columns(known)
    found = set()
    for name, samples in bands:
        if name in GROUP_OF and name not in known:
            other = next(m for m, names in MODALITIES.items() if name in names)
            raise UsageError(f"the image is of {other} (band {name}), and the request says {modality}")
        if name not in known:
            raise UsageError(f"bands of {modality} are {', '.join(known)}; got {name!r}")
        if name in found:
            raise UsageError(f"band {name} is given twice")
        found.add(name)
        group = GROUP_OF[name]
        columns[group.column][group.bands.index(name)] = _to_native(samples, group.size)
        if name in needed and not (np.isfinite(samples).all() if modality == "s1" else samples.all()):
            raise DataRefused(f"band {name} has pixels without data; queries need a complete patch")
        if name in needed and modality == "s1":
            require_decibels(samples, f"band {name}")
    missing = [b for b in needed if b not in found]
    if missing:
        raise UsageError(f"the index needs the {modality} bands {', '.join(needed)}; missing: {', '.join(missing)}")
    return Raster(modality, columns)


def empty_columns(bands: Sequence[str]) -> dict[str, Array]:
    """Zeros ``[C, H, W]`` for every column that holds one of ``bands``."""
    return {g.column: np.zeros(g.shape, dtype=g.dtype) for g in GROUPS if set(g.bands) & set(bands)}


def batch_of(rasters: Sequence[Raster]) -> PatchBatch:
    """Rasters of one modality as the batch that encoders take."""
    import torch

    from eoforge.data.loading.batch import PatchBatch

    columns: dict[str, Any] = {group.column: None for group in GROUPS}
    for column in rasters[0].columns:
        columns[column] = torch.from_numpy(np.stack([r.columns[column] for r in rasters]))
    return PatchBatch(
        patch_id=[""] * len(rasters),
        label_mask=torch.zeros(len(rasters), dtype=torch.int64),
        reference_map=None,
        **columns,
    )


def _samples(band: pb.Band, modality: str) -> Array:
    dtype = np.dtype("<f4" if modality == "s1" else "<u2")
    _check_side(band.name, band.height, band.width)
    if len(band.samples) != band.height * band.width * dtype.itemsize:
        raise UsageError(
            f"band {band.name} of {band.height} x {band.width} needs {band.height * band.width * dtype.itemsize} bytes "
            f"of {dtype.name}; got {len(band.samples)}"
        )
    return np.frombuffer(band.samples, dtype=dtype).reshape(band.height, band.width)


def _check_side(name: str, height: int, width: int) -> None:
    allowed = sorted({GROUP_OF[name].size, FULL_SIDE}) if name in GROUP_OF else [FULL_SIDE]
    if height != width or height not in allowed:
        sides = " or ".join(f"{s} x {s}" for s in allowed)
        raise UsageError(f"band {name or '(unnamed)'} must be {sides} pixels; got {height} x {width}")


def _to_native(samples: Array, side: int) -> Array:
    return samples if len(samples) == side else averaged(samples, len(samples) // side)
