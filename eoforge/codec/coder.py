"""Facade of the codec: the loaded learned codecs and the bounded coder behind one interface.

The command line and the services use this module. The header of a stream selects its decoder, the rate its encoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from eoforge.codec.bounded import streams as bounded
from eoforge.codec.container import DIGEST_BYTES, LIMITS, Header, Kind, Limits, inspect
from eoforge.codec.learned.model import Codec
from eoforge.codec.learned.rate import pick_quality
from eoforge.codec.learned.streams import decompress_blocks, stored_codes, write
from eoforge.codec.raster import Raster
from eoforge.codec.slices import Stream
from eoforge.codec.tiles import Block, Source
from eoforge.errors import DataRefused, NotFound, UsageError

NAME_CHARS = 2 * DIGEST_BYTES
"""Length of a codec's name: the first hex digits of its bundle id."""
Codes = dict[str, npt.NDArray[np.uint8]]
"""Mapping modality -> packed codes ``[tiles, K/8]``."""


@dataclass(frozen=True)
class MaxError:
    """Maximum error of a sample: integer DN for Sentinel-2, dB for Sentinel-1; 0 is lossless."""

    s2: int = 0
    s1: float = 0.0


@dataclass(frozen=True)
class Rate:
    """Rate of a stream: at most one field is set; without any, the codec's middle quality is used.

    Attributes:
        quality: Quality step, 0 to the codec's highest.
        target_bpp: Bits per base pixel; the highest quality within them is chosen.
        target_psnr: PSNR in dB; the lowest quality that reaches it is chosen.
        max_error: Bound on the error of every sample, without a model.
    """

    quality: float | None = None
    target_bpp: float | None = None
    target_psnr: float | None = None
    max_error: MaxError | None = None

    def __post_init__(self) -> None:
        numbers = {
            n: getattr(self, n) for n in ("quality", "target_bpp", "target_psnr") if getattr(self, n) is not None
        }
        if len(numbers) + (self.max_error is not None) > 1:
            raise UsageError("quality, target_bpp, target_psnr and max_error exclude each other; give one of them")
        for name, value in numbers.items():
            if not math.isfinite(value) or value < 0:
                raise UsageError(f"{name} must be a number that is not negative; got {value}")
        if self.max_error is not None and not (
            0 <= self.max_error.s2 <= np.iinfo(np.uint16).max and 0 <= self.max_error.s1 < math.inf
        ):
            raise UsageError(f"max_error must not be negative, in DN at most 65,535; got {self.max_error}")

    @property
    def learned(self) -> bool:
        """Whether the rate needs a learned codec."""
        return self.max_error is None


