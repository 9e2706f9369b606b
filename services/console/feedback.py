"""Relevance feedback: hits that a person marks as similar or dissimilar re-rank the answer, by Rocchio's rule on codes.

With codes as vectors of -1 and 1, the query becomes ``a q + b mean(similar) - c mean(dissimilar)``, and hits are
ordered by its inner product with their codes. Source: J. Rocchio, Relevance feedback in information retrieval, 1971;
weights as in C. Manning, P. Raghavan and H. Schuetze, Introduction to Information Retrieval, 2008, section 9.1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from eoforge.client import Hit, RetrievalClient
from services.console.query import Query

QUERY_WEIGHT, SIMILAR_WEIGHT, DISSIMILAR_WEIGHT = 1.0, 0.75, 0.15
POOL = 200
"""Neighbours of the query, and of each similar hit, that are ranked anew."""
RULE = (
    f"Rocchio's rule on codes, weights {QUERY_WEIGHT:g}, {SIMILAR_WEIGHT:g} and {DISSIMILAR_WEIGHT:g}, over the {POOL} "
    "nearest of the query and of each similar hit."
)


def reranked(client: RetrievalClient, query: Query) -> list[Hit]:
    """Hits of a query in the order that its marks give; distances stay those to the query.

    Args:
        client: Of the caller.
        query: With marks.

    Raises:
        EoforgeError: A marked patch is not in the index, or as a search raises.
    """
    own = query.code or _code_of(client, query.patch_id, query.source)
    up = [_code_of(client, name, query.target) for name in query.up]
    down = [_code_of(client, name, query.target) for name in query.down]
    pool: dict[str, Hit] = {}
    for code in (own, *up):
        for hit in client.search(code=code, target=query.target, k=POOL, filter=query.filter, codes=True):
            pool.setdefault(hit.patch_id, hit)
    if not pool:
        return []
    hits = list(pool.values())
    codes = np.stack([_bits(hit.code) for hit in hits])
    wanted = QUERY_WEIGHT * _bits(own) + SIMILAR_WEIGHT * _mean(up) - DISSIMILAR_WEIGHT * _mean(down)
    scores = np.round((codes @ wanted).astype(np.float64), 4)  # equal ones must be equal: names break ties
    distances = np.count_nonzero(codes != _bits(own), axis=1)
    order = sorted(range(len(hits)), key=lambda i: (-scores[i], hits[i].patch_id))[: query.k]
    return [replace(hits[i], distance=int(distances[i])) for i in order]


def _code_of(client: RetrievalClient, patch_id: str, sensor: str) -> bytes:
    """Code of a patch: its nearest neighbour of the same sensor has it, whichever of several with distance 0 it is."""
    return client.search(patch_id=patch_id, source=sensor, target=sensor, k=1, codes=True)[0].code


def _bits(code: bytes) -> npt.NDArray[np.float32]:
    """Code as ``[K]`` of -1 and 1."""
    return np.unpackbits(np.frombuffer(code, dtype=np.uint8), bitorder="little").astype(np.float32) * 2 - 1


def _mean(codes: Sequence[bytes]) -> npt.NDArray[np.float32] | float:
    return np.mean([_bits(code) for code in codes], axis=0) if codes else 0.0
