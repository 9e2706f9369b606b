"""Bounded streams: ``|x - x_hat| <= max_error`` for every sample, on every machine; 0 is lossless.

No neural network is used. Bands are coded one after the other, each predicted from its own pixels and from earlier
bands (``predictor``), the residual in steps of ``2 * max_error + 1`` by rANS. A decoder uses integer arithmetic only;
its result does not depend on thread count, batch or device.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from eoforge.codec import tiles, validity
from eoforge.codec.bounded.piece import decode_piece, encode_piece
from eoforge.codec.bounded.planes import FIXED_BITS
from eoforge.codec.container import LIMITS, Header, Kind, Limits, inspect, unpack
from eoforge.codec.raster import Raster, modalities_of
from eoforge.codec.slices import Stream
from eoforge.codec.writer import StreamWriter
from eoforge.errors import DataRefused, UsageError

_MAX_REFLECTANCE_ERROR = 32_767
_MAX_DECIBEL_ERROR = 100.0


def compress_bounded(source: tiles.Source, max_error: float | Mapping[str, float], *, tile: int | None = None) -> bytes:
    """Stream of a raster as bytes; see :func:`write_bounded`."""
    with io.BytesIO() as file:
        write_bounded(source, max_error, file, tile=tile)
        return file.getvalue()


def write_bounded(
    source: tiles.Source, max_error: float | Mapping[str, float], file: BinaryIO, *, tile: int | None = None
) -> Header:
    """Compression of a raster into a file; large rasters are tiled, with one tile in memory at a time.

    Args:
        source: Raster, or another reader of windows.
        max_error: Maximum error of a sample: reflectance x 10,000 for Sentinel-2 (a fraction has no effect), dB for
            Sentinel-1. A raster with both sensors needs ``{"s2": ..., "s1": ...}``, unless it is 0.
        file: Empty file, open for reading and writing.
        tile: Side of a tile in base pixels, a multiple of 6; 0 for no tiles. By default large rasters are tiled.

    Raises:
        UsageError: The bound is negative, not finite, too large, or ambiguous.
    """
    errors = _errors(source, max_error)
    side = tile if tile is not None else tiles.TILE * tiles.is_tiled(source.shape)
    steps = {"s2": 2 * int(errors.get("s2", 0)) + 1, "s1": _decibel_step(errors.get("s1", 0.0))}
    header = Header(
        Kind.BOUNDED,
        tuple(source.bands),
        source.shape,
        source.patch_id,
        source.georeference,
        side,
        max_error=tuple(errors.items()),
        profile=source.profile,
    )
    writer = StreamWriter(file, header)
    for w in tiles.plan(source.shape, side, 0):
        raster, section = validity.cover(header, source.window(w.row, w.column, w.height, w.width))
        writer.add(section + encode_piece(raster, steps))
    return writer.finish()


def decompress(streams: Sequence[Stream], limits: Limits = LIMITS) -> list[Raster]:
    """Decompression of bounded streams.

    Raises:
        DataRefused: A stream is damaged, truncated, foreign, or learned.
        LimitExceeded: A stream claims more than ``limits``.
    """
    rasters = []
    for stream in streams:
        head = inspect(stream, limits)
        bands, masks = tiles.assemble_masked(head.bands, head.shape, decompress_blocks(stream, limits))
        rasters.append(Raster(bands, head.shape, head.georeference, head.patch_id, head.profile, masks))
    return rasters


def decompress_blocks(stream: Stream, limits: Limits = LIMITS) -> Iterator[tiles.Block]:
    """Decompression of a stream tile by tile, with one tile in memory at a time.

    Raises:
        DataRefused, LimitExceeded: As for :func:`decompress`.
    """
    container = unpack(stream, limits)
    head = container.header
    if head.kind is not Kind.BOUNDED:
        raise DataRefused(
            f"this stream needs its codec (bundle {head.bundle or 'unknown'}): load the bundle and decompress with it"
        )
    windows = tiles.plan(head.shape, head.tile, head.overlap)
    payloads = tiles.split(container.payload, len(windows)) if head.tile else [container.payload]
    decoded = (
        (window, section, decode_piece(piece, head.bands, (window.height, window.width)))
        for window, payload in zip(windows, payloads, strict=True)
        for section, piece in [validity.part(head, payload)]
    )
    yield from validity.blocks(head, decoded)


def _errors(source: tiles.Source, max_error: float | Mapping[str, float]) -> dict[str, float]:
    """Error bound of each sensor of the source."""
    present = modalities_of(source.bands)
    if isinstance(max_error, Mapping):
        errors = {modality: float(max_error.get(modality, 0.0)) for modality in present}
    elif len(present) == 1 or max_error == 0:
        errors = dict.fromkeys(present, float(max_error))
    else:
        raise UsageError(
            f"the raster holds both sensors, whose units differ: give max_error as {{'s2': ..., 's1': ...}} "
            f"(reflectance x 10,000 and dB); got {max_error}"
        )
    for modality, error in errors.items():
        limit = _MAX_REFLECTANCE_ERROR if modality == "s2" else _MAX_DECIBEL_ERROR
        if not 0 <= error <= limit:
            raise UsageError(f"max_error of {modality} must be a number from 0 to {limit}; got {error}")
    return errors


def _decibel_step(error: float) -> int:
    """Quantisation step in 2^-16 dB, 1 for lossless; rounding to the plane uses less than one unit of the bound."""
    units = math.floor(error * (1 << FIXED_BITS)) - 1
    return 2 * units + 1 if units > 1 else 1
