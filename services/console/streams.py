"""Streams of a patch and their quality: size, rate, bound, and the error that is seen, from the table of streams."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eoforge.client import Patch
from eoforge.data.tables.schema import sql_list
from eoforge.errors import StoreError

if TYPE_CHECKING:
    import lance

MAX_STREAM_BYTES = 4 << 20


@dataclass(frozen=True)
class StreamRow:
    """Stream of one sensor's image.

    Attributes:
        sensor: ``s1`` or ``s2``.
        kind: ``learned`` or ``bounded``.
        bands: Names of its bands.
        size: Bytes.
        ratio: Bytes of the pixels to bytes of the stream.
        rate: Bits per pixel of 10 m.
        promise: What the stream promises: a quality step or a bound on the error of every sample.
        worst: Largest error of a sample against the archive's pixels; None where it was not decoded here.
        psnr: PSNR in dB over the same samples, peak as in the codec's report; None where not decoded, inf if lossless.
    """

    sensor: str
    kind: str
    bands: tuple[str, ...]
    size: int
    ratio: float
    rate: float
    promise: str
    worst: float | None
    psnr: float | None


def streams_of(table: lance.LanceDataset, patch: Patch) -> list[StreamRow]:
    """Streams of a patch. Bounded ones are decoded and compared; learned ones need their codec, which is not here.

    Args:
        table: Table of streams.
        patch: The patch, with pixels.

    Raises:
        StoreError: The table cannot be read.
        DataRefused: A stream is damaged.
    """
    where = f"patch_id IN ({sql_list([patch.info.patch_id])})"
    try:
        rows = table.to_table(columns=["modality", "stream"], filter=where).to_pylist()
    except (OSError, RuntimeError, ValueError) as error:  # Lance has no errors of its own
        raise StoreError(f"cannot read the streams: {error}") from error
    return [_row(row["modality"], row["stream"], patch) for row in sorted(rows, key=lambda row: row["modality"])]


def _row(sensor: str, stream: bytes, patch: Patch) -> StreamRow:
    from eoforge.codec.container import Kind, inspect

    header = inspect(stream)
    bounded = header.kind is Kind.BOUNDED
    promise = f"quality {header.quality:g}"
    if bounded:
        bounds = dict(header.max_error)
        unit = "dB" if sensor == "s1" else "DN"
        promise = "lossless" if not bounds.get(sensor) else f"no sample off by more than {bounds[sensor]:g} {unit}"
    held = [band for band in header.bands if band in patch.bands]
    raw = sum(patch.bands[band].nbytes for band in held)
    worst = psnr = None
    if bounded and held and len(stream) <= MAX_STREAM_BYTES:
        worst, psnr = _compared(stream, patch, held)
    return StreamRow(
        sensor=sensor,
        kind=header.kind.name.lower(),
        bands=tuple(header.bands),
        size=len(stream),
        ratio=raw / len(stream),
        rate=8 * len(stream) / math.prod(header.shape),
        promise=promise,
        worst=worst,
        psnr=psnr,
    )


def _compared(stream: bytes, patch: Patch, bands: list[str]) -> tuple[float, float]:
    """Largest error, and PSNR, of a bounded stream."""
    from eoforge.codec.bounded.streams import decompress
    from eoforge.codec.learned.rate import psnr
    from eoforge.codec.raster import Raster

    (decoded,) = decompress([stream])
    original = Raster({band: patch.bands[band] for band in bands}, decoded.shape)
    errors = [
        float(np.max(np.abs(original.bands[b].astype(np.float64) - decoded.bands[b].astype(np.float64)))) for b in bands
    ]
    return max(errors), psnr(original, decoded)
