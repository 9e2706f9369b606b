"""Evaluation of a codec with hash codes: rate and distortion, retrieval at every rate, and time per query.

All figures come from streams that were written and read back. Rates count whole streams: header, name, georeference,
payload, hash code and checksum; ``payload_bpppb`` counts the payload alone, for comparison with codecs without that
metadata. bpp is bits per 10 m pixel, bpppb bits per stored sample (80,000 of a patch for Sentinel-2: bands count on
their native grids).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eoforge.codec.container import inspect
from eoforge.codec.learned.model import Codec
from eoforge.codec.raster import Raster
from eoforge.data.bands import GROUPS
from eoforge.geo.footprint import PATCH_METRES
from eoforge.methods.evaluation import codec_baselines
from eoforge.methods.evaluation.fidelity import Fidelity, Rasters
from eoforge.methods.evaluation.retrieval import GALLERY_SPLIT, QUERY_SPLIT
from eoforge.methods.rs_jcif.paths import coder_of, codes_of, maps, query_paths
from eoforge.methods.rs_jcif.report import compression_html
from eoforge.methods.rs_jcif.split import BATCH, Split, read_split
from eoforge.progress import track
from eoforge.storage.addresses import TableRef
from eoforge.storage.objects import ObjectStore

if TYPE_CHECKING:
    from eoforge.bundle import Bundle

RATE_PATCHES = 16
"""Patches of the gallery split for rate and distortion; the baselines take a second or more per patch."""
_PIXELS = (PATCH_METRES // 10) ** 2


def ladder(codec: Codec, split: Split, modality: str, qualities: Sequence[float]) -> list[dict[str, float]]:
    """Rate and fidelity of a codec at each quality, from streams that were written and read back."""
    originals, rows = split.rasters(modality), []
    for quality in qualities:
        fidelity = Fidelity(modality)
        total, payload = 0, 0
        for start in range(0, len(originals), BATCH):
            part = originals[start : start + BATCH]
            streams = codec.compress(part, quality)
            total += 8 * sum(map(len, streams))
            payload += 8 * sum(inspect(stream).payload_bytes for stream in streams)
            fidelity.add(_columns(part), _columns(codec.decompress(streams)))
        rows.append(
            {
                "quality": float(quality),
                "bpp": total / len(originals) / _PIXELS,
                "bpppb": total / fidelity.samples,
                "payload_bpppb": payload / fidelity.samples,
                "container_bytes": (total - payload) / 8 / len(originals),
                **fidelity.summary(),
            }
        )
    return rows


def _columns(rasters: Sequence[Raster]) -> Rasters:
    """Rasters as columns of the table, complete groups of bands only."""
    bands = rasters[0].bands
    whole = [group for group in GROUPS if set(group.bands) <= set(bands)]
    return {g.column: np.stack([np.stack([r.bands[b] for b in g.bands]) for r in rasters]) for g in whole}


def measure_baselines(gallery: Split, training: Split, modality: str) -> dict[str, Any]:
    """Curves of the lossy baselines and bits per sample of the lossless ones, on the same patches."""
    rasters = gallery.pixels(modality)
    samples = sum(pixels.size for pixels in rasters.values())
    curves = {
        name: codec_baselines.lossy_curve(codec, rasters)
        for name, codec in codec_baselines.lossy_codecs(training.pixels(modality)).items()
        if not (codec.colour_only and modality == "s1")
    }
    lossless = {name: codec_baselines.lossless_bits(name, rasters) / samples for name in ("zstd", "jpeg-xl")}
    return {"curves": codec_baselines.as_rows(curves), "lossless_bpppb": lossless}


def evaluate_codec(
    bundle: Bundle, codec: Codec, data: TableRef, out: str | None, patches: int = RATE_PATCHES
) -> dict[str, Any]:
    """Headline figures of a codec, flat; with ``out`` also ``compression.json`` and ``compression.html`` there.

    Args:
        bundle: Where the codec comes from.
        codec: Its codec, ready to compress.
        data: Patches; without a version the newest is taken and named.
        out: Folder or ``s3://`` prefix.
        patches: Patches of the gallery split for rate and distortion.
    """
    measured = measure_codec(bundle, codec, data, patches)
    if out is not None:
        store = ObjectStore(out)
        store.put("compression.json", (json.dumps(measured, indent=2, sort_keys=True) + "\n").encode())
        store.put("compression.html", compression_html([measured]).encode())
    middle = {m: rows[len(rows) // 2] for m, rows in measured["ladder"].items()}
    figures = {f"{name}_{m}": row[name] for m, row in middle.items() for name in ("quality", "bpp", "bpppb", "rmse")}
    return figures | {
        f"{path}_{name}": value
        for path, row in measured["paths"].items()
        for name, value in row.items()
        if "_to_" not in name
    }


def measure_codec(bundle: Bundle, codec: Codec, data: TableRef, patches: int) -> dict[str, Any]:
    """The content of ``compression.json``; see :func:`evaluate_codec`."""
    pinned = data.pinned()
    queries, gallery = read_split(pinned, QUERY_SPLIT), read_split(pinned, GALLERY_SPLIT)
    rated, training = read_split(pinned, GALLERY_SPLIT, patches), read_split(pinned, "train", patches)
    steps = list(range(codec.config.steps))
    middle = float(bundle.config["config"].get("code_quality") or (codec.config.steps - 1) // 2)
    modalities = tuple(codec.config.bands)
    with track("measuring the codec", total=3 * len(modalities) + len(steps)) as progress:
        rates, others = {}, {}
        for m in modalities:
            rates[m] = ladder(codec, rated, m, steps)
            progress.advance(1)
            others[m] = measure_baselines(rated, training, m)
            progress.advance(2)
        by_rate = []
        for q in steps:
            coder = coder_of(codec, q)
            found = maps(codes_of(coder, queries, modalities), codes_of(coder, gallery, modalities), queries, gallery)
            by_rate.append({"quality": float(q), **found})
            progress.advance(1)
    return {
        "facts": {
            "method": bundle.config["method"],
            "bundle": bundle.id,
            "patches": str(pinned),
            "rated_patches": sum(map(len, rated.batches)),
            "queries": len(queries.masks),
            "gallery": len(gallery.masks),
            "bits": codec.config.bits,
            "rule": bundle.config["config"].get("rule"),
            "seed": bundle.config["seed"],
        },
        "ladder": rates,
        "baselines": others,
        "map_by_quality": by_rate,
        "paths": query_paths(codec, queries, gallery, middle),
    }
