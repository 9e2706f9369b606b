"""Served codecs, loaded once at the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import structlog

from eoforge.bundle import load_bundle
from eoforge.codec.coder import Coder
from eoforge.codec.container import Limits
from eoforge.codec.learned.model import Codec
from eoforge.codec.raster import Raster, factor_of
from eoforge.data.bands import GROUP_OF
from eoforge.methods.rs_jcif.method import load_codec
from services.compression.settings import CompressionSettings

WARM_PIXELS = 120
log = structlog.get_logger("codecs")


@dataclass(frozen=True)
class Codecs:
    """Coder with the served codecs, and the methods that trained them by bundle id."""

    coder: Coder
    methods: Mapping[str, str]


def load(settings: CompressionSettings) -> Codecs:
    """Codecs of the settings, each warmed up with one patch, because the first call of a model is by far its slowest.

    Raises:
        NotFound: A bundle does not exist.
        BundleError: A bundle is damaged, or holds no codec.
    """
    limits = Limits(
        max_pixels=settings.max_pixels,
        max_tile_pixels=settings.max_pixels,
        max_payload_bytes=settings.max_stream_bytes,
    )
    codecs: list[Codec] = []
    methods: dict[str, str] = {}
    for uri in settings.bundles:
        bundle = load_bundle(uri)
        codecs.append(load_codec(bundle, settings.device or "cpu"))
        methods[bundle.id] = str(bundle.config["method"])
        log.info("codec loaded", bundle=bundle.short_id, method=methods[bundle.id])
    coder = Coder(codecs, limits)
    for codec in codecs:
        coder.decompress(codec.compress([_blank(codec)], quality=0))
    return Codecs(coder, methods)


def _blank(codec: Codec) -> Raster:
    names = [band for bands in codec.config.bands.values() for band in bands]
    bands = {}
    for band in names:
        side = -(-WARM_PIXELS // factor_of(band))
        bands[band] = np.zeros((side, side), dtype=GROUP_OF[band].dtype)
    return Raster(bands, (WARM_PIXELS, WARM_PIXELS))
