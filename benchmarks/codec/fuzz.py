"""Fuzzing of the decoder: mutated, truncated, spliced and foreign bytes must end in an error of eoforge, in time.

Seeds are small streams of every kind (learned, bounded, tiled, both sensors). A mutation flips bits, overwrites runs,
cuts, inserts, or writes extreme numbers into the header; half of the mutants get a checksum that fits, so that they
reach the decoders instead of ending at the CRC. Each is inspected and decoded (and hashed, if learned). Counted are the
outcomes; anything but an ``EoforgeError`` or a raster stops the run, as do a mutant that takes too long and a process
that grows.

    python -m benchmarks.codec.fuzz [--streams 200000] [--seed 0] [--out FILE]
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import struct
import time
from collections import Counter
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from eoforge.codec.bounded import streams as bounded
from eoforge.codec.container import MIN_TILE, Kind, Limits, inspect
from eoforge.codec.learned import streams
from eoforge.codec.learned.config import CodecConfig
from eoforge.codec.learned.model import Codec
from eoforge.codec.profile import BandProfile, ControlPoint, GridProfile, Profile
from eoforge.codec.raster import Georeference, Raster, factor_of, grid_shape
from eoforge.data.bands import GROUP_OF
from eoforge.errors import EoforgeError

LIMITS = Limits(max_pixels=1 << 14, max_tile_pixels=1 << 12, max_payload_bytes=1 << 20)
MAX_SECONDS = 20.0
MAX_GROWTH_MIB = 512
_EXTREME = (b"\x00", b"\xff", b"\x80", b"\x7f", b"\x01")
_HEADER_BYTES = 90
_FOREIGN = (b"II*\0", b"MM\0*", b"\x89PNG\r\n\x1a\n", b"\xff\x4f\xff\x51", b"\xff\x0a", b"PK\x03\x04", b"")


def small_raster(rng: np.random.Generator, bands: tuple[str, ...], shape: tuple[int, int]) -> Raster:
    """A few smooth bands."""
    pixels: dict[str, Any] = {}
    for band in bands:
        rows, columns = grid_shape(shape, factor_of(band))
        ground = np.add.outer(np.arange(rows), 2 * np.arange(columns)) * 9 + rng.normal(600, 25, (rows, columns))
        pixels[band] = (ground / 70 - 20).astype(np.float32) if band in ("VV", "VH") else ground.astype(np.uint16)
    place = Georeference("EPSG:32633", (10.0, 0.0, 4e5, 0.0, -10.0, 5e6))
    return Raster(pixels, shape, place, "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57")


def profiled(raster: Raster) -> Raster:
    """A raster with a profile: masks, nodata amid the values, tags, control points."""
    grids: dict[str, GridProfile] = {}
    masks: dict[str, Any] = {}
    for band, pixels in raster.bands.items():
        grid = GROUP_OF[band].column
        bands = {**(grids[grid].bands if grid in grids else {}), band: BandProfile(scale=1e-4, tags={"a": "b"})}
        point = ControlPoint(1.5, 2.5, 14.0, 50.0)
        nodata = float(pixels.flat[0])
        grids[grid] = GridProfile(bands, nodata, True, {"A": "B"}, (point,), "EPSG:4326")
        masks[grid] = np.add.outer(np.arange(pixels.shape[0]), np.arange(pixels.shape[1])) % 5 > 0
    return Raster(raster.bands, raster.shape, raster.georeference, raster.patch_id, Profile(grids), masks)


def small_codec() -> Codec:
    """Untrained codec with integer tables, small enough for many mutants."""
    config = CodecConfig(channels=4, latent=8, hyper=4, kernel=3, bits=16, hash_hidden=4)
    codec = Codec(config)
    codec.update()
    return codec.eval()


def seeds(codec: Codec, rng: np.random.Generator) -> list[bytes]:
    """Valid streams."""
    optical = small_raster(rng, ("B02", "B05", "B01"), (13, 11))
    whole = small_raster(rng, ("B04", "B11", "VV"), (12, 12))
    wide = small_raster(rng, ("B03",), (MIN_TILE + 12, 18))
    tiled = io.BytesIO()
    streams.write(codec, wide, 3.0, tiled, tile=MIN_TILE, overlap=6)
    masked = io.BytesIO()
    streams.write(codec, profiled(wide), 3.0, masked, tile=MIN_TILE, overlap=6)
    return [
        *codec.compress([optical, whole, profiled(whole)], 4.5),
        tiled.getvalue(),
        masked.getvalue(),
        bounded.compress_bounded(profiled(optical), 0),
        bounded.compress_bounded(profiled(whole), {"s2": 3, "s1": 0.1}),
        bounded.compress_bounded(profiled(wide), 2, tile=MIN_TILE),
        bounded.compress_bounded(optical, 0),
        bounded.compress_bounded(whole, {"s2": 3, "s1": 0.1}),
        bounded.compress_bounded(whole.only("s1"), 0),
        bounded.compress_bounded(wide, 0, tile=MIN_TILE),
    ]


def mutate(stream: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One mutant of a stream."""
    data = bytearray(stream)
    for _ in range(int(rng.integers(1, 4))):
        kind = int(rng.integers(0, 8))
        end = len(data) or 1
        at = int(rng.integers(0, min(end, _HEADER_BYTES) if kind % 2 else end))
        if kind <= 1 and data:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            data[at : at + int(rng.integers(1, 9))] = rng.bytes(int(rng.integers(0, 9)))
        elif kind == 3:
            width = int(rng.choice((1, 2, 4, 8)))
            data[at : at + width] = _EXTREME[int(rng.integers(0, len(_EXTREME)))] * width
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            value = int(rng.integers(0, 1 << 32)) >> int(rng.integers(0, 32))
            data[at : at + 4] = struct.pack("<I", value)
        elif kind == 6:
            data[at:] = other[at:]
        else:
            data[:0] = _FOREIGN[int(rng.integers(0, len(_FOREIGN)))]
    if rng.random() < 0.5 and len(data) > 4:
        data[-4:] = struct.pack("<I", google_crc32c.value(bytes(data[:-4])))
    return bytes(data)


