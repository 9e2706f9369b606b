"""Peak memory of the codec: patches in batches of 1 and 64, and ``eoforge compress`` and ``decompress`` of large files.

Each figure is the greatest resident set of a process of its own. Scenes are GeoTIFFs of all twelve optical bands on
their native grids, written window by window; the largest has the size of a Sentinel-2 tile, whose pixels alone are 1.3
GiB. What counts is that memory does not follow the size: it is compared with that of one patch, by the same command.

    python -m benchmarks.codec.memory [--sides 1098 3660] [--bounded-sides 1098] [--out FILE]

A whole tile takes some minutes: ``--sides 10980``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

QUALITY = "3"
PATCH = 120
_GROUND = 4


def peak_of(*command: str) -> dict[str, Any]:
    """Peak resident set, seconds and last line of output of a command.

    Raises:
        SystemExit: It failed.
    """
    start = perf_counter()
    with subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    found = {"peak_mib": round(usage.ru_maxrss / 1024, 1), "seconds": round(perf_counter() - start, 1)}
    return found | {"printed": json.loads(printed)}


def make_scene(folder: Path, side: int) -> None:
    """One GeoTIFF a band: a landscape of synthetic patches repeated, brighter to the east."""
    import numpy as np
    import rasterio
    from affine import Affine
    from rasterio.windows import Window

    from benchmarks.codec.samples import pairs_of, rasters
    from eoforge.codec.raster import factor_of, grid_shape
    from eoforge.data.bands import S2_BANDS

    pieces = rasters(pairs_of("synthetic", _GROUND**2), "s2")
    folder.mkdir()
    for band in S2_BANDS:
        factor = factor_of(band)
        rows, columns = grid_shape((side, side), factor)
        ground = np.block([[pieces[_GROUND * i + j].bands[band] for j in range(_GROUND)] for i in range(_GROUND)])
        profile = {"driver": "GTiff", "height": rows, "width": columns, "count": 1, "dtype": "uint16", "tiled": True}
        place = {"crs": "EPSG:32633", "transform": Affine(10 * factor, 0, 300_000, 0, -10 * factor, 5_000_000)}
        with rasterio.open(folder / f"scene_{band}.tif", "w", **profile, **place) as sink:
            x = np.arange(columns)
            for top in range(0, rows, len(ground)):
                height = min(len(ground), rows - top)
                brighter = (x * factor // 40).astype(np.uint16)
                sink.write(ground[:height, x % ground.shape[1]] + brighter, 1, window=Window(0, top, columns, height))


def prepare(folder: Path, sides: list[int]) -> None:
    """A bundle and the scenes, in this process."""
    from benchmarks.codec.samples import pairs_of, untrained_bundle
    from eoforge.methods.rs_jcif.config import Config

    bundle = untrained_bundle(str(folder / "runs"), pairs_of("synthetic", 16), Config.tiny())
    for side in sides:
        make_scene(folder / f"scene-{side}", side)
    print(json.dumps({"bundle": bundle.uri}))


def batch(size: int) -> None:
    """Compresses and decompresses a batch of patches, in this process."""
    from benchmarks.codec.samples import batch_of, pairs_of, rasters
    from eoforge.codec.learned.model import Codec
    from eoforge.methods.rs_jcif.config import Config

    config = Config.tiny()
    codec = Codec(config.codec({b: (1500.0, 1200.0) for bands in config.bands.values() for b in bands}))
    pairs = pairs_of("synthetic", 8)
    codec.initialise(batch_of(pairs))
    codec.update()
    patches = 8 * rasters(pairs, "s2")
    codec.eval().decompress(codec.compress(patches[:size], float(QUALITY)))
    print(json.dumps({"patches": size}))


def there_and_back(folder: Path, side: int, *rate: str) -> dict[str, Any]:
    """Peaks of compressing a scene and of decompressing its stream."""
    source, streams, back = folder / f"scene-{side}", folder / f"streams-{side}", folder / f"back-{side}"
    made = peak_of("eoforge.cli", "compress", str(source), str(streams), *rate, "--json")
    bundle = rate[:2] if rate[0] == "--bundle" else ()
    decoded = peak_of("eoforge.cli", "decompress", str(streams), str(back), *bundle, "--json")
    return {
        "raster_mib": round(made["printed"]["raw_bytes"] / 2**20, 1),
        "stream_mib": round(made["printed"]["stream_bytes"] / 2**20, 2),
        "compress": {name: made[name] for name in ("peak_mib", "seconds")},
        "decompress": {name: decoded[name] for name in ("peak_mib", "seconds")},
    }


def measure(sides: list[int], bounded_sides: list[int]) -> dict[str, Any]:
    """All figures."""
    figures: dict[str, Any] = {}
    for size in (1, 64):
        found = peak_of("benchmarks.codec.memory", "--batch", str(size))
        figures[f"batch_{size}"] = {name: found[name] for name in ("peak_mib", "seconds")}
        print(json.dumps({f"batch_{size}": figures[f"batch_{size}"]}), flush=True)
    with tempfile.TemporaryDirectory() as name:
        every = sorted({PATCH, *sides, *bounded_sides})
        made = peak_of("benchmarks.codec.memory", "--prepare", name, "--sides", *map(str, every))
        learned = ("--bundle", made["printed"]["bundle"], "--quality", QUALITY)
        for kind, rate, wanted in (("learned", learned, sides), ("max_error_2", ("--max-error", "2"), bounded_sides)):
            for side in (PATCH, *wanted):
                figures[f"{kind}_{side}"] = there_and_back(Path(name), side, *rate)
                print(json.dumps({f"{kind}_{side}": figures[f"{kind}_{side}"]}), flush=True)
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Peak memory of batches and of large rasters on the command line.")
    parser.add_argument("--sides", type=int, nargs="*", default=[1_098, 3_660], help="10 m pixels of a scene's side")
    parser.add_argument("--bounded-sides", type=int, nargs="*", default=[1_098], help="the same for a bounded error")
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    options = parser.parse_args()
    if options.batch:
        batch(options.batch)
    elif options.prepare:
        prepare(options.prepare, options.sides)
    else:
        figures = measure(options.sides, options.bounded_sides)
        if options.out:
            options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
