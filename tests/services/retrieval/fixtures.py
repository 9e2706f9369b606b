"""Fixtures of the retrieval tests: a small archive with an index; real tables and bundle, a fixed projection as model.

The projection replaces a trained network, so that tests are fast, can block the encoder, and get equal codes for any
batch size.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
import torch
from rasterio.io import MemoryFile

from eoforge.bundle import Bundle, write_bundle
from eoforge.data.bands import GROUPS, MODALITIES, S1_10M, S2_BANDS_10
from eoforge.data.loading.batch import PatchBatch
from eoforge.data.records import PatchPair, record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.index.build import build_index
from eoforge.storage.addresses import TableRef
from tests.methods.fakes import RegisteredMethod

BITS, DIM, CELLS = 64, 8, 4
METHOD = "test_projection"
FIRST, ALL = 40, 48


class Projection:
    """Means over a 4 x 4 grid of every band, projected by a fixed matrix; stands still while its gate is closed."""

    def __init__(self) -> None:
        self.bits, self.embedding_dim, self.device = BITS, DIM, "cpu"
        self.modalities = tuple(MODALITIES)
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Calls begin and then stand still until the gate is opened, at the end of the block at the latest."""
        self.batches.clear()
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()

    def encode(self, batch: PatchBatch, modality: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        self.batches.append(len(batch))
        self.gate.wait()
        columns = ["s1"] if modality == "s1" else ["s2_10m", "s2_20m"]
        features = np.concatenate([_cells(getattr(batch, c).numpy().astype(np.float64)) for c in columns], axis=1)
        rng = np.random.Generator(np.random.Philox(key=[features.shape[1], 1]))
        weights = rng.normal(size=(features.shape[1], BITS))
        centred = features - features.mean(axis=1, keepdims=True)
        logits = np.stack([row @ weights for row in centred])  # row by row: independent of the batch
        return np.packbits(logits > 0, axis=1, bitorder="little"), logits[:, :DIM].astype(np.float32)


def _cells(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    n, c, side, _ = x.shape
    return x.reshape(n, c, CELLS, side // CELLS, CELLS, side // CELLS).mean(axis=(3, 5)).reshape(n, -1)


class ProjectionMethod(RegisteredMethod):
    """The method that ``get_method`` finds under ``METHOD`` in these tests."""

    name = METHOD

    def __init__(self) -> None:
        self.encoder = Projection()

    def load(self, bundle: Bundle, device: str | None = None) -> Projection:
        bundle.weights()
        return self.encoder

    def untrained(self, bundle: Bundle, seed: int | None = None, device: str | None = None) -> Projection:
        return self.encoder


PROJECTION = ProjectionMethod()


@dataclass(frozen=True)
class RetrievalFixture:
    """URIs of the tables, the pairs in them, and the encoder behind the codes."""

    patches: str
    codes: str
    bundle: Bundle
    pairs: tuple[PatchPair, ...]
    encoder: Projection

    def pair(self, patch_id: str) -> PatchPair:
        return next(p for p in self.pairs if p.meta.patch_id == patch_id)

    def grow(self) -> None:
        """Adds the remaining patches and indexes them: two new versions of the codes."""
        table = _append(self.patches, self.pairs[FIRST:])
        build_index(self.bundle.uri, table, self.codes, self.encoder)


def make_retrieval_fixture(folder: Path, given: Sequence[PatchPair] = ()) -> RetrievalFixture:
    """Writes the first patches, or those that are given, the bundle and their index below ``folder``."""
    pairs = tuple(given or synthetic_pairs(ALL, seed=7))
    patches, codes = str(folder / "patches.lance"), str(folder / "codes.lance")
    table = _append(patches, pairs[:FIRST])
    bundle = write_bundle(
        str(folder / "runs"),
        weights={"none": torch.zeros(1)},
        config={
            "method": METHOD,
            "config": {},
            "bands": {"s1": list(S1_10M.bands), "s2": list(S2_BANDS_10)},
            "normalisation": {},
            "interpolation": "nearest",
            "bits": BITS,
            "embedding_dim": DIM,
            "seed": 0,
            "patches": {"uri": patches, "version": table.version},
            "code_revision": "test",
        },
        metrics={},
        readme="A projection for tests.\n",
    )
    build_index(bundle.uri, table, codes, PROJECTION.encoder)
    return RetrievalFixture(patches, codes, bundle, pairs, PROJECTION.encoder)


def bands_of(pair: PatchPair, modality: str) -> Mapping[str, npt.NDArray[Any]]:
    """The image of one sensor by band name, native grids."""
    wanted = [g for g in GROUPS if set(g.bands) <= set(MODALITIES[modality])]
    return {name: getattr(pair, g.column)[i] for g in wanted for i, name in enumerate(g.bands)}


def _append(uri: str, pairs: Sequence[PatchPair]) -> TableRef:
    mode = "append" if Path(uri).exists() else "create"
    table = lance.write_dataset(record_batch(pairs), uri, schema=PATCHES, mode=mode)
    return TableRef(uri, table.version)


def write_tiff(bands: dict[str, Any], *, names: bool = True, **profile: Any) -> bytes:
    """A GeoTIFF of bands on one grid."""
    first = next(iter(bands.values()))
    height, width = first.shape
    shape = {"height": height, "width": width, "count": len(bands), "dtype": first.dtype}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **(shape | profile)) as sink:
            for i, (name, samples) in enumerate(bands.items(), start=1):
                sink.write(samples, i)
                if names:
                    sink.set_band_description(i, name)
        return bytes(memory.read())
