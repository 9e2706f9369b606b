"""Between messages and the codec: rasters of strangers become checked arrays, headers and codes become messages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.api.compression.v1 import compression_pb2 as pb
from eoforge.codec.coder import Codes, MaxError, Rate
from eoforge.codec.cog import write_cogs
from eoforge.codec.container import Header, Kind
from eoforge.codec.geotiff import GeoTiff, open_raster
from eoforge.codec.raster import Georeference, Raster, factor_of
from eoforge.data.bands import GROUP_OF
from eoforge.data.modalities import COMPRESSION_MODALITIES
from eoforge.errors import DataRefused, LimitExceeded, UsageError
from eoforge.geo.crs import parse_crs
from eoforge.geo.gdal import MAX_BANDS
from services.compression.marks import band_marks, lost_in_arrays, profile_of

MAX_NAME_CHARS = 128
KINDS = {Kind.LEARNED: pb.STREAM_KIND_LEARNED, Kind.BOUNDED: pb.STREAM_KIND_BOUNDED}
Array = npt.NDArray[Any]


def raster_of(message: pb.Raster, max_pixels: int, max_bytes: int, *, exact: bool) -> tuple[Raster, tuple[str, ...]]:
    """The raster of a message, and what its files hold that a stream does not keep.

    Args:
        message: The raster.
        max_pixels: Most pixels of the 10 m grid.
        max_bytes: Most bytes of samples or files.
        exact: Whether its errors are to be bounded, so that no average may replace given pixels.

    Raises:
        UsageError: It holds nothing, or bands are unknown, given twice or of the wrong size.
        LimitExceeded: It is too large.
        DataRefused: A file is no readable GeoTIFF, or grids do not belong together.
    """
    kind = message.WhichOneof("source")
    if kind is None:
        raise UsageError("a raster needs bands or geotiff; got neither")
    given: Any = getattr(message, kind)
    if len(given.patch_id) > MAX_NAME_CHARS:
        raise LimitExceeded(f"patch_id may have {MAX_NAME_CHARS} characters")
    size = sum(len(f.content) for f in given.files) if kind == "geotiff" else sum(len(b.samples) for b in given.bands)
    if size > max_bytes:
        raise LimitExceeded(f"a raster may have {max_bytes} bytes; this one has {size}")
    if kind == "geotiff":
        files = [GeoTiff(f.content, tuple(f.bands)) for f in given.files]
        with open_raster(files, given.patch_id, max_pixels=max_pixels, exact=exact) as source:
            return source.window(0, 0, *source.shape), source.warnings
    if not 1 <= len(given.bands) <= MAX_BANDS:
        raise LimitExceeded(f"a raster has 1 to {MAX_BANDS} bands; this one has {len(given.bands)}")
    bands: dict[str, Array] = {}
    for band in given.bands:
        if band.name in bands:
            raise UsageError(f"band {band.name} is given twice")
        bands[band.name] = _samples(band, max_pixels)
    profile, masks = profile_of(given.bands)
    return Raster(bands, (0, 0), _georeference(given), given.patch_id, profile, masks), ()


def raster_message(raster: Raster, pixel_format: int, message: pb.Raster | None = None) -> tuple[pb.Raster, list[str]]:
    """A raster in the form that was asked for, and what that form cannot hold.

    Args:
        raster: The raster.
        pixel_format: Form of the pixels.
        message: What is filled, such as a part of a response; a message of its own would be copied into that.

    Raises:
        UsageError: There is no such form.
    """
    message = pb.Raster() if message is None else message
    if pixel_format == pb.PIXEL_FORMAT_GEOTIFF:
        message.geotiff.patch_id = raster.patch_id
        for content in write_cogs(raster).values():
            message.geotiff.files.add(content=content)
        return message, []
    if pixel_format not in (pb.PIXEL_FORMAT_UNSPECIFIED, pb.PIXEL_FORMAT_BANDS):
        raise UsageError(f"format must be PIXEL_FORMAT_BANDS or PIXEL_FORMAT_GEOTIFF; got {pixel_format}")
    message.bands.patch_id = raster.patch_id
    marks = band_marks(raster)
    for name, samples in raster.bands.items():
        height, width = samples.shape
        little = np.ascontiguousarray(samples, dtype=_wire_type(name))
        message.bands.bands.add(name=name, height=height, width=width, samples=little.tobytes(), **marks[name])
    if raster.georeference is not None:
        message.bands.georeference.CopyFrom(_georeference_message(raster.georeference))
    return message, lost_in_arrays(raster.profile)


def rate_of(message: pb.Rate) -> Rate:
    """A rate from its message.

    Raises:
        UsageError: A number is negative or not finite.
    """
    kind = message.WhichOneof("target")
    if kind is None:
        return Rate()
    if kind == "max_error":
        return Rate(max_error=MaxError(message.max_error.s2, message.max_error.s1))
    names = {"quality": "quality", "bits_per_pixel": "target_bpp", "psnr": "target_psnr"}
    return Rate(**{names[kind]: getattr(message, kind)})


def info_message(header: Header, stream_bytes: int) -> pb.StreamInfo:
    """A header as a message."""
    errors = dict(header.max_error)
    message = pb.StreamInfo(
        kind=KINDS[header.kind],
        bands=header.bands,
        height=header.shape[0],
        width=header.shape[1],
        patch_id=header.patch_id,
        tile=header.tile,
        overlap=header.overlap,
        quality=0.0 if math.isnan(header.quality) else header.quality,
        codec=header.bundle,
        code_bits=8 * header.code_bytes,
        codes=header.codes,
        stream_bytes=stream_bytes,
        bits_per_pixel=8 * stream_bytes / math.prod(header.shape),
        bits_per_sample=8 * stream_bytes / header.samples,
    )
    if header.georeference is not None:
        message.georeference.CopyFrom(_georeference_message(header.georeference))
    if header.kind is Kind.BOUNDED:
        message.max_error.CopyFrom(pb.MaxError(s2=int(errors.get("s2", 0)), s1=errors.get("s1", 0.0)))
    return message


def code_messages(codes: Codes) -> list[pb.Code]:
    """Codes as messages, sensor by sensor."""
    return [
        pb.Code(modality=COMPRESSION_MODALITIES[modality], code=code.tobytes(), tile=tile)
        for modality, rows in codes.items()
        for tile, code in enumerate(rows)
    ]


def _samples(band: pb.Band, max_pixels: int) -> Array:
    factor = factor_of(band.name)
    dtype = np.dtype(_wire_type(band.name))
    pixels = band.height * band.width
    if not pixels or pixels * factor * factor > max_pixels:
        raise LimitExceeded(
            f"band {band.name} may have 1 to {max_pixels // factor**2} pixels; got {band.height} x {band.width}"
        )
    if len(band.samples) != pixels * dtype.itemsize:
        raise UsageError(
            f"band {band.name} of {band.height} x {band.width} needs {pixels * dtype.itemsize} bytes of {dtype.name}; "
            f"got {len(band.samples)}"
        )
    return np.frombuffer(band.samples, dtype=dtype).reshape(band.height, band.width)


def _georeference(message: pb.BandRaster) -> Georeference | None:
    if not message.HasField("georeference"):
        return None
    place = message.georeference
    if len(place.transform) != 6 or not all(map(math.isfinite, place.transform)):
        raise DataRefused(f"a georeference has six finite numbers; got {list(place.transform)[:7]}")
    if place.crs:
        parse_crs(place.crs)  # a stream with a CRS that nobody can read is not made
    a, b, c, d, e, f = place.transform
    return Georeference(place.crs, (a, b, c, d, e, f))


def _georeference_message(place: Georeference) -> pb.Georeference:
    return pb.Georeference(crs=place.crs, transform=place.transform)


def _wire_type(band: str) -> str:
    return "<f4" if GROUP_OF[band].dtype == "float32" else "<u2"
