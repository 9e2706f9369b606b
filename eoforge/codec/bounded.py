"""Streams with a guaranteed bound: ``|x - x_hat| <= max_error`` for every sample, on every machine; 0 is lossless.

No network takes part. Bands are coded one after the other, each predicted from its own pixels and from bands before it
(``predictor``), the residual in steps of ``2 * max_error + 1`` by rANS. Everything a decoder does is whole-number
arithmetic, so that thread counts, batches and devices have nothing to change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from eoforge.codec import tiles
from eoforge.codec.bounded_piece import decode_piece, encode_piece
from eoforge.codec.container import LIMITS, Container, Header, Kind, Limits, pack, unpack
from eoforge.codec.planes import FIXED_BITS
from eoforge.codec.raster import Raster
from eoforge.data.bands import MODALITIES
from eoforge.errors import DataRefused, UsageError

_MAX_REFLECTANCE_ERROR = 32_767
_MAX_DECIBEL_ERROR = 100.0


def compress_bounded(
    source: tiles.Source,
    max_error: float | Mapping[str, float],
    *,
    tile: int | None = None,
) -> bytes:
    """The stream of a raster; large ones are cut into tiles, of which one at a time is in memory.

    Args:
        source: A raster, or anything that reads windows.
        max_error: Largest error of a sample: reflectance x 10,000 for Sentinel-2 (a fraction has no effect), dB for
            Sentinel-1. A raster with both sensors needs ``{"s2": ..., "s1": ...}``, unless it is 0.
        tile: Side of a tile in base pixels, a multiple of 6; 0 for none. By default large rasters are cut.

    Raises:
        UsageError: The bound is negative, not finite, too large, or ambiguous.
    """
    errors = _errors(source, max_error)
    side = tile if tile is not None else (tiles.TILE if tiles.is_tiled(source.shape) else 0)
    steps = {"s2": 2 * int(errors.get("s2", 0)) + 1, "s1": _decibel_step(errors.get("s1", 0.0))}
    payloads = [
        encode_piece(source.window(w.row, w.column, w.height, w.width), steps)
        for row in tiles.plan(source.shape, side, 0)
        for w in row
    ]
    header = Header(
        Kind.BOUNDED,
        tuple(source.bands),
        source.shape,
        source.patch_id,
        source.georeference,
        side,
        max_error=tuple(errors.items()),
    )
    return pack(header, tiles.join(payloads) if side else payloads[0])


def decompress(streams: Sequence[bytes], limits: Limits = LIMITS) -> list[Raster]:
    """Rasters of bounded streams.

    Raises:
        DataRefused: A stream is damaged, truncated, foreign, or a learned one.
        LimitExceeded: It claims more than ``limits``.
    """
    rasters = []
    for stream in streams:
        container = _open(stream, limits)
        head = container.header
        bands = tiles.assemble(head.bands, head.shape, _strips(container))
        rasters.append(Raster(bands, head.shape, head.georeference, head.patch_id))
    return rasters


def decompress_strips(stream: bytes, limits: Limits = LIMITS) -> Iterator[tuple[int, tiles.Pixels]]:
    """A raster in strips over its whole width, as (first base row, bands): memory for one row of tiles.

    Raises:
        DataRefused, LimitExceeded: As for :func:`decompress`.
    """
    yield from _strips(_open(stream, limits))


def _open(stream: bytes, limits: Limits) -> Container:
    container = unpack(stream, limits)
    if container.header.kind is not Kind.BOUNDED:
        raise DataRefused(
            f"this stream needs its codec (bundle {container.header.bundle or 'unknown'}): "
            "load the bundle and decompress with it"
        )
    return container


def _strips(container: Container) -> Iterator[tuple[int, tiles.Pixels]]:
    head = container.header
    rows = tiles.plan(head.shape, head.tile, head.overlap)
    payloads = iter(tiles.split(container.payload, sum(map(len, rows))) if head.tile else [container.payload])

    def decoded(row: Sequence[tiles.Window]) -> Iterator[tiles.Pixels]:
        for window in row:
            yield decode_piece(next(payloads), head.bands, (window.height, window.width))

    yield from tiles.strips(((row, decoded(row)) for row in rows), head.shape, head.tile, head.overlap)


def _errors(source: tiles.Source, max_error: float | Mapping[str, float]) -> dict[str, float]:
    """The bound of each sensor that the source holds."""
    present = tuple(m for m, names in MODALITIES.items() if set(names) & set(source.bands))
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
        most = _MAX_REFLECTANCE_ERROR if modality == "s2" else _MAX_DECIBEL_ERROR
        if not 0 <= error <= most:
            raise UsageError(f"max_error of {modality} must be a number from 0 to {most}; got {error}")
    return errors


def _decibel_step(error: float) -> int:
    """Quantisation step in 2^-16 dB; cutting to the plane costs less than one unit of the bound. 1 is lossless."""
    units = math.floor(error * (1 << FIXED_BITS)) - 1
    return 2 * units + 1 if units > 1 else 1