def verdict(codec: Codec, stream: bytes) -> str:
    """Result of decoding a stream: ``decoded``, or the name of an error of eoforge.

    Raises:
        Exception: Anything that is not our error, which is a bug.
    """
    try:
        header = inspect(stream, LIMITS)
        if header.kind is Kind.BOUNDED:
            bounded.decompress([stream], LIMITS)
        else:
            codec.decompress([stream], LIMITS)
            if not header.tile:
                codec.hash_stream([stream], limits=LIMITS)
    except EoforgeError as error:
        return type(error).__name__
    return "decoded"


def run(streams: int, seed: int) -> dict[str, Any]:
    """Fuzzing with a number of mutants.

    Raises:
        SystemExit: One took too long, or the process grew.
    """
    codec = small_codec()
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    whole = seeds(codec, rng)
    outcomes: Counter[str] = Counter(verdict(codec, stream) for stream in whole)
    if set(outcomes) != {"decoded"}:
        raise SystemExit(f"the seeds themselves do not decode: {outcomes}")
    outcomes.clear()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest, start = 0.0, time.perf_counter()
    for number in range(streams):
        mutant = mutate(whole[number % len(whole)], whole[int(rng.integers(0, len(whole)))], rng)
        begin = time.perf_counter()
        try:
            outcomes[verdict(codec, mutant)] += 1
        except BaseException:
            Path(f"fuzz-{seed}-{number}.bin").write_bytes(mutant)
            raise
        slowest = max(slowest, time.perf_counter() - begin)
        if slowest > MAX_SECONDS:
            raise SystemExit(f"mutant {number} of seed {seed} took {slowest:.1f} s")
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if growth > MAX_GROWTH_MIB:
        raise SystemExit(f"the process grew by {growth:.0f} MiB")
    return {
        "streams": streams,
        "seed": seed,
        "outcomes": dict(outcomes.most_common()),
        "slowest_ms": round(1e3 * slowest, 1),
        "memory_growth_mib": round(growth, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Hostile streams must end in our errors.")
    parser.add_argument("--streams", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="file for the figures as JSON")
    options = parser.parse_args()
    text = json.dumps(run(options.streams, options.seed), indent=2)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
