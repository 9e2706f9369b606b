"""Peak memory of the codec: patches in batches of 1 and 64, and a raster of 10,980 x 10,980 pixels.

Each figure comes from a process of its own, by its peak resident set over that of a process that loads the same and
codes one small patch. The large raster is made window by window and leaves strip by strip, so that it never is in
memory as a whole: its four 10 m bands alone would be 920 MiB.

    python -m benchmarks.codec.memory [--side 10980] [--bands B03 ...] [--bounded-side 2196] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.codec.samples import batch_of, pairs_of, rasters
from eoforge.codec import bounded, streams
from eoforge.codec.config import CodecConfig
from eoforge.codec.container import LIMITS
from eoforge.codec.model import Codec
from eoforge.codec.raster import Georeference, Raster, factor_of, grid_shape
from eoforge.data.bands import S2_BANDS

QUALITY = 3.0


class Scene:
    """A large raster that exists only where it is looked at: a landscape repeated, brighter to the east."""

    def __init__(self, side: int, bands: tuple[str, ...]) -> None:
        self.bands: Mapping[str, object] = dict.fromkeys(bands)
        self.shape = (side, side)
        self.georeference: Georeference | None = None
        self.patch_id = "scene"
        pieces = rasters(pairs_of("synthetic", 64), "s2")
        self._ground = {
            band: np.block([[pieces[8 * i + j].bands[band] for j in range(8)] for i in range(8)]) for band in bands
        }

    def window(self, row: int, column: int, height: int, width: int) -> Raster:
        """The pixels of a window."""
        cut: dict[str, Any] = {}
        for band, ground in self._ground.items():
            factor = factor_of(band)
            rows, columns = grid_shape((height, width), factor)
            y = (np.arange(rows) + row // factor) % len(ground)
            x = (np.arange(columns) + column // factor) % len(ground)
            cut[band] = (ground[np.ix_(y, x)] + np.uint16(column // 40)).astype(np.uint16)
        return Raster(cut, (height, width), None, self.patch_id)


def job(name: str, side: int, bands: tuple[str, ...]) -> dict[str, Any]:
    """One figure, in this process."""
    codec = Codec(CodecConfig.tiny())
    codec.initialise(batch_of(pairs_of("synthetic", 32)))
    codec.update()
    codec.eval()
    patches = rasters(pairs_of("synthetic", 64), "s2")
    codec.decompress(codec.compress(patches[:1], QUALITY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = perf_counter()
    extra: dict[str, Any] = {}
    if name.startswith("batch"):
        chosen = patches[: int(name.rpartition("_")[2])]
        codec.decompress(codec.compress(chosen, QUALITY))
    else:
        scene = Scene(side, bands)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if name == "scene_bounded":
            stream = bounded.compress_bounded(scene, 2)
            found = bounded.decompress_strips(stream)
        else:
            stream = streams.compress_tiled(codec, scene, QUALITY)
            found = streams.decompress_strips(codec, stream, LIMITS)
        encoded = perf_counter()
        rows = worst = 0
        for row, strip in found:
            rows += len(strip[bands[0]]) * factor_of(bands[0])
            height = min(len(strip[bands[0]]) * factor_of(bands[0]), side - row)
            truth = scene.window(row, 0, height, side).bands[bands[0]].astype(np.int32)
            worst = max(worst, int(np.abs(truth - strip[bands[0]]).max()))
        samples = sum(int(np.prod(grid_shape(scene.shape, factor_of(b)))) for b in bands)
        extra = {
            "side": side,
            "bands": list(bands),
            "raster_mib": round(2 * samples / 2**20, 1),
            "stream_mib": round(len(stream) / 2**20, 2),
            "rows": rows,
            "worst_error_of_first_band": worst,
            "encode_s": round(encoded - start, 1),
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "peak_mib": round(peak / 1024, 1),
        "over_one_patch_mib": round((peak - before) / 1024, 1),
        "seconds": round(perf_counter() - start, 1),
        **extra,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Peak memory of batches and of a whole Sentinel-2 tile.")
    parser.add_argument("--side", type=int, default=10_980)
    parser.add_argument("--bands", nargs="+", default=list(S2_BANDS))
    parser.add_argument("--bounded-side", type=int, default=2_196, help="bounded streams take longer a pixel")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--out", help="file for the figures as JSON")
    options = parser.parse_args()
    bands = tuple(options.bands)
    if options.job:
        side = options.bounded_side if options.job == "scene_bounded" else options.side
        print(json.dumps(job(options.job, side, bands)))
        return
    figures: dict[str, Any] = {}
    for name in ("batch_1", "batch_64", "scene_learned", "scene_bounded"):
        command = [sys.executable, "-m", "benchmarks.codec.memory", "--job", name, "--side", str(options.side)]
        command += ["--bounded-side", str(options.bounded_side), "--bands", *bands]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        figures[name] = json.loads(run.stdout.splitlines()[-1])
        print(json.dumps({name: figures[name]}), flush=True)
    if options.out:
        Path(options.out).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
