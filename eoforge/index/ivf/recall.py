"""Measured recall of an IVF index at each number of probed partitions.

Queries are codes of one sensor, looked for among those of the other, in both directions: a query is never a row of what
is searched. The exact answers come from a scan of all codes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from eoforge.index.ivf.table import K
from eoforge.index.search import Codes, HammingIndex

if TYPE_CHECKING:
    import lance

QUERIES = 200
"""Queries per direction."""
ENOUGH = 1.0
"""Recall from which on more partitions are not tried: a lower one is promised with a margin for the few queries."""


def probe_settings(partitions: int) -> list[int]:
    """Numbers of probed partitions whose recall is measured: powers of two, and all."""
    return sorted({*(1 << i for i in range(int(math.log2(partitions)) + 1)), partitions})


def measure(table: lance.LanceDataset, partitions: int, seed: int = 0) -> tuple[int, dict[int, float]]:
    """Number of queries per direction, and the lower recall@10 of both directions by number of probed partitions."""
    width = table.schema.field("code").type.list_size
    samples = _samples(table, width, np.random.Generator(np.random.Philox(key=seed)))
    directions = [(source, target) for source, target in (("s1", "s2"), ("s2", "s1")) if len(samples[source])]
    radius = _exact(table, width, {target: samples[source] for source, target in directions})
    directions = [(source, target) for source, target in directions if target in radius]
    found: dict[int, float] = {}
    for probes in probe_settings(partitions):
        recalls = [
            _recall(table, samples[source], target, radius[target], probes, partitions) for source, target in directions
        ]
        found[probes] = round(float(min(recalls, default=1.0)), 4)
        if found[probes] >= ENOUGH:
            break
    return min((len(samples[source]) for source, _ in directions), default=0), found


def _samples(table: lance.LanceDataset, width: int, rng: np.random.Generator) -> dict[str, Codes]:
    """Codes ``[Q, K/8]`` by sensor, of random rows."""
    count = table.count_rows()
    rows = np.sort(rng.choice(count, min(count, 8 * QUERIES), replace=False))
    drawn = table.take(rows.tolist(), columns=["modality", "code"])
    samples = {}
    for sensor in ("s1", "s2"):
        codes = drawn.filter(pc.equal(drawn.column("modality"), sensor)).column("code").combine_chunks()
        packed = codes.flatten().to_numpy().reshape(-1, width)
        samples[sensor] = packed[rng.permutation(len(packed))[:QUERIES]]
    return samples


def _exact(table: lance.LanceDataset, width: int, queries: dict[str, Codes]) -> dict[str, Codes]:
    """Distances ``[Q, k]`` of the nearest codes of each sensor, by one scan of the table in batches."""
    best: dict[str, Codes] = {}
    for batch in table.scanner(columns=["modality", "code"], batch_size=1 << 18).to_batches():
        for sensor, wanted in queries.items():
            codes = batch.filter(pc.equal(batch.column("modality"), sensor)).column("code")
            if not len(codes):
                continue
            distances, _ = HammingIndex(codes.flatten().to_numpy().reshape(-1, width)).search(wanted, K)
            held = [best[sensor]] if sensor in best else []
            best[sensor] = np.sort(np.concatenate([*held, distances], axis=1), axis=1)[:, :K]
    return best


def _recall(
    table: lance.LanceDataset, queries: Codes, target: str, exact: Codes, probes: int, partitions: int
) -> float:
    """Share of hits that are not farther than the last exact one, over all queries."""
    from eoforge.index.ivf.search import probed

    good = 0
    for query, distances in zip(queries, exact, strict=True):
        size = (len(distances), len(distances))
        rows = probed(table, query, size, f"modality = '{target}'", probes, partitions)
        found = rows.column("_distance").to_numpy()
        good += int(np.count_nonzero(found <= distances[-1]))
    return good / exact.size
