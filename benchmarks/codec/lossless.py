"""Sizes and times of bounded streams against lossless JPEG-XL, JPEG2000 and zstd on the same pixels.

Every stream of ours is decoded and compared with its promise. Radar bands are float32, which JPEG-XL takes too.

    python -m benchmarks.codec.lossless [--patches 16] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.codec.peers import LOSSLESS
from benchmarks.codec.samples import kinds, pairs_of, rasters
from eoforge.codec.bounded.streams import compress_bounded, decompress
from eoforge.codec.raster import Raster

ERRORS = {"s2": (0.0, 1.0, 5.0, 20.0, 100.0), "s1": (0.0, 0.01, 0.1, 0.5)}
_RADAR_PEERS = ("jpegxl_effort_7", "jpegxl_effort_9", "zstd_19", "zstd_19_shuffled_differences")


def worst(first: Raster, second: Raster) -> float:
    """Maximum error of a sample."""
    return max(float(np.abs(p.astype(float) - second.bands[b].astype(float)).max()) for b, p in first.bands.items())


def ours(patches: list[Raster], error: float) -> dict[str, float]:
    """Bytes per patch, seconds per patch, and maximum error.

    Raises:
        SystemExit: The promise is broken.
    """
    start = perf_counter()
    coded = [compress_bounded(raster, error) for raster in patches]
    encoded = perf_counter()
    found = [decompress([stream])[0] for stream in coded]
    decoded = perf_counter()
    largest = max(worst(raster, back) for raster, back in zip(patches, found, strict=True))
    if largest > error:
        raise SystemExit(f"max_error={error} was broken: {largest}")
    return {
        "bytes": round(sum(map(len, coded)) / len(patches), 1),
        "encode_s": round((encoded - start) / len(patches), 4),
        "decode_s": round((decoded - encoded) / len(patches), 4),
        "worst_error": largest,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Lossless and bounded sizes against JPEG-XL, JPEG2000 and zstd.")
    parser.add_argument("--patches", type=int, default=16)
    parser.add_argument("--out", help="file for the figures as JSON")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for kind in kinds():
        pairs = pairs_of(kind, options.patches)
        for modality in ("s2", "s1"):
            patches = rasters(pairs, modality)
            mine = {f"max_error_{error:g}": ours(patches, error) for error in ERRORS[modality]}
            names = list(LOSSLESS) if modality == "s2" else _RADAR_PEERS
            peers: dict[str, dict[str, float]] = {}
            for name in names:
                start = perf_counter()
                size = sum(LOSSLESS[name](raster) for raster in patches) / len(patches)
                seconds = (perf_counter() - start) / len(patches)
                ratio = mine["max_error_0"]["bytes"] / size
                peers[name] = {"bytes": round(size, 1), "encode_s": round(seconds, 4), "ours_over_it": round(ratio, 4)}
            figures[f"{kind}_{modality}"] = {"patches": len(patches), "ours": mine, "lossless_peers": peers}
            print(json.dumps({f"{kind}_{modality}": figures[f"{kind}_{modality}"]}, indent=2), flush=True)
    if options.out:
        Path(options.out).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
