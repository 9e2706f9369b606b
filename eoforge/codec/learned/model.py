"""Learned codec: any bands of Sentinel-1 and Sentinel-2 to streams with the same decoded pixels on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from eoforge.codec.container import LIMITS, Limits
from eoforge.codec.learned import streams as streams_of
from eoforge.codec.learned.network import CodecNetwork
from eoforge.codec.learned.rate import pick_quality
from eoforge.codec.raster import Raster
from eoforge.codec.slices import Stream
from eoforge.errors import UsageError


class Codec(CodecNetwork):
    """Codec network with streams: ``compress``, ``decompress`` and ``hash_stream``; see :class:`CodecNetwork`."""

    def compress(
        self,
        rasters: Sequence[Raster],
        quality: float | None = None,
        *,
        target_bpp: float | None = None,
        target_psnr: float | None = None,
    ) -> list[bytes]:
        """Compression of rasters of any sensors to one stream each.

        Args:
            rasters: Any sizes and any bands of this codec; large rasters are cut into tiles.
            quality: 0 to ``steps - 1``; multiples of 1/16 count.
            target_bpp: Bits per base pixel; the highest quality whose stream has at most as many is chosen.
            target_psnr: PSNR in dB (see ``rate.psnr``); the lowest quality that reaches it is chosen.

        Raises:
            UsageError: Not exactly one of the three is given, a target cannot be met, bands are not the codec's, or
                ``update`` was not called.
            DataRefused: A radar pixel is not finite.
        """
        if sum(value is not None for value in (quality, target_bpp, target_psnr)) != 1:
            raise UsageError("give exactly one of quality, target_bpp and target_psnr")
        if quality is not None:
            return streams_of.compress(self, rasters, self.config.require_quality(quality))
        chosen = (pick_quality(self, raster, target_bpp, target_psnr) for raster in rasters)
        return [self.compress([raster], q)[0] for raster, q in zip(rasters, chosen, strict=True)]

    def decompress(self, streams: Sequence[Stream], limits: Limits = LIMITS) -> list[Raster]:
        """Decompression of streams of this codec; ``streams.decompress_blocks`` needs less memory for large rasters.

        Raises:
            DataRefused: A stream is damaged, truncated, foreign, or of another kind.
            BundleError: A stream was made with another bundle.
            LimitExceeded: A stream claims more than ``limits``.
            UsageError: ``update`` was not called, or the codec lacks a band.
        """
        return streams_of.decompress(self, streams, limits)

    def hash_stream(
        self, streams: Sequence[Stream], modality: str | None = None, limits: Limits = LIMITS
    ) -> npt.NDArray[np.uint8]:
        """Hash codes uint8 ``[B, K / 8]`` computed from the latents in the streams, without decoding pixels.

        The codes equal those stored in the streams (``streams.stored_codes``), bit for bit, on every machine.

        Args:
            streams: Streams of one piece each.
            modality: Sensor of the codes where a stream holds both; by default ``s2``.
            limits: Upper limits of the header.

        Raises:
            DataRefused, BundleError, LimitExceeded, UsageError: As for :meth:`decompress`.
        """
        return streams_of.hash_stream(self, streams, modality, limits)
