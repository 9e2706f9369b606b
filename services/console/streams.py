"""Streams of a patch and their quality: size, rate, promise, and the error that is seen, from the table of streams."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eoforge.client import Patch
from eoforge.data.tables.schema import sql_list
from eoforge.errors import EoforgeError, NotFound, StoreError

if TYPE_CHECKING:
    import lance

MAX_STREAM_BYTES = 4 << 20
Bands = Mapping[str, npt.NDArray[Any]]
Decoder = Callable[[bytes], Bands]
"""Decoder of a learned stream: the compression service, which has its codec."""


@dataclass(frozen=True)
class StreamRow:
    """Stream of one sensor's image.

    Attributes:
        sensor: ``s1`` or ``s2``.
        kind: ``learned`` or ``bounded``.
        bands: Names of its bands.
        codec: First digits of the id of the bundle that decodes it; empty for a bounded stream.
        size: Bytes.
        ratio: Bytes of the pixels to bytes of the stream.
        rate: Bits per pixel of 10 m.
        promise: What the stream promises: a quality step or a bound on the error of every sample.
        worst: Largest error of a sample against the archive's pixels; None where it is not known.
        psnr: PSNR in dB over the same samples, peak as in the codec's report; None where not known, inf if lossless.
        note: Why the quality is not known, or empty.
    """

    sensor: str
    kind: str
    bands: tuple[str, ...]
    codec: str
    size: int
    ratio: float
    rate: float
    promise: str
    worst: float | None = None
    psnr: float | None = None
    note: str = ""


def streams_of(table: lance.LanceDataset, patch: Patch, decode: Decoder | None = None) -> list[StreamRow]:
    """Streams of a patch, decoded and compared with its pixels.

    Args:
        table: Table of streams.
        patch: The patch, with pixels.
        decode: Decoder of learned streams; bounded ones need none.

    Raises:
        StoreError: The table cannot be read.
        DataRefused: A stream is damaged.
    """
    where = f"patch_id IN ({sql_list([patch.info.patch_id])})"
    try:
        rows = table.to_table(columns=["modality", "stream"], filter=where).to_pylist()
    except (OSError, RuntimeError, ValueError) as error:  # Lance has no errors of its own
        raise StoreError(f"cannot read the streams: {error}") from error
    return [_row(row["modality"], row["stream"], patch, decode) for row in sorted(rows, key=lambda r: r["modality"])]


def _row(sensor: str, stream: bytes, patch: Patch, decode: Decoder | None) -> StreamRow:
    from eoforge.codec.container import Kind, inspect

    header = inspect(stream)
    bounded = header.kind is Kind.BOUNDED
    promise = f"quality {header.quality:g}"
    if bounded:
        bounds = dict(header.max_error)
        unit = "dB" if sensor == "s1" else "DN"
        promise = "lossless" if not bounds.get(sensor) else f"no sample off by more than {bounds[sensor]:g} {unit}"
    held = [band for band in header.bands if band in patch.bands]
    worst = psnr = None
    note = "too large to be decoded for a page"
    if held and len(stream) <= MAX_STREAM_BYTES:
        decoded, note = (_bounded(stream), "") if bounded else _learned(stream, decode)
        if decoded is not None:
            worst, psnr = _compared(decoded, patch, held, header.shape)
        if not bounded and psnr == math.inf:
            worst, psnr, note = None, None, "the archive holds no other pixels than those of this stream"
    return StreamRow(
        sensor=sensor,
        kind=header.kind.name.lower(),
        bands=tuple(header.bands),
        codec=header.bundle,
        size=len(stream),
        ratio=sum(patch.bands[band].nbytes for band in held) / len(stream),
        rate=8 * len(stream) / math.prod(header.shape),
        promise=promise,
        worst=worst,
        psnr=psnr,
        note=note,
    )


def _bounded(stream: bytes) -> Bands:
    from eoforge.codec.bounded.streams import decompress

    (decoded,) = decompress([stream])
    return decoded.bands


def _learned(stream: bytes, decode: Decoder | None) -> tuple[Bands | None, str]:
    """Pixels of a learned stream, or why there are none."""
    if decode is None:
        return None, "this console was given no compression service"
    try:
        return decode(stream), ""
    except NotFound:
        return None, "its codec is not served"
    except EoforgeError:
        return None, "the compression service could not decode it at the moment"


def _compared(decoded: Bands, patch: Patch, bands: list[str], shape: tuple[int, int]) -> tuple[float, float]:
    """Largest error, and PSNR, of decoded bands."""
    from eoforge.codec.learned.rate import psnr
    from eoforge.codec.raster import Raster

    original = Raster({band: patch.bands[band] for band in bands}, shape)
    pairs = ((patch.bands[band].astype(np.float64), decoded[band].astype(np.float64)) for band in bands)
    worst = max(float(np.max(np.abs(before - after))) for before, after in pairs)
    return worst, psnr(original, Raster({band: decoded[band] for band in bands}, shape))
