"""Benchmark of exact top-k search over packed codes: ``HammingIndex`` against ``IndexBinaryFlat`` of faiss.

Both search the same codes in the same run, in turns; the best of several rounds counts, by wall time. Distances must be
equal; the rows of ours are in the order (distance, row), for which faiss gives no word. With a filter, faiss gets its
bitmap selector. ``clustered`` codes are near a few centres, as trained codes are, so that ties are many.

    python -m benchmarks.index.search [--codes 1100000] [--bits 128] [--k 100] [--rounds 5] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from eoforge.index.search import HammingIndex

QUERIES = (1, 64, 1024)
ALLOWED = 0.5
CENTRES = 1_000

Codes = npt.NDArray[np.uint8]


def random_codes(rng: np.random.Generator, rows: int, width: int) -> Codes:
    """Codes of independent bits."""
    return rng.integers(0, 256, (rows, width), dtype=np.uint8)


def clustered_codes(rng: np.random.Generator, rows: int, width: int) -> Codes:
    """Codes around centres, with one bit in sixteen flipped."""
    centres = random_codes(rng, CENTRES, width)[rng.integers(0, CENTRES, rows)]
    noise = random_codes(rng, rows, width)
    for _ in range(3):
        noise &= random_codes(rng, rows, width)
    return centres ^ noise


def best_ms(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Minimum time in ms of each variant over ``rounds`` rounds, after one warm-up round."""
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def compare(codes: Codes, queries: Codes, k: int, rounds: int, allow: npt.NDArray[np.bool_] | None) -> dict[str, float]:
    """Time in ms of both, and the ratio of faiss to eoforge.

    Raises:
        SystemExit: The distances differ.
    """
    ours, peer = HammingIndex(codes), faiss.IndexBinaryFlat(8 * codes.shape[1])
    peer.add(codes)
    # A variable keeps the bitmap alive: the selector of faiss does not.
    bitmap = None if allow is None else np.packbits(allow, bitorder="little")
    params = None if bitmap is None else faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))  # type: ignore[arg-type, call-arg]
    if not np.array_equal(ours.search(queries, k, allow)[0], peer.search(queries, k, params=params)[0]):
        raise SystemExit("distances differ from faiss's")
    best = best_ms(
        {
            "eoforge_ms": lambda: ours.search(queries, k, allow),
            "faiss_ms": lambda: peer.search(queries, k, params=params),
        },
        rounds,
    )
    return {
        **{name: round(ms, 3) for name, ms in best.items()},
        "ratio": round(best["faiss_ms"] / best["eoforge_ms"], 3),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Exact Hamming search: eoforge against faiss.")
    parser.add_argument("--codes", type=int, default=1_100_000)
    parser.add_argument("--bits", type=int, default=128)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="file for the figures as JSON")
    options = parser.parse_args()
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    allow = rng.random(options.codes) < ALLOWED
    cases = []
    for kind, make in (("random", random_codes), ("clustered", clustered_codes)):
        codes = make(rng, options.codes, options.bits // 8)
        for count in QUERIES:
            nearby = random_codes(rng, count, options.bits // 8) & np.uint8(0x11)
            queries = codes[rng.integers(0, len(codes), count)] ^ nearby
            for filtered in (False, True):
                figures = compare(codes, queries, options.k, options.rounds, allow if filtered else None)
                cases.append({"codes": kind, "queries": count, "filtered": filtered, **figures})
                print(cases[-1], flush=True)
    result = {
        "rows": options.codes,
        "bits": options.bits,
        "k": options.k,
        "threads": faiss.omp_get_max_threads(),
        "allowed_by_filter": ALLOWED,
        "cases": cases,
    }
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n")
    else:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
