"""Marks of pixels in messages: nodata, scale, offset and mask of a band given as an array."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from eoforge.api.compression.v1 import compression_pb2 as pb
from eoforge.codec.metadata import combine
from eoforge.codec.profile import BandProfile, GridProfile, Profile
from eoforge.codec.raster import Masks, Raster, factor_of
from eoforge.data.bands import GROUP_OF
from eoforge.errors import DataRefused, UsageError

_IMPLIED_TAGS = {"AREA_OR_POINT"}


def profile_of(bands: Iterable[pb.Band]) -> tuple[Profile | None, Masks]:
    """Profile and masks of bands, whose names and sizes were checked; no profile if none is marked.

    Raises:
        UsageError: A mask has another size than its band.
        DataRefused: Bands of one grid differ in nodata value or mask.
    """
    marked = [band for band in bands if _is_marked(band)]
    if not marked:
        return None, {}
    masks: dict[str, Any] = {}
    files = []
    for band in bands:
        profile = BandProfile(band.scale if band.HasField("scale") else 1.0, band.offset)
        nodata = band.nodata if band.HasField("nodata") else None
        files.append((GridProfile({band.name: profile}, nodata, bool(band.valid)), factor_of(band.name)))
        if not band.valid:
            continue
        samples = band.height * band.width
        if len(band.valid) != -(-samples // 8):
            raise UsageError(
                f"the mask of {band.name} of {band.height} x {band.width} samples needs {-(-samples // 8)} bytes; got "
                f"{len(band.valid)}"
            )
        bits = np.unpackbits(np.frombuffer(band.valid, dtype=np.uint8), count=samples)
        mask = bits.reshape(band.height, band.width).astype(bool)
        if not np.array_equal(masks.setdefault(GROUP_OF[band.name].column, mask), mask):
            raise DataRefused(f"the mask of {band.name} differs from that of another band of its grid")
    return combine(files), masks


def band_marks(raster: Raster) -> dict[str, dict[str, Any]]:
    """Fields of the ``Band`` message of each band beside its samples."""
    found: dict[str, dict[str, Any]] = {band: {} for band in raster.bands}
    if raster.profile is None:
        return found
    for name, fields in found.items():
        grid = GROUP_OF[name].column
        band = raster.profile.grids[grid].bands[name]
        nodata = raster.profile.nodata_of(name)
        if nodata is not None:
            fields["nodata"] = float(nodata)
        if (band.scale, band.offset) != (1.0, 0.0):
            fields |= {"scale": band.scale, "offset": band.offset}
        if grid in raster.masks:
            fields["valid"] = np.packbits(raster.masks[grid]).tobytes()
    return found


def lost_in_arrays(profile: Profile | None) -> list[str]:
    """What a profile holds that arrays cannot, by name."""
    lost = []
    for grid, part in (profile.grids if profile else {}).items():
        tags = set(part.tags).union(*(band.tags for band in part.bands.values())) - _IMPLIED_TAGS
        what = [f"tags {', '.join(sorted(tags))}"] if tags else []
        what += ["ground control points"] if part.points else []
        what += ["RPCs"] if part.rpcs else []
        what += [f"{n} of {b}" for b, p in part.bands.items() for n in ("unit", "description") if getattr(p, n)]
        if what:
            lost.append(f"{grid}: {'; '.join(what)}; PIXEL_FORMAT_GEOTIFF has them")
    return lost


def _is_marked(band: pb.Band) -> bool:
    return bool(band.valid) or any(band.HasField(name) for name in ("nodata", "scale", "offset"))