def parse_max_error(text: str) -> MaxError:
    """Error bound from the text ``E`` (DN for Sentinel-2, dB for Sentinel-1) or ``DN,dB``.

    Raises:
        UsageError: The text has neither form.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(math.isfinite(n) and n >= 0 for n in numbers):
        raise UsageError(f"expected an error bound as E, or as DN,dB for rasters of both sensors; got {text!r}")
    return MaxError(int(numbers[0]), numbers[-1])


def parse_rate(quality: str, max_error: str) -> Rate:
    """Rate from the parameters of a pipeline, of which at most one is not empty.

    Raises:
        UsageError: Both are given, or one is not a number.
    """
    try:
        step = float(quality) if quality else None
    except ValueError:
        raise UsageError(f"quality must be a number; got {quality!r}") from None
    bound = parse_max_error(max_error) if max_error else None
    if bound is not None and bound.s1 > 0 and "," not in max_error:
        raise UsageError(f"a table holds both sensors, whose units differ: max_error is DN,dB, such as {max_error},0.5")
    return Rate(quality=step, max_error=bound)


class Coder:
    """Coder of all kinds of streams.

    Args:
        codecs: Learned codecs with integer tables and bundle id; the first is the default.
        limits: Upper limits for the headers of streams.
    """

    def __init__(self, codecs: Sequence[Codec] = (), limits: Limits = LIMITS) -> None:
        self.codecs: Mapping[str, Codec] = {codec.bundle_id[:NAME_CHARS]: codec for codec in codecs}
        self.limits = limits

    def named(self, name: str = "") -> Codec:
        """Codec by name (the first hex digits of its bundle id); the default if the name is empty.

        Raises:
            NotFound: No codec of that name, or no codec at all, is loaded.
        """
        if not self.codecs:
            raise NotFound("no codec is loaded, so only max_error is possible; name the bundle of a codec")
        if name and name not in self.codecs:
            raise NotFound(f"no codec {name[:NAME_CHARS]!r} is loaded; the loaded codecs are {', '.join(self.codecs)}")
        return self.codecs[name or next(iter(self.codecs))]

    def check(self, rate: Rate) -> None:
        """Check of a rate before any pixel is read.

        Raises:
            NotFound: It needs a codec, and none is loaded.
            UsageError: The codec has no such quality.
        """
        if rate.learned:
            codec = self.named()
            codec.config.require_quality(_quality(codec, rate))

    def reader(self, header: Header) -> Codec | None:
        """Codec that decodes a stream; None for a bounded stream.

        Raises:
            NotFound: The codec is not loaded.
        """
        return None if header.kind is Kind.BOUNDED else self.named(header.bundle)

    def compress(self, rasters: Sequence[Raster], rate: Rate, name: str = "") -> list[bytes]:
        """Compression of rasters to one stream each.

        Args:
            rasters: Rasters of any size and bands.
            rate: Rate of the streams.
            name: Name of the codec, if the rate needs one.

        Raises:
            NotFound: The codec is not loaded.
            UsageError: The rate cannot be met, or the codec lacks a band.
            DataRefused: Pixels are not finite.
        """
        if rate.max_error is not None:
            errors = {"s2": rate.max_error.s2, "s1": rate.max_error.s1}
            return [bounded.compress_bounded(raster, errors) for raster in rasters]
        codec = self.named(name)
        if rate.target_bpp is not None or rate.target_psnr is not None:
            return codec.compress(rasters, target_bpp=rate.target_bpp, target_psnr=rate.target_psnr)
        return codec.compress(rasters, _quality(codec, rate))

    def write(self, source: Source, rate: Rate, file: BinaryIO, name: str = "") -> Header:
        """Compression of a raster of any size into a file, tile by tile.

        Args:
            source: Raster, or another reader of windows.
            rate: Rate of the stream; ``target_bpp`` and ``target_psnr`` read the source several times.
            file: Empty file, open for reading and writing.
            name: Name of the codec, if the rate needs one.

        Raises:
            NotFound, UsageError, DataRefused: As for :meth:`compress`.
        """
        if rate.max_error is not None:
            return bounded.write_bounded(source, {"s2": rate.max_error.s2, "s1": rate.max_error.s1}, file)
        codec = self.named(name)
        if rate.target_bpp is None and rate.target_psnr is None:
            return write(codec, source, _quality(codec, rate), file)
        return write(codec, source, pick_quality(codec, source, rate.target_bpp, rate.target_psnr), file)

    def blocks(self, stream: Stream) -> Iterator[Block]:
        """Decompression of a stream of any kind, tile by tile.

        Raises:
            NotFound, DataRefused, LimitExceeded: As for :meth:`decompress`.
        """
        codec = self.reader(inspect(stream, self.limits))
        if codec is None:
            return bounded.decompress_blocks(stream, self.limits)
        return decompress_blocks(codec, stream, self.limits)

    def decompress(self, streams: Sequence[bytes]) -> list[Raster]:
        """Decompression of streams of any kinds.

        Raises:
            NotFound: A codec is not loaded.
            DataRefused: A stream is damaged, truncated or foreign.
            LimitExceeded: A stream claims more than the limits.
        """
        rasters: dict[int, Raster] = {}
        groups: dict[str, list[int]] = {}
        for i, stream in enumerate(streams):
            header = inspect(stream, self.limits)
            if self.reader(header) is None:
                rasters[i] = bounded.decompress([stream], self.limits)[0]
            else:
                groups.setdefault(header.bundle, []).append(i)
        for name, members in groups.items():
            decoded = self.named(name).decompress([streams[i] for i in members], self.limits)
            rasters.update(zip(members, decoded, strict=True))
        return [rasters[i] for i in range(len(streams))]

    def codes(self, stream: bytes) -> Codes:
        """Hash codes of a learned stream: computed from its latent, or the stored codes of a tiled stream.

        Raises:
            NotFound: The codec of the stream is not loaded.
            DataRefused: The stream is damaged, or bounded: such a stream has no latent.
            LimitExceeded: The stream claims more than the limits.
        """
        header = inspect(stream, self.limits)
        codec = self.reader(header)
        if codec is None:
            raise DataRefused("a bounded stream has no latent and so no code; compress with a codec to be searchable")
        if header.tile:
            return stored_codes(stream, self.limits)
        return {m: codec.hash_stream([stream], m, self.limits) for m in header.modalities}


def _quality(codec: Codec, rate: Rate) -> float:
    return float((codec.config.steps - 1) // 2) if rate.quality is None else rate.quality
