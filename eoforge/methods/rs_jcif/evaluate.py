"""What a codec that can be searched is worth: rate and distortion, retrieval at every rate, and the ways of a query.

Everything is measured on real streams. Rates count whole streams: header, name, georeference, payload, hash code and
checksum; ``payload_bpppb`` stands beside them for comparison with codecs whose files say less. bpp is bits per 10 m
pixel, bpppb bits per stored sample (80,000 of a patch for Sentinel-2: bands count on their native grids).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eoforge.codec.container import LIMITS, inspect
from eoforge.codec.model import Codec
from eoforge.codec.raster import Raster, from_batch
from eoforge.codec.streams import stored_codes
from eoforge.data.bands import GROUPS, PATCH_METRES
from eoforge.data.batch import PatchBatch, PatchFilter
from eoforge.data.loader import PatchLoader
from eoforge.data.store import ObjectStore, TableRef, open_table
from eoforge.index.search import HammingIndex
from eoforge.methods.evaluate import GALLERY_SPLIT, QUERY_SPLIT
from eoforge.methods.rs_jcif import baselines
from eoforge.methods.rs_jcif.fidelity import Fidelity, Rasters
from eoforge.methods.rs_jcif.method import load_codec
from eoforge.methods.rs_jcif.model import LatentEncoder
from eoforge.metrics.retrieval import Denominator, Relevance, mean_average_precision
from eoforge.progress import track

if TYPE_CHECKING:
    from eoforge.bundle import Bundle

BATCH = 32
MAP_AT = 10
TIMED_QUERIES = 32
RATE_PATCHES = 16
"""Patches of the gallery split on which rate and distortion are measured: the baselines take a second or more each."""
_PIXELS = (PATCH_METRES // 10) ** 2

Codes = npt.NDArray[np.uint8]
Coder = Callable[[PatchBatch, str], Codes]


@dataclass(frozen=True)
class Split:
    """Patches of one split in memory, a batch at a time."""

    batches: list[PatchBatch]

    @property
    def masks(self) -> npt.NDArray[np.uint32]:
        """Label masks ``[N]``."""
        return np.concatenate([b.label_mask.numpy() for b in self.batches]).astype(np.uint32)

    def rasters(self, modality: str) -> list[Raster]:
        """Every patch as the codec takes it."""
        return [raster for batch in self.batches for raster in from_batch(batch, (modality,))]

    def pixels(self, modality: str) -> Rasters:
        """Column -> ``[N, C, H, W]`` of one sensor."""
        wanted = [g.column for g in GROUPS if (g.column == "s1") == (modality == "s1")]
        return {c: np.concatenate([getattr(b, c).numpy() for b in self.batches]) for c in wanted}

    def codes(self, coder: Coder, modality: str) -> Codes:
        """Codes ``[N, K/8]`` of every patch."""
        return np.concatenate([coder(batch, modality) for batch in self.batches])


def read_split(data: TableRef, split: str, limit: int | None = None) -> Split:
    """The first ``limit`` patches of a split, in table order.

    Raises:
        NotFound: The split is empty.
    """
    batches: list[PatchBatch] = []
    for batch in PatchLoader(data, batch_size=BATCH, filter=PatchFilter(splits=(split,))):
        left = BATCH if limit is None else limit - sum(map(len, batches))
        if left <= 0:
            break
        batches.append(batch if left >= len(batch) else _first(batch, left))
    return Split(batches)


def _first(batch: PatchBatch, count: int) -> PatchBatch:
    cut: dict[str, Any] = {g.column: t[:count] for g in GROUPS if (t := getattr(batch, g.column)) is not None}
    return replace(batch, patch_id=batch.patch_id[:count], label_mask=batch.label_mask[:count], **cut)


def ladder(codec: Codec, split: Split, modality: str, qualities: Sequence[float]) -> list[dict[str, float]]:
    """Rate and fidelity at each quality, from streams that were written and read back."""
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
                **fidelity.summary(),
            }
        )
    return rows


def _columns(rasters: Sequence[Raster]) -> Rasters:
    """Rasters as columns of the table; only whole groups of bands are measured."""
    bands = rasters[0].bands
    whole = [group for group in GROUPS if set(group.bands) <= set(bands)]
    return {g.column: np.stack([np.stack([r.bands[b] for b in g.bands]) for r in rasters]) for g in whole}


def maps(ask: dict[str, Codes], answer: dict[str, Codes], queries: Split, gallery: Split) -> dict[str, float]:
    """mAP@10 at Jaccard >= 0.5 over min(10, relevant in the gallery), by direction."""
    masks, archive = queries.masks, gallery.masks
    out = {}
    for source, asking in ask.items():
        for target, answering in answer.items():
            hits = HammingIndex(answering).search(asking, min(MAP_AT, len(answering)))[1]
            out[f"{source}_to_{target}"] = mean_average_precision(
                masks, archive[hits], archive, Relevance.JACCARD, Denominator.ARCHIVE
            )
    return out


def codes_of(coder: Coder, split: Split, modalities: Sequence[str]) -> dict[str, Codes]:
    """Sensor -> codes of a split."""
    return {modality: split.codes(coder, modality) for modality in modalities}


def coder_of(codec: Codec, quality: float) -> Coder:
    """Patches to codes through the latent, without a stream."""
    encoder = LatentEncoder(codec, quality, next(codec.parameters()).device)
    return lambda batch, modality: encoder.encode(batch, modality)[0]


def query_paths(
    codec: Codec, queries: Split, gallery: Split, quality: float, separate: Codec | None = None
) -> dict[str, dict[str, float]]:
    """The ways from a stored stream to a code, timed, and what is found with the codes; mean over directions.

    - ``decode_then_encode``: decode all pixels, encode them again with this codec;
    - ``decode_then_separate`` (with ``separate``): decode all pixels, hash them with a network of their own;
    - ``from_latent``: entropy decoding and the hash module;
    - ``stored``: read the code that the stream carries.

    Args:
        codec: Made the streams.
        queries: Ask; the streams of the first ``TIMED_QUERIES`` are also timed, one at a time, as a query comes.
        gallery: Answers, by the codes of the same path.
        quality: Of all streams.
        separate: A network trained for codes alone.
    """
    modalities = tuple(codec.config.bands)
    streams = {
        (name, m): codec.compress(split.rasters(m), quality)
        for name, split in (("queries", queries), ("gallery", gallery))
        for m in modalities
    }
    own = coder_of(codec, quality)
    ways: dict[str, Callable[[list[bytes], str], Codes]] = {
        "decode_then_encode": lambda s, m: own(_batch(codec.decompress(s)), m),
        "from_latent": codec.hash_stream,
        "stored": lambda s, m: np.concatenate([stored_codes(one, LIMITS)[m] for one in s]),
    }
    if separate is not None:
        other = coder_of(separate, separate.config.steps - 1)
        ways["decode_then_separate"] = lambda s, m: other(_batch(codec.decompress(s)), m)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for m in modalities:
        for stream in streams["queries", m][:TIMED_QUERIES]:
            for name, way in ways.items():  # all ways of one stream in turn: a busy machine slows them alike
                start = time.perf_counter()
                way([stream], m)
                seconds[name].append(time.perf_counter() - start)
    out = {}
    for name, way in ways.items():
        ask: dict[str, Codes] = {}
        answer: dict[str, Codes] = {}
        for m in modalities:
            for codes, held in ((ask, streams["queries", m]), (answer, streams["gallery", m])):
                codes[m] = np.concatenate([way(held[i : i + BATCH], m) for i in range(0, len(held), BATCH)])
        found = maps(ask, answer, queries, gallery)
        out[name] = {
            "milliseconds_per_query": 1e3 * float(np.median(seconds[name])),
            f"map@{MAP_AT}": float(np.mean(list(found.values()))),
            **{f"map@{MAP_AT}_{direction}": value for direction, value in found.items()},
        }
    return out


def _batch(rasters: Sequence[Raster]) -> PatchBatch:
    """Decoded rasters as a batch; a band that the codec does not have reads as zero and is not used."""
    import torch

    columns: dict[str, Any] = {}
    for group in GROUPS:
        if set(group.bands) & set(rasters[0].bands):
            blank = np.zeros(group.shape[1:], dtype=group.dtype)
            images = [np.stack([r.bands.get(b, blank) for b in group.bands]) for r in rasters]
            columns[group.column] = torch.from_numpy(np.stack(images))
    masks = torch.zeros(len(rasters), dtype=torch.int64)
    names = [r.patch_id for r in rasters]
    blanks = {g.column: columns.get(g.column) for g in GROUPS}
    return PatchBatch(patch_id=names, label_mask=masks, **blanks)


def measure_baselines(gallery: Split, training: Split, modality: str) -> dict[str, Any]:
    """Curves of every lossy codec and bits per sample of the lossless ones, on the same patches."""
    rasters = gallery.pixels(modality)
    samples = sum(pixels.size for pixels in rasters.values())
    curves = {
        name: baselines.lossy_curve(codec, rasters)
        for name, codec in baselines.lossy_codecs(training.pixels(modality)).items()
        if not (codec.colour_only and modality == "s1")
    }
    lossless = {name: baselines.lossless_bits(name, rasters) / samples for name in ("zstd", "jpeg-xl")}
    return {"curves": baselines.as_rows(curves), "lossless_bpppb": lossless}


def evaluate_codec(
    bundle: Bundle, data: TableRef, out: str | None, device: str | None = None, patches: int = RATE_PATCHES
) -> dict[str, Any]:
    """All of the above for one bundle; with ``out`` writes ``compression.json`` and ``compression.html`` there.

    Returns:
        Headline figures, flat.
    """
    measured = measure_codec(bundle, data, device, patches)
    if out is not None:
        from eoforge.methods.rs_jcif.report import compression_html

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


def measure_codec(bundle: Bundle, data: TableRef, device: str | None, patches: int) -> dict[str, Any]:
    """What :func:`evaluate_codec` writes as JSON."""
    codec = load_codec(bundle, device)
    pinned = TableRef(data.uri, open_table(data).version)
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
