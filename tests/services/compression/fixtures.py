"""Fixtures of the compression tests: patches, and a real untrained codec with integer tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from benchmarks.codec.samples import untrained_bundle
from eoforge.bundle import Bundle
from eoforge.codec.raster import Raster, from_pair
from eoforge.data.records import PatchPair
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.methods.rs_jcif.config import Config
from services._runtime.server import Server
from services.compression.server import build
from services.compression.settings import CompressionSettings
from services.compression.state import Codecs, load

PATCHES = 12
BITS = 32
SMALL = Config(channels=8, latent=24, hyper=8, stages=2, kernel=3, bits=BITS, hash_hidden=16)


@dataclass(frozen=True)
class CompressionFixture:
    """A bundle, its codec as the service loads it, and patches."""

    bundle: Bundle
    codecs: Codecs
    pairs: tuple[PatchPair, ...]

    def raster(self, number: int) -> Raster:
        return from_pair(self.pairs[number])


def make_compression_fixture(folder: Path) -> CompressionFixture:
    """Writes the bundle below ``folder``."""
    pairs = tuple(synthetic_pairs(PATCHES, seed=11))
    bundle = write_codec_bundle(str(folder / "runs"), pairs)
    return CompressionFixture(bundle, load(CompressionSettings(bundle_uris=bundle.uri)), pairs)


def write_codec_bundle(runs: str, pairs: tuple[PatchPair, ...], patches: Mapping[str, Any] | None = None) -> Bundle:
    """A bundle of ``rs_jcif`` whose codec has seen ``pairs`` but was not trained."""
    return untrained_bundle(runs, pairs, SMALL, patches)


def compression_server(archive: CompressionFixture, **values: Any) -> Callable[[], Server]:
    """A maker of servers for ``running``."""
    defaults: dict[str, Any] = {
        "port": 0,
        "rest_port": 0,
        "drain_notice_seconds": 0.0,
        "drain_seconds": 10.0,
    }
    return lambda: build(CompressionSettings(**(defaults | values)), archive.codecs)


def same(ours: Mapping[str, npt.NDArray[Any]], theirs: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Whether two rasters hold the same bands with the same pixels."""
    return list(ours) == list(theirs) and all((ours[b] == theirs[b]).all() for b in ours)
