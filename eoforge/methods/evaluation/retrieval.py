"""Evaluation of a bundle that encodes: retrieval within and across sensors, with an untrained and a random baseline.

Queries come from the validation split and the gallery is the test split (the protocol of CSMAE's released code), so a
query is never in the gallery; reBEN's splits are geographically separate. The exact-partner recall queries the test
split by itself: radar patches for their optical partners, and optical patches for their radar partners. Three systems
have the same measures: the trained codes, the same network with initial weights, and random codes. Those of the trained
float embeddings show the loss by binarisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eoforge.data.loading.batch import require
from eoforge.errors import UsageError
from eoforge.index.encode import encode_rows
from eoforge.index.search import HammingIndex
from eoforge.methods import get_method
from eoforge.metrics.bits import BitStatistics, bit_statistics
from eoforge.metrics.retrieval import partner_recall, retrieval_measures
from eoforge.metrics.ties import tie_aware_measures, tie_aware_partner_recall
from eoforge.progress import track
from eoforge.storage.addresses import TableRef, open_table

if TYPE_CHECKING:
    from eoforge.bundle import Bundle
    from eoforge.index.encoder import Encoder

QUERY_SPLIT, GALLERY_SPLIT = "validation", "test"
TRAINED, EMBEDDING, UNTRAINED, RANDOM = "trained", "trained_embedding", "untrained", "random"
CUTOFFS = (5, 10, 20)
TIE_AWARE_QUERIES = 2_048
"""Number of evenly spread queries of the tie-aware measures, whose time grows with queries times gallery."""

_METADATA = ("patch_id", "split", "country", "labels", "label_mask")
_EMBEDDING_BLOCK = 1 << 24  # similarities in memory at once

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Features:
    """Outputs of one system for all evaluated patches of one modality: codes ``[N, K/8]``, optionally embeddings
    ``[N, D]``."""

    codes: npt.NDArray[np.uint8]
    embeddings: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation of retrieval.

    Attributes:
        facts: Bundle, table, splits and counts.
        measures: System -> direction ("s1_to_s2") -> measure -> value.
        bits: Modality -> statistics of the trained codes of the gallery.
        patches: The table, at its version.
        rows: The evaluated rows of the table, ascending.
        metadata: ``patch_id, split, country, labels, label_mask`` of those rows.
        features: Modality -> trained codes and embeddings of those rows.
        history: Figures of the training run per epoch, from the bundle.
    """

    facts: dict[str, Any]
    measures: dict[str, dict[str, dict[str, float]]]
    bits: dict[str, BitStatistics]
    patches: TableRef
    rows: Rows
    metadata: pa.Table
    features: dict[str, Features]
    history: list[dict[str, Any]]

    @property
    def k(self) -> int:
        """Cut-off of the headline figures."""
        return int(self.facts["k"])

    def of_split(self, split: str) -> Rows:
        """Positions within ``rows`` of one split."""
        return np.flatnonzero(np.asarray(self.metadata.column("split").to_pylist()) == split)

    def headline(self) -> dict[str, float]:
        """Partner recall and mAP at Jaccard >= 0.5, across sensors, of codes of all three systems."""
        names = (f"partner_recall@{self.k}", f"map_jaccard50_archive@{self.k}")
        return {
            f"{name}_{direction}_{system}": measures[name]
            for system in (TRAINED, UNTRAINED, RANDOM)
            for direction, measures in self.measures[system].items()
            for name in names
            if f"partner_recall@{self.k}" in measures
        }

    def as_json(self) -> dict[str, Any]:
        """The content of metrics.json."""
        bits = {modality: statistics.summary() for modality, statistics in self.bits.items()}
        return {"facts": self.facts, "measures": self.measures, "bits": bits}


def measure(bundle: Bundle, data: TableRef, *, k: int = 10, device: str | None = None) -> Evaluation:
    """Measures of every system in every direction, from encodings of both splits.

    Args:
        bundle: A bundle of a method that encodes.
        data: Patches; without a version the newest is taken and named.
        k: Cut-off of the headline figures.
        device: Torch device of the encoder.

    Raises:
        UsageError: A split is empty.
        DataRefused: A patch of these splits lacks a sensor or labels.
    """
    patches = open_table(data)
    require(patches, f"split IN ('{QUERY_SPLIT}', '{GALLERY_SPLIT}')", _sensors(bundle), labels=True)
    table = patches.to_table(columns=list(_METADATA)).combine_chunks()
    split = np.asarray(table.column("split").to_pylist())
    rows = np.flatnonzero((split == QUERY_SPLIT) | (split == GALLERY_SPLIT))
    queries, gallery = (np.flatnonzero(split[rows] == name) for name in (QUERY_SPLIT, GALLERY_SPLIT))
    if not len(queries) or not len(gallery):
        raise UsageError(
            f"retrieval needs patches of the splits {QUERY_SPLIT} and {GALLERY_SPLIT}; {data} has {len(queries)} and "
            f"{len(gallery)} of them"
        )
    metadata = table.take(rows)
    method = get_method(bundle.config["method"])
    seed = int(bundle.config["seed"])
    trained = _encode("trained", patches, rows, method.load(bundle, device), keep_embeddings=True)
    systems = {
        TRAINED: trained,
        UNTRAINED: _encode("untrained", patches, rows, method.untrained(bundle, seed, device), keep_embeddings=False),
        RANDOM: {m: Features(_random_codes(f.codes.shape, seed, i)) for i, (m, f) in enumerate(trained.items())},
    }
    cutoffs = tuple(sorted({*CUTOFFS, k}))
    masks = metadata.column("label_mask").to_numpy()
    comparison = _Comparison(masks, queries, gallery, cutoffs, k)
    measures = {name: dict(comparison.by_codes(features)) for name, features in systems.items()}
    measures[EMBEDDING] = dict(comparison.by_embeddings(trained))
    facts = {
        "method": bundle.config["method"],
        "bundle": bundle.uri,
        "bundle_id": bundle.id,
        "patches": str(TableRef(data.uri, patches.version)),
        "query_split": QUERY_SPLIT,
        "queries": len(queries),
        "gallery_split": GALLERY_SPLIT,
        "gallery": len(gallery),
        "partner_split": GALLERY_SPLIT,
        "bits": 8 * next(iter(trained.values())).codes.shape[1],
        "k": k,
        "seed": seed,
    }
    return Evaluation(
        facts=facts,
        measures=measures,
        bits={modality: bit_statistics(features.codes[gallery]) for modality, features in trained.items()},
        patches=TableRef(data.uri, patches.version),
        rows=rows,
        metadata=metadata,
        features=trained,
        history=list(bundle.metrics.get("history", [])),
    )


