"""Query paths from a stored stream to a code: their time per query and the mAP of their codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from eoforge.codec.container import LIMITS
from eoforge.codec.learned.model import Codec
from eoforge.codec.learned.streams import stored_codes
from eoforge.codec.raster import Raster
from eoforge.data.bands import GROUPS
from eoforge.data.loading.batch import PatchBatch
from eoforge.index.search import HammingIndex
from eoforge.methods.rs_jcif.model import LatentEncoder
from eoforge.methods.rs_jcif.split import BATCH, Coder, Codes, Split
from eoforge.metrics.retrieval import Denominator, Relevance, mean_average_precision

MAP_AT = 10
TIMED_QUERIES = 32


def maps(query: dict[str, Codes], stored: dict[str, Codes], queries: Split, gallery: Split) -> dict[str, float]:
    """mAP@10 at Jaccard >= 0.5 over min(10, relevant in the gallery), by direction."""
    masks, archive = queries.masks, gallery.masks
    out = {}
    for source, codes in query.items():
        for target, indexed in stored.items():
            hits = HammingIndex(indexed).search(codes, min(MAP_AT, len(indexed)))[1]
            out[f"{source}_to_{target}"] = mean_average_precision(
                masks, archive[hits], archive, Relevance.JACCARD, Denominator.ARCHIVE
            )
    return out


def codes_of(coder: Coder, split: Split, modalities: Sequence[str]) -> dict[str, Codes]:
    """Sensor -> codes of a split."""
    return {modality: split.codes(coder, modality) for modality in modalities}


def coder_of(codec: Codec, quality: float) -> Coder:
    """A function from patches to codes by the latent, without a stream."""
    encoder = LatentEncoder(codec, quality, next(codec.parameters()).device)
    return lambda batch, modality: encoder.encode(batch, modality)[0]


def query_paths(
    codec: Codec, queries: Split, gallery: Split, quality: float, separate: Codec | None = None
) -> dict[str, dict[str, float]]:
    """Time per query and mAP of each path from a stored stream to a code; mAP is a mean over directions.

    - ``decode_then_encode``: decode all pixels, encode them with the same codec;
    - ``decode_then_separate`` (with ``separate``): decode all pixels, hash them with a separate network;
    - ``from_latent``: entropy decoding and the hash module;
    - ``stored``: read the code in the stream.

    Args:
        codec: Codec of the streams.
        queries: Query patches; the first ``TIMED_QUERIES`` streams are timed, one at a time.
        gallery: Patches that are searched, by codes of the same path.
        quality: Quality of all streams.
        separate: A network trained for codes alone.
    """
    modalities = tuple(codec.config.bands)
    streams = {
        (name, m): codec.compress(split.rasters(m), quality)
        for name, split in (("queries", queries), ("gallery", gallery))
        for m in modalities
    }
    own = coder_of(codec, quality)
    paths: dict[str, Callable[[list[bytes], str], Codes]] = {
        "decode_then_encode": lambda s, m: own(_batch(codec.decompress(s)), m),
        "from_latent": codec.hash_stream,
        "stored": lambda s, m: np.concatenate([stored_codes(one, LIMITS)[m] for one in s]),
    }
    if separate is not None:
        other = coder_of(separate, separate.config.steps - 1)
        paths["decode_then_separate"] = lambda s, m: other(_batch(codec.decompress(s)), m)
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for m in modalities:
        for stream in streams["queries", m][:TIMED_QUERIES]:
            for name, path in paths.items():  # all paths of one stream in turn: a busy machine slows them alike
                start = time.perf_counter()
                path([stream], m)
                seconds[name].append(time.perf_counter() - start)
    out = {}
    for name, path in paths.items():
        query: dict[str, Codes] = {}
        stored: dict[str, Codes] = {}
        for m in modalities:
            for codes, held in ((query, streams["queries", m]), (stored, streams["gallery", m])):
                codes[m] = np.concatenate([path(held[i : i + BATCH], m) for i in range(0, len(held), BATCH)])
        found = maps(query, stored, queries, gallery)
        out[name] = {
            "milliseconds_per_query": 1e3 * float(np.median(seconds[name])),
            f"map@{MAP_AT}": float(np.mean(list(found.values()))),
            **{f"map@{MAP_AT}_{direction}": value for direction, value in found.items()},
        }
    return out


def _batch(rasters: Sequence[Raster]) -> PatchBatch:
    """Decoded rasters as a batch; bands that the codec does not have are zero and are not read."""
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
