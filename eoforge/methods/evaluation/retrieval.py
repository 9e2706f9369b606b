"""Evaluation of a bundle that encodes: retrieval within and across sensors, next to what chance and no training give.

Queries come from the validation split and the gallery is the test split (the protocol of CSMAE's released code), so a
query is never in the gallery; reBEN's splits are apart geographically. The exact-partner recall asks within the test
split: the radar patch for its optical partner and the other way round. Three systems are measured alike: the trained
codes, the same network with fresh weights, and random codes; the trained float embeddings stand beside them, to show
what the binarisation costs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eoforge.errors import UsageError
from eoforge.index.encode import encode_rows
from eoforge.index.search import HammingIndex
from eoforge.methods import get_method
from eoforge.metrics.bits import BitStatistics, bit_statistics
from eoforge.metrics.retrieval import partner_recall, retrieval_measures
from eoforge.metrics.ties import tie_aware_measures, tie_aware_partner_recall
from eoforge.progress import track
from eoforge.storage.addresses import TableRef, normalise, open_table
from eoforge.storage.objects import ObjectStore

if TYPE_CHECKING:
    from eoforge.bundle import Bundle
    from eoforge.index.encoder import Encoder

QUERY_SPLIT, GALLERY_SPLIT = "validation", "test"
TRAINED, EMBEDDING, UNTRAINED, RANDOM = "trained", "trained_embedding", "untrained", "random"
CUTOFFS = (5, 10, 20)
MORE: dict[str, str] = {"rs_jcif": "eoforge.methods.rs_jcif.evaluate:evaluate_codec"}
"""Method whose evaluation says more than retrieval -> what measures that, and writes it beside the rest."""
TIE_AWARE_QUERIES = 2_048
"""Queries, spread evenly, that tie-aware expectations are taken over: their time grows with queries times gallery."""

_METADATA = ("patch_id", "split", "country", "labels", "label_mask")
_EMBEDDING_BLOCK = 1 << 24  # similarities in memory at once

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Features:
    """All evaluated patches in one modality through one system: codes ``[N, K/8]`` and, if kept, floats ``[N, D]``."""

    codes: npt.NDArray[np.uint8]
    embeddings: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured.

    Attributes:
        facts: What was evaluated on what.
        measures: System -> direction ("s1_to_s2") -> measure -> value.
        bits: Modality -> statistics of the trained codes of the gallery.
        patches: The table, at its version.
        rows: Its rows that took part, ascending.
        metadata: ``patch_id, split, country, labels, label_mask`` of those rows.
        features: Modality -> trained codes and embeddings of those rows.
        history: What the training run logged per epoch, from the bundle.
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


def evaluate(
    bundle: Bundle, data: TableRef, *, k: int = 10, out: str | None = None, device: str | None = None
) -> dict[str, Any]:
    """Evaluates a bundle; with ``out`` writes ``metrics.json`` and ``report.html`` there.

    Args:
        bundle: A bundle of any method that encodes.
        data: Patches; without a version the newest is taken and named.
        k: Cut-off of the headline figures; 5, 10 and 20 are measured too.
        out: Folder or ``s3://`` prefix; not the bundle's own, which is sealed.
        device: Torch device of the encoder.

    Returns:
        Facts, headline figures and, with ``out``, where the files are; flat.

    Raises:
        UsageError: A split is empty, or ``out`` is the bundle itself.
    """
    if out is not None and normalise(out) == bundle.uri:
        raise UsageError(f"a bundle is sealed: write the evaluation elsewhere than {bundle.uri}")
    measured = measure(bundle, data, k=k, device=device)
    result = {**measured.facts, **measured.headline()}
    if (more := MORE.get(bundle.config["method"])) is not None:
        module, _, name = more.partition(":")
        result |= getattr(import_module(module), name)(bundle, measured.patches, out, device)
    if out is not None:
        from eoforge.methods.evaluation.report import retrieval_report_html

        store = ObjectStore(out)
        store.put("metrics.json", (json.dumps(measured.as_json(), indent=2, sort_keys=True) + "\n").encode())
        store.put("report.html", retrieval_report_html(measured).encode())
        result["out"] = store.root
    return result


def measure(bundle: Bundle, data: TableRef, *, k: int = 10, device: str | None = None) -> Evaluation:
    """Encodes both splits with all systems and measures every direction; see :func:`evaluate`."""
    patches = open_table(data)
    everything = patches.to_table(columns=list(_METADATA)).combine_chunks()
    split = np.asarray(everything.column("split").to_pylist())
    rows = np.flatnonzero((split == QUERY_SPLIT) | (split == GALLERY_SPLIT))
    queries, gallery = (np.flatnonzero(split[rows] == name) for name in (QUERY_SPLIT, GALLERY_SPLIT))
    if not len(queries) or not len(gallery):
        raise UsageError(
            f"evaluation asks {QUERY_SPLIT} patches of {GALLERY_SPLIT} patches; {data} has {len(queries)} and "
            f"{len(gallery)} of them"
        )
    metadata = everything.take(rows)
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
    task = _Task(masks, queries, gallery, cutoffs, k)
    measures = {name: dict(task.by_codes(features)) for name, features in systems.items()}
    measures[EMBEDDING] = dict(task.by_embeddings(trained))
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
            progress.advance(len(next(iter(block.outputs.values()))[0]))
    return {
        m: Features(np.concatenate(codes[m]), np.concatenate(floats[m]) if keep_embeddings else None) for m in codes
    }


def _random_codes(shape: tuple[int, ...], seed: int, modality: int) -> npt.NDArray[np.uint8]:
    rng = np.random.Generator(np.random.Philox(key=[seed, modality]))
    return rng.integers(0, 256, shape, dtype=np.uint8)


@dataclass(frozen=True)
class _Task:
    """What is asked of every system: label masks of all evaluated rows, and which of them ask and answer."""

    masks: npt.NDArray[np.uint32]
    queries: Rows
    gallery: Rows
    cutoffs: tuple[int, ...]
    k: int

    def by_codes(self, features: dict[str, Features]) -> Iterator[tuple[str, dict[str, float]]]:
        """Direction and measures, for codes in the order (distance, row)."""
        sample = np.unique(np.linspace(0, len(self.queries) - 1, TIE_AWARE_QUERIES).astype(np.int64))
        partners = np.unique(np.linspace(0, len(self.gallery) - 1, TIE_AWARE_QUERIES).astype(np.int64))
        for source, target in _directions(features):
            asking, answering = features[source].codes, features[target].codes[self.gallery]
            index = HammingIndex(answering)
            found = index.search(asking[self.queries], self.cutoffs[-1])[1]
            out = self._measures(found)
            some = self.queries[sample]
            expected = tie_aware_measures(asking[some], self.masks[some], answering, self.masks[self.gallery], self.k)
            out |= {f"tie_aware_{name}": value for name, value in expected.items()}
            if source != target:
                same_place = asking[self.gallery]
                found = index.search(same_place, self.k)[1]
                out[f"partner_recall@{self.k}"] = partner_recall(found, np.arange(len(self.gallery)))
                expected_recall = tie_aware_partner_recall(same_place[partners], answering, partners, self.k)
                out[f"tie_aware_partner_recall@{self.k}"] = expected_recall
            yield f"{source}_to_{target}", out

    def by_embeddings(self, features: dict[str, Features]) -> Iterator[tuple[str, dict[str, float]]]:
        """Direction and measures, for floats by cosine similarity."""
        for source, target in _directions(features):
            asking, answering = _unit(features[source]), _unit(features[target])[self.gallery]
            out = self._measures(_nearest(answering, asking[self.queries], self.cutoffs[-1]))
            if source != target:
                found = _nearest(answering, asking[self.gallery], self.k)
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
        raise UsageError("these features were made without embeddings")
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