def _sensors(bundle: Bundle) -> list[str]:
    return [sensor for sensor, bands in bundle.config["bands"].items() if bands]


def _encode(
    what: str, patches: lance.LanceDataset, rows: Rows, encoder: Encoder, *, keep_embeddings: bool
) -> dict[str, Features]:
    codes: dict[str, list[npt.NDArray[np.uint8]]] = {modality: [] for modality in encoder.modalities}
    floats: dict[str, list[npt.NDArray[np.float32]]] = {modality: [] for modality in encoder.modalities}
    with track(f"encoding with the {what} network", total=len(rows)) as progress:
        for block in encode_rows(patches, rows, encoder):
            for modality, (packed, embeddings) in block.outputs.items():
                codes[modality].append(packed)
                if keep_embeddings:
                    floats[modality].append(embeddings)
            progress.advance(block.patches)
    return {
        m: Features(np.concatenate(codes[m]), np.concatenate(floats[m]) if keep_embeddings else None) for m in codes
    }


def _random_codes(shape: tuple[int, ...], seed: int, modality: int) -> npt.NDArray[np.uint8]:
    rng = np.random.Generator(np.random.Philox(key=[seed, modality]))
    return rng.integers(0, 256, shape, dtype=np.uint8)


@dataclass(frozen=True)
class _Comparison:
    """Inputs of the measures that all systems share: label masks of the evaluated rows, queries, gallery, cut-offs."""

    masks: npt.NDArray[np.uint32]
    queries: Rows
    gallery: Rows
    cutoffs: tuple[int, ...]
    k: int

    def by_codes(self, features: dict[str, Features]) -> Iterator[tuple[str, dict[str, float]]]:
        """Direction and measures of codes, results in the order (distance, row)."""
        sample = np.unique(np.linspace(0, len(self.queries) - 1, TIE_AWARE_QUERIES).astype(np.int64))
        partners = np.unique(np.linspace(0, len(self.gallery) - 1, TIE_AWARE_QUERIES).astype(np.int64))
        for source, target in _directions(features):
            query, gallery = features[source].codes, features[target].codes[self.gallery]
            index = HammingIndex(gallery)
            found = index.search(query[self.queries], self.cutoffs[-1])[1]
            out = self._measures(found)
            some = self.queries[sample]
            expected = tie_aware_measures(query[some], self.masks[some], gallery, self.masks[self.gallery], self.k)
            out |= {f"tie_aware_{name}": value for name, value in expected.items()}
            if source != target:
                same_place = query[self.gallery]
                found = index.search(same_place, self.k)[1]
                out[f"partner_recall@{self.k}"] = partner_recall(found, np.arange(len(self.gallery)))
                expected_recall = tie_aware_partner_recall(same_place[partners], gallery, partners, self.k)
                out[f"tie_aware_partner_recall@{self.k}"] = expected_recall
            yield f"{source}_to_{target}", out

    def by_embeddings(self, features: dict[str, Features]) -> Iterator[tuple[str, dict[str, float]]]:
        """Direction and measures of embeddings, by cosine similarity."""
        for source, target in _directions(features):
            query, gallery = _unit(features[source]), _unit(features[target])[self.gallery]
            out = self._measures(_nearest(gallery, query[self.queries], self.cutoffs[-1]))
            if source != target:
                found = _nearest(gallery, query[self.gallery], self.k)
                out[f"partner_recall@{self.k}"] = partner_recall(found, np.arange(len(self.gallery)))
            yield f"{source}_to_{target}", out

    def _measures(self, found: Rows) -> dict[str, float]:
        archive = self.masks[self.gallery]
        return retrieval_measures(self.masks[self.queries], archive[found], archive, self.cutoffs)


def _directions(features: dict[str, Features]) -> Iterator[tuple[str, str]]:
    for source in features:
        for target in features:
            yield source, target


def _unit(features: Features) -> npt.NDArray[np.float32]:
    if features.embeddings is None:
        raise UsageError("expected features with embeddings; these were encoded without")
    length = np.linalg.norm(features.embeddings, axis=1, keepdims=True)
    return features.embeddings / np.maximum(length, np.finfo(np.float32).tiny)


def _nearest(gallery: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], k: int) -> Rows:
    """Rows ``[Q, k']`` of greatest dot product, greatest first; k' = min(k, N)."""
    k = min(k, len(gallery))
    step = max(1, _EMBEDDING_BLOCK // len(gallery))
    parts = []
    for start in range(0, len(queries), step):
        distance = -(queries[start : start + step] @ gallery.T)
        candidates = np.sort(np.argpartition(distance, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(np.take_along_axis(distance, candidates, axis=1), axis=1, kind="stable")
        parts.append(np.take_along_axis(candidates, order, axis=1))
    return np.concatenate(parts)
